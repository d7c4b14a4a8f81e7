"""Calibration files: read back equal, and everything wrong in one told at once."""

from __future__ import annotations

import json

import pytest

from heterotune.errors import ConfigError
from heterotune.planning.calibration import A100, CPU_CORE, H100, load_calibration, save_calibration


def test_the_default_follows_the_device_and_names_are_known() -> None:
    assert load_calibration(None, has_gpus=False) is CPU_CORE
    assert load_calibration(None, has_gpus=True) is A100
    assert load_calibration("h100", has_gpus=True) is H100


def test_what_nobody_measured_says_so() -> None:
    assert CPU_CORE.measured and not A100.measured and not H100.measured
    assert "not measured" in A100.name and "not measured" in H100.name


def test_a_file_reads_back_equal(tmp_path) -> None:
    save_calibration(CPU_CORE, tmp_path / "here.json")
    assert load_calibration(str(tmp_path / "here.json"), has_gpus=False) == CPU_CORE


def test_all_that_is_wrong_with_a_file_is_told(tmp_path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"name": "x", "flops": -1, "speed": 3}))
    with pytest.raises(ConfigError) as caught:
        load_calibration(str(path), has_gpus=False)
    text = str(caught.value)
    assert "speed is not a key of a calibration. Remove it." in text
    assert "link_gbps is missing. Add it." in text
    assert "flops = -1 is not a number above 0. Correct it." in text


@pytest.mark.parametrize(("text", "told"), [("[]", "not a JSON object"), ("{", "cannot be read")])
def test_a_file_that_is_no_calibration(tmp_path, text, told) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_calibration(str(tmp_path / "bad.json"), has_gpus=False)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="--calibration = nowhere.json cannot be read"):
        load_calibration("nowhere.json", has_gpus=False)
