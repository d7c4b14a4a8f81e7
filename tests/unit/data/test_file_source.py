"""Files and folders as tables, and what is said about those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.data.file_source import read_tables
from heterotune.errors import DataError

ROWS = [{"question": "why", "answer": "so"}, {"question": "who", "answer": "me"}]
SETTING = "data.source"

pytestmark = pytest.mark.usefixtures("datasets_cache")


def _write(path: Path, kind: str) -> Path:
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "csv":
        path.write_text("question,answer\nwhy,so\nwho,me\n")
    else:
        import pandas

        pandas.DataFrame(ROWS).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_kind_of_table_gives_the_same_columns(tmp_path: Path, kind: str) -> None:
    (table,) = read_tables(str(_write(tmp_path / f"rows.{kind}", kind)), setting=SETTING)
    assert table.file == "rows"
    assert {name: list(values) for name, values in table.columns.items()} == {
        "question": ["why", "who"],
        "answer": ["so", "me"],
    }


def test_a_text_file_is_cut_at_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ROMEO:\nBut soft!\n\nJULIET:\nAy me!\n \n\n\nROMEO:\nShe speaks.\n")
    (table,) = read_tables(str(tmp_path / "play.txt"), setting=SETTING)
    assert list(table.columns["first_line"]) == ["ROMEO:", "JULIET:", "ROMEO:"]
    assert table.columns["text"][1] == "JULIET:\nAy me!"


def test_a_folder_of_text_is_one_row_a_file_and_empty_files_are_left_out(tmp_path: Path) -> None:
    for name, text in {"b.txt": "two\n\nparts\n", "a.txt": "one\n", "c.txt": "", "sub/d.txt": "four\n"}.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(text)
    tables = read_tables(str(tmp_path / "texts"), setting=SETTING)
    assert [(table.file, list(table.columns["text"])) for table in tables] == [
        ("a", ["one\n"]),
        ("b", ["two\n\nparts\n"]),
        ("sub/d", ["four\n"]),
    ]


def test_a_folder_of_tables_is_one_table_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("second", "first"):
        _write(tmp_path / "rows" / f"{name}.json", "json")
    assert [table.file for table in read_tables(str(tmp_path / "rows"), setting=SETTING)] == ["first", "second"]


def test_an_empty_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("")
    assert read_tables(str(tmp_path / "rows.json"), setting=SETTING) == ()


@pytest.mark.parametrize("source", ["./gone", "rows.json", "/no/such/folder", "gone", "a/b/c"])
def test_a_missing_file_is_named(source: str) -> None:
    with pytest.raises(DataError, match=rf"data\.public = {source}: no such file or folder"):
        read_tables(source, setting="data.public")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seq.in").write_text("hello")
    with pytest.raises(DataError, match=r"seq\.in: not a \.json/\.jsonl/.*Convert"):
        read_tables(str(tmp_path / "seq.in"), setting=SETTING)


def test_a_folder_without_known_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("nothing")
    with pytest.raises(DataError, match=r"the folder holds no \.json/"):
        read_tables(str(tmp_path), setting=SETTING)


def test_a_folder_of_mixed_kinds_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.json", "json")
    _write(tmp_path / "b.csv", "csv")
    with pytest.raises(DataError, match="the folder mixes csv and json files"):
        read_tables(str(tmp_path), setting=SETTING)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.json", b'{"a": 1}\n{broken'),
        ("none.json", b"[]"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n"),
        ("short.parquet", b"PAR"),
        ("binary.txt", b"\xff\xfe\x00abc"),
    ],
)
def test_an_unreadable_file_is_named_with_the_cause(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.source: .*{name} cannot be read as \w+ \(.+\)"):
        read_tables(str(tmp_path / name), setting=SETTING)


def test_an_unreadable_file_among_many_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="one of the 2 files in .* cannot be read as text"):
        read_tables(str(tmp_path), setting=SETTING)


def test_a_hub_data_set_gives_its_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(hub_id: str, split: str) -> datasets.Dataset:
        assert (hub_id, split) == ("owner/name", "train")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (table,) = read_tables("owner/name", setting=SETTING)
    assert (table.file, list(table.columns["answer"])) == ("owner/name", ["so", "me"])


def test_a_hub_data_set_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"owner/name: no local file, and no hub data set that can be fetched .offline"):
        read_tables("owner/name", setting=SETTING)


def test_progress_bars_are_switched_back_on(tmp_path: Path) -> None:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    enable_progress_bars()
    read_tables(str(_write(tmp_path / "rows.json", "json")), setting=SETTING)
    assert not are_progress_bars_disabled()
    disable_progress_bars()
    read_tables(str(tmp_path / "rows.json"), setting=SETTING)
    assert are_progress_bars_disabled()
    enable_progress_bars()
