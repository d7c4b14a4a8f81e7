"""The page of a real run in a real browser, from file://: it renders, needs no network, and a keyboard is enough."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.report.page import LARGEST_BYTES

ROOT = Path(__file__).parents[2]
MODEL = "random:hidden_size={width},intermediate_size=24,num_attention_heads=2,vocab_size=2048,num_hidden_layers=1"
PHONE_PROFILE = {
    **{"flops_per_second": 1e9, "memory_gib": 1.0, "down_mbit_per_second": 1.0, "up_mbit_per_second": 1.0},
    **{"compute_watts": 5.0, "radio_watts": 2.0},
}
RUN = {
    "name": "seen",
    "rounds": 3,
    "fleet": [
        {"name": name, "model": MODEL.format(width=width), "clients": 2} for name, width in (("a", 16), ("b", 24))
    ],
    "data": {"fields": {"text": "text"}, "max_tokens": 16, "partition": {"by": "iid"}},
    "local": {"steps": 1, "batch_size": 2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
    "compare_with": ["fedavg_lora"],
    "chunk": {"clients": 1},
    "evaluate": {"max_rows": 2},
    "backbone": {"ds_config": "none"},
    "devices": {"profiles": {"phone": PHONE_PROFILE}, "assign": {"a": "phone", "b": "phone"}},
    "clock": {"mode": "synchronous"},
}
PLOTS = {
    *("learning-curves", "training-loss", "bytes-and-quality", "bytes-per-client"),
    *("memory-components", "memory-ranks", "memory-strategies", "conflicts-heterotune"),
    *("conflicts-by-group-heterotune", "conflicts-over-rounds-heterotune", "alignment-heterotune"),
    *("participation", "phases", "idle-share", "timeline"),
    *(f"learning-curves-over-{what}" for what in ("virtual-time", "energy", "bytes")),
}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium and chromedriver are not installed (Debian: chromium-driver)"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,900"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A finished run of three rounds, as the worker leaves it, in a folder of runs."""
    folder = tmp_path_factory.mktemp("runs")
    corpus, run_file, out = folder / "corpus.jsonl", folder / "run.yaml", folder / "seed-1"
    corpus.write_text(
        "".join(json.dumps({"text": f"def f{n}(x):\n    return x + {n}\n" * 3}) + "\n" for n in range(24))
    )
    run_file.write_text(yaml.safe_dump(RUN | {"data": RUN["data"] | {"source": str(corpus)}}))
    out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "engine"), "HETEROTUNE_NUM_RANKS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "heterotune.worker", str(run_file), "--run-dir", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def page(run_dir) -> Path:
    """Its report."""
    result = CliRunner().invoke(app, ["report", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert "missing:" not in result.output
    return run_dir / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """The page, light and wide, with nothing remembered of an earlier test."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefer(browser, "light")
    browser.get(page.as_uri())
    browser.execute_script("localStorage.clear()")
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.as_uri())
    return browser


def prefer(browser, theme: str, media: str = "screen") -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def brightness(browser, what: str, selector: str) -> float:
    """How bright a colour on the page is, 0 to 255."""
    text = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[1]))[arguments[0]]", what, selector
    )
    return sum(map(float, re.findall(r"[\d.]+", text)[:3])) / 3


def press(browser, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def focused(browser) -> dict:
    """What has the focus, and whether that can be seen."""
    return browser.execute_script(
        """const it = document.activeElement, style = getComputedStyle(it), box = it.getBoundingClientRect();
        return {tag: it.tagName, id: it.id, text: it.textContent.slice(0, 60), href: it.getAttribute('href') || '',
                outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
                visible: box.width > 0 && box.height > 0 && box.right > 0}"""
    )


@needs_browser
def test_it_renders_without_an_error_and_without_network(opened) -> None:
    sizes = opened.execute_script(
        """return Object.fromEntries([...document.querySelectorAll('figure')].map((figure) => {
             const svg = figure.querySelector('svg').getBoundingClientRect();
             const shapes = [...figure.querySelectorAll('svg path, svg use')].filter((shape) => {
               const box = shape.getBoundingClientRect(); return box.width > 1 || box.height > 1; });
             return [figure.id, [svg.width, svg.height, shapes.length]]; }))"""
    )
    assert PLOTS <= set(sizes)
    targets = opened.execute_script("return [...document.querySelectorAll('#spent tbody tr')].map((r) => r.innerText)")
    assert any(row.startswith("loss ≤") and "fedavg_lora" in row and "×" in row for row in targets), targets
    assert all(width > 300 and height > 50 and shapes >= 2 for width, height, shapes in sizes.values()), sizes
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1


def test_it_is_small_enough(page) -> None:
    assert 100_000 < page.stat().st_size < LARGEST_BYTES


@needs_browser
def test_it_is_dark_where_the_reader_likes_it_dark_and_light_on_paper(opened) -> None:
    assert brightness(opened, "backgroundColor", "body") > 240 and brightness(opened, "fill", "svg text") < 80
    prefer(opened, "dark")
    assert brightness(opened, "backgroundColor", "body") < 40 and brightness(opened, "fill", "svg text") > 180
    assert opened.find_element("id", "theme").get_attribute("aria-pressed") == "true"
    prefer(opened, "dark", media="print")
    assert brightness(opened, "color", "body") < 40
    assert not opened.find_element("tag name", "nav").is_displayed()


@needs_browser
def test_the_theme_is_changed_by_keyboard_and_remembered(opened) -> None:
    from selenium.webdriver.common.keys import Keys

    press(opened, Keys.TAB)
    assert focused(opened)["href"] == "#content" and focused(opened)["visible"]
    press(opened, Keys.TAB)
    assert focused(opened)["id"] == "theme" and focused(opened)["outline"] >= 2
    press(opened, Keys.SPACE)
    assert brightness(opened, "backgroundColor", "body") < 40 and brightness(opened, "fill", "svg text") > 180
    assert opened.find_element("id", "theme").get_attribute("aria-pressed") == "true"
    opened.refresh()  # by another process the page might be read before the first one's storage has come to it
    assert brightness(opened, "backgroundColor", "body") < 40
    opened.find_element("id", "theme").send_keys(Keys.ENTER)
    assert brightness(opened, "backgroundColor", "body") > 240


@needs_browser
def test_tab_reaches_every_control_and_shows_where_it_is(opened) -> None:
    from selenium.webdriver.common.keys import Keys

    stops = []
    for _ in range(120):
        press(opened, Keys.TAB)
        stops.append(focused(opened))
        if stops[-1]["tag"] == "BODY":
            break
    controls = [stop for stop in stops if stop["tag"] != "BODY"]
    assert all(stop["outline"] >= 2 and stop["visible"] for stop in controls)
    reached = [stop["tag"] for stop in controls]
    there = opened.execute_script(
        "return [...document.querySelectorAll('a, button, input, select, summary')].map((each) => each.tagName)"
    )
    assert [tag for tag in reached if tag in {*there}] == there
    assert {"BUTTON", "INPUT", "SELECT", "SUMMARY", "A"} <= {*reached}


@needs_browser
def test_the_slider_shows_the_cosines_of_a_round(opened, run_dir) -> None:
    from selenium.webdriver.common.keys import Keys

    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    second = [line["value"] for line in lines if line["name"] == "cmga/cosine" and line["round"] == 2]
    cell = "#conflicts-heterotune-cell-before-0-1-text text"
    slider = opened.find_element("css selector", "#conflicts-heterotune input")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert opened.find_element("css selector", "#conflicts-heterotune output").text == "round 2"
    assert slider.get_attribute("aria-valuetext") == "round 2"
    shown = opened.find_element("css selector", cell).text
    assert float(shown) == pytest.approx(sum(second) / len(second), abs=0.0051)


@needs_browser
def test_it_fits_a_phone(opened) -> None:
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    assert opened.find_element("css selector", "#learning-curves svg").size["width"] > 400


@needs_browser
def test_it_can_be_read_without_its_script(opened, page) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page.as_uri())
        assert opened.find_element("css selector", "#learning-curves svg").is_displayed()
        assert not opened.find_element("id", "theme").is_displayed()
        assert not opened.find_element("css selector", ".frames").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def commands_in(text: str) -> list[str]:
    return [
        line.partition(" #")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.splitlines()
        if line.startswith("heterotune ")
    ]


def test_every_command_of_the_docs_runs(run_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = commands_in((ROOT / "docs" / "report.md").read_text())
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.replace("RUNS_DIR", str(run_dir.parent)).replace("RUN_DIR", str(run_dir)))
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{command}: {result.output}"
