"""The page is complete in itself, sound HTML, and shows whatever a run folder holds as text, never as code."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from heterotune.report import page as page_module
from heterotune.report.page import Page, Section, Table, draw, write_page, write_plots
from heterotune.report.run_page import run_page
from heterotune.report.run_record import read_run

CSS = Path(page_module.__file__).parent / "page_template" / "page.css"
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Outline(HTMLParser):
    """Collects what a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.headings += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
                self.references.append((tag, value or ""))
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on"), (tag, name)

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


def written(path: Path) -> str:
    page = run_page(read_run(path))
    return write_page(page, draw(page))


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    """The page of a whole run, drawn once."""
    return {}


@pytest.fixture
def text(make_run, drawn) -> str:
    if not drawn:
        drawn["text"] = written(make_run())
    return drawn["text"]


def test_nothing_outside_of_the_file_is_referred_to(text) -> None:
    outline = Outline(text)
    assert outline.references and all(value.startswith(("#", "data:")) for _, value in outline.references)
    assert not {"iframe", "object", "embed", "img", "base"} & set(outline.tags)
    code = " ".join(words for tag, words in outline.texts if tag in ("style", "script"))
    assert not re.search(r"@import|https?:|//[a-z]|fetch\(|XMLHttpRequest|WebSocket|import\(", code)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= set(re.findall(r"url\((#[^)]*)\)", text))
    assert "default-src 'none'" in text


def test_the_html_is_sound(text) -> None:
    outline = Outline(text)
    assert outline.open == [] and len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert outline.tags.count("figure") == outline.tags.count("svg") == outline.tags.count("figcaption") >= 10
    inside = {value for _, value in outline.references if value.startswith("#") and value != "#"}
    assert {value[1:] for value in inside} <= set(outline.ids)


def test_every_section_of_the_issue_is_there(text) -> None:
    for name in ("results", "learning", "bytes", "memory", "conflicts", "data", "time", "config", "environment"):
        assert f'<section id="{name}"' in text and f'<a href="#{name}">' in text
    assert "embedded:stdlib" in text and "cd" * 32 in text and "ef" * 32 in text


def test_what_a_run_folder_holds_is_text_and_never_code(make_run) -> None:
    path, evil = make_run(), "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    (path / "failure.json").write_text(json.dumps({"mpi_rank": 0, "text": f"{evil}\n{evil}"}))
    (path / "config.yaml").write_text(
        json.dumps({"name": evil, "strategy": evil, "rounds": 2, "fleet": [{"name": evil}]})
    )
    with (path / "metrics.jsonl").open("a") as file:
        for line in ({"name": "loss/eval", "model_type": evil}, {"name": evil}, {"name": "cmga/cosine", "group": evil}):
            file.write(json.dumps({"round": 3, "value": 0.5, "unit": evil, "pair": f"{evil}:a"} | line) + "\n")
    text = written(path)
    outline = Outline(text)
    assert outline.tags.count("script") == 1 and "img" not in outline.tags
    assert "alert(1)" not in "".join(words for tag, words in outline.texts if tag == "script")
    assert "&lt;img src=x onerror=alert(2)&gt;" in text


def test_a_failed_run_says_so_first(make_bare_run) -> None:
    path = make_bare_run()
    (path / "failure.json").write_text(json.dumps({"mpi_rank": 1, "text": "Traceback\nMemoryError: no more"}))
    text = written(path)
    assert "This run failed: MemoryError: no more" in text and '<span class="badge failed">' in text


def test_a_run_that_has_only_begun_has_a_page(make_run) -> None:
    path = make_run(compare_with=[])
    for name in ("metrics.jsonl", "ledger.jsonl", "memory.jsonl", "summary.json", "spans.json", "data.json"):
        (path / name).unlink()
    text = written(path)
    assert "There is no metrics.jsonl" in text and "0 of 2" in text and "`heterotune resume` goes on" in text
    assert "<svg" not in text


def test_links_are_left_out_where_they_would_make_the_page_too_large(make_bare_run, monkeypatch) -> None:
    monkeypatch.setattr(page_module, "_LARGEST_LINK_BYTES", 100)
    text = written(make_bare_run())
    assert "Too large for a link here: --plots DIR writes it." in text and 'download="learning-curves.svg"' not in text


def test_every_plot_becomes_three_files(make_bare_run, tmp_path) -> None:
    page = run_page(read_run(make_bare_run()))
    pictures = draw(page, png=True)
    paths = list(write_plots(pictures, tmp_path / "new" / "plots"))
    assert {path.name for path in paths} == {f"{name}.{end}" for name in pictures for end in ("svg", "png", "csv")}
    assert all(path.stat().st_size > 20 for path in paths)


def test_a_section_with_nothing_says_why() -> None:
    page = Page("t", "s", "", "", [Section("x", "X", empty="Nothing here."), Section("y", "Y", tables=[_table()])])
    text = write_page(page, {})
    assert '<p class="empty">Nothing here.</p>' in text and text.count("empty") < 5
    assert '<td class="word">two</td><td>3</td>' in text


def _table() -> Table:
    return Table("c", ("a", "b", "n"), [("one", "two", "3")], num_words=2)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_the_paper(theme) -> None:
    """Contrast of at least 4.5, as WCAG 2 asks for text."""
    blocks = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", line)) for line in CSS.read_text().splitlines()]
    light, dark = (block for block in blocks[:3] if block)
    found = light if theme == "light" else dark
    for paper in ("paper", "raised"):
        for name in ("ink", "muted", "accent", "good", "bad"):
            assert _contrast(found[name], found[paper]) >= 4.5, (name, paper)
    assert _contrast(found["warn"], found["warn-paper"]) >= 4.5


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
