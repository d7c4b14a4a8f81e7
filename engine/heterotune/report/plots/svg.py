"""matplotlib's SVG made small, and fit to stand in a page: unique ids, the page's colours, no outside reference."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from heterotune.report.plots.colors import VARIABLES

CELL = "cell-"
"""Ids that begin with this are kept: scripts move what has them."""
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_NUMBERS = ("d", "transform", "x", "y", "width", "height", "points", "cx", "cy", "r")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLOR = re.compile("|".join(map(re.escape, VARIABLES)))
_DROPPED = {f"{_SVG}metadata", f"{_SVG}style"}


def standalone_svg(svg: str) -> str:
    """Return an SVG file of its own: on white, numbers rounded to a hundredth of a point."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = _tidy(svg, "plot")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def inline_svg(svg: str, name: str, title: str, text: str) -> str:
    """Return the SVG as an element of a page.

    Args:
        svg: matplotlib's.
        name: The plot's; its ids begin with it.
        title: Its name for screen readers.
        text: What it shows, for them.
    """
    root = _tidy(svg, name)
    for parent in root.iter():
        for child in [child for child in parent if child.get("id") == f"{name}-paper"]:
            parent.remove(child)
    for element in root.iter():
        element.tag = str(element.tag).removeprefix(_SVG)
        if (link := element.attrib.pop(_LINK, None)) is not None:
            element.set("href", link)
        if "style" in element.attrib:
            element.set("style", _COLOR.sub(lambda found: f"var({VARIABLES[found[0]]})", element.attrib["style"]))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-svg-title {name}-svg-text"}
    for place, (tag, words) in enumerate((("title", title), ("desc", text))):
        element = ElementTree.Element(tag, {"id": f"{name}-svg-{'text' if place else 'title'}"})
        element.text = words
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(svg: str, name: str) -> ElementTree.Element:
    """Parse, and drop what no reader needs."""
    root = ElementTree.fromstring(svg)
    used = _used_ids(root)
    for parent in root.iter():
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        _round_numbers(element)
        _rename(element, name, used)
    return root


def _used_ids(root: ElementTree.Element) -> set[str]:
    used = {link.removeprefix("#") for element in root.iter() if (link := element.get(_LINK))}
    return used | {found for element in root.iter() for text in element.attrib.values() for found in _ids_in(text)}


def _ids_in(text: str) -> list[str]:
    return _REFERENCE.findall(text)


def _round_numbers(element: ElementTree.Element) -> None:
    for key in _NUMBERS:
        if key in element.attrib:
            element.set(key, _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", element.attrib[key]))


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Begin ids with the plot's name; drop those that nothing refers to."""
    mine = element.attrib.pop("id", None)
    if mine == "patch_1":  # the figure's own background is the first patch
        element.set("id", f"{name}-paper")
    elif mine is not None and (mine in used or mine.startswith(CELL)):
        element.set("id", f"{name}-{mine}")
    if (link := element.get(_LINK)) is not None:
        element.set(_LINK, f"#{name}-{link.removeprefix('#')}")
    for key, text in element.attrib.items():
        if "url(#" in text:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{name}-{found[1]})", text))
