"""Files and folders as tables, and what is said about those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.config.data_options import SourceEntry
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


def _read(source: object, root: str | None = None) -> tuple:
    return read_tables(SourceEntry.model_validate(source), setting=SETTING, root=root)


def test_tab_separated_files_are_tables(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("question\tanswer\nwhy, then\tso\n")
    (table,) = read_tables(str(tmp_path / "rows.tsv"), setting=SETTING)
    assert {name: list(values) for name, values in table.columns.items()} == {
        "question": ["why, then"],
        "answer": ["so"],
    }


def test_a_pattern_picks_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("train_1", "train_2", "test"):
        _write(tmp_path / f"{name}.json", "json")
    tables = _read({"path": "here", "files": "train_*.json"}, root=str(_renamed(tmp_path)))
    assert [table.file for table in tables] == ["train_1", "train_2"]
    with pytest.raises(DataError, match=r"the folder holds no .* file that fits x\*"):
        _read({"path": str(tmp_path / "here"), "files": "x*"})
    with pytest.raises(DataError, match=r"data\.source\.files = /x\*: no pattern of file names"):
        _read({"path": str(tmp_path / "here"), "files": "/x*"})


def _renamed(folder: Path) -> Path:
    (folder / "here").mkdir()
    for file in list(folder.glob("*.json")):
        file.rename(folder / "here" / file.name)
    return folder


def test_special_characters_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    path = _write(tmp_path / "a[1]" / "b*c[x].json", "json")
    (table,) = read_tables(str(path), setting=SETTING)
    assert list(table.columns["question"]) == ["why", "who"]


def test_aligned_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "seq.in").write_text("pay\u2028 me\n\nfly\n")
    (tmp_path / "train" / "label").write_text("bank\nnone\ntravel\n")
    (table,) = _read({"lines": {"query": "train/seq.in", "intent": "train/label"}}, root=str(tmp_path))
    assert table.file == "train"
    assert list(table.columns["query"]) == ["pay\u2028 me", "", "fly"]
    assert list(table.columns["intent"]) == ["bank", "none", "travel"]


def test_files_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n2\n")
    (tmp_path / "b").write_text("1\n")
    with pytest.raises(
        DataError, match=r"data\.source\.lines: the files differ in their numbers of lines \(x 2, y 1\)"
    ):
        _read({"lines": {"x": "a", "y": "b"}}, root=str(tmp_path))
    with pytest.raises(DataError, match=r"data\.source\.lines\.y = c: no such file"):
        _read({"lines": {"x": "a", "y": "c"}}, root=str(tmp_path))
    (tmp_path / "empty").write_text("")
    (table,) = _read({"lines": {"x": "empty"}}, root=str(tmp_path))
    assert table.num_rows == 0


def test_text_is_cut_as_the_run_file_says(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ANN: hi\nyou\n\nBEN: oh\n")
    rows = {
        cut: list(_read({"path": "play.txt", "cut": cut}, root=str(tmp_path))[0].columns["text"])
        for cut in ("auto", "blank_lines", "lines", "files")
    }
    assert rows["auto"] == rows["blank_lines"] == ["ANN: hi\nyou", "BEN: oh\n"]
    assert rows["lines"] == ["ANN: hi", "you", "", "BEN: oh"]
    assert rows["files"] == ["ANN: hi\nyou\n\nBEN: oh\n"]


def test_a_pattern_finds_fields_in_text(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ANN: hi\n\nnobody\n\nBEN: oh\n")
    pattern = r"^(?P<speaker>[^\n:]+):\s*(?P<first>\w+)"
    (table,) = _read({"path": "play.txt", "pattern": pattern}, root=str(tmp_path))
    assert list(table.columns["speaker"]) == ["ANN", None, "BEN"]
    assert list(table.columns["first"]) == ["hi", None, "oh"]
    assert list(table.columns["first_line"]) == ["ANN: hi", "nobody", "BEN: oh"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "missing \\)"),
        ("abc", "it has no named group"),
        ("(?P<a>x)(y)", "unnamed groups"),
        ("(?=x)(?P<a>y)", "invalid"),
    ],
)
def test_a_pattern_that_finds_nothing_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "play.txt").write_text("ANN: hi\n")
    with pytest.raises(DataError, match=rf"data\.source\.pattern = .*: .*{message}"):
        _read({"path": "play.txt", "pattern": pattern}, root=str(tmp_path))


def test_a_pattern_takes_linear_time(tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text("a" * 100_000 + "\n")
    (table,) = _read({"path": "evil.txt", "pattern": "^(?P<x>(?P<y>a*)*)*$b"}, root=str(tmp_path))
    assert list(table.columns["x"]) == [None]


def test_saved_data_sets_are_read_with_their_split(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "two")
    assert list(_read({"path": "one"}, root=str(tmp_path))[0].columns["answer"]) == ["so", "me"]
    assert list(_read({"path": "two"}, root=str(tmp_path))[0].columns["answer"]) == ["so", "me"]
    assert list(_read({"path": "two", "split": "test"}, root=str(tmp_path))[0].columns["answer"]) == ["me"]
    with pytest.raises(DataError, match=r"data\.source\.split = dev: .*two has no such split. There is: train, test"):
        _read({"path": "two", "split": "dev"}, root=str(tmp_path))
    (tmp_path / "two" / "dataset_dict.json").write_text("[]")
    with pytest.raises(DataError, match=r"two: the saved data set cannot be read"):
        _read({"path": "two"}, root=str(tmp_path))


@pytest.mark.parametrize("key", ["split", "config", "revision"])
def test_files_take_no_options_of_the_hub(tmp_path: Path, key: str) -> None:
    path = _write(tmp_path / "rows.json", "json")
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=rf"data\.source\.{key} is for hub data sets, and .* is a file or folder"):
            _read({"path": str(place), key: "test"})


def test_hub_options_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(hub_id: str, **options: str) -> datasets.Dataset:
        assert (hub_id, options) == ("o/n", {"split": "test", "name": "main", "revision": "v2"})
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    (table,) = _read({"path": "o/n", "config": "main", "split": "test", "revision": "v2"})
    assert table.num_rows == 2
