"""Links between pages lead somewhere, and the index of docs/ names every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ds_configs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def links_of(page: Path) -> list[str]:
    """Return the targets of a page's links to other files of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [target for target in links_of(page) if not (page.parent / target).exists()] == []


def anchors_of(page: Path) -> set[str]:
    """Return what a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_a_page_names_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s:]+\.md)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if target[1] not in anchors_of(page.parent / target[0])] == []


def test_the_index_names_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(links_of(ROOT / "docs" / "README.md")) == set(), "add a line to docs/README.md"


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](b.md#part) ![c](d/e.png) [web](https://x.y) [here](#part)")
    assert links_of(page) == ["b.md", "d/e.png"]
