"""DeepSpeed's JSON: what is shipped, what is refused, and whether our tables are DeepSpeed's."""

from __future__ import annotations

import ast
import copy
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

import pytest

from heterotune.config import deepspeed_json, deepspeed_keys
from heterotune.config.deepspeed_json import ds_config_names, read_ds_config
from heterotune.errors import ConfigError

# DeepSpeed's source is read, not imported: importing takes seconds and looks for compilers.
DEEPSPEED = Path(importlib.util.find_spec("deepspeed").origin).parent
CPU = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}


def written(tmp_path, config):
    path = tmp_path / "mine.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return str(path)


def test_the_shipped_files():
    assert ds_config_names() == ("zero3_cpu", "zero3_gpu", "zero3_nvme")
    devices = {}
    for name in ds_config_names():
        zero = read_ds_config(name)["zero_optimization"]
        assert zero["stage"] == 3 and zero["stage3_param_persistence_threshold"] <= 1000
        devices[name] = zero.get("offload_param", {}).get("device")
    assert devices == {"zero3_cpu": "cpu", "zero3_gpu": None, "zero3_nvme": "nvme"}


def test_the_readme_has_a_row_for_each_file():
    readme = (Path(__file__).resolve().parents[3] / "ds_configs" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in readme for name in ds_config_names())


def test_the_packages_own_folder_wins(tmp_path, monkeypatch):
    for folder in ("package", "checkout"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.json").write_text(json.dumps({**CPU, "log_level": folder}), encoding="utf-8")
    monkeypatch.setattr(deepspeed_json, "_FOLDERS", (tmp_path / "package", tmp_path / "checkout"))
    assert read_ds_config("both")["log_level"] == "package"
    monkeypatch.setattr(deepspeed_json, "_FOLDERS", (tmp_path / "missing", tmp_path / "checkout"))
    assert read_ds_config("both")["log_level"] == "checkout"


def test_a_path_and_a_fresh_dict_each_time(tmp_path):
    path = written(tmp_path, CPU)
    first = read_ds_config(path)
    assert first == CPU
    first["zero_optimization"]["stage"] = 0
    assert read_ds_config(path) == CPU


def test_round_floats_are_counts(tmp_path):
    read_ds_config(written(tmp_path, '{"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 5e8}}'))


CASES = [
    (
        "train_batch_size",
        8,
        "train_batch_size is set by the run. Remove it here; use local.batch_size and chunk.clients",
    ),
    ("bf16", {"enabled": True}, "bf16 is set by the run. Remove it here; use backbone.dtype in the run file."),
    ("optimizer", {}, "optimizer is set by the run. Remove it here; use local.optimizer in the run file."),
    ("steps_per_print", 1, "steps_per_print has no effect on a frozen backbone. Remove it."),
    ("zero_optimisation", {}, "zero_optimisation is not a key of DeepSpeed 0.19. Did you mean zero_optimization?"),
    ("zzz", 1, "zzz is not a key of DeepSpeed 0.19. There is: aio, "),
    ("aio", {"queue_dept": 8}, "aio.queue_dept is not a key of DeepSpeed 0.19. Did you mean queue_depth?"),
    ("aio", 3, "aio = 3 is not an object. Write {...}."),
    ("aio", {"single_submit": 0}, "aio.single_submit = 0 is not true or false. Correct it."),
    (
        "zero_optimization",
        3,
        "zero_optimization is missing or no object. Give it at least stage: 3, or use ds_config: none.",
    ),
    (
        "zero_optimization.stage",
        2,
        "zero_optimization.stage = 2 does not shard the backbone. Set it to 3, or use ds_config",
    ),
    (
        "zero_optimization.reduce_bucket_size",
        1,
        "zero_optimization.reduce_bucket_size has no effect on a frozen backbone.",
    ),
    (
        "zero_optimization.offload_optimizer",
        {},
        "zero_optimization.offload_optimizer has no effect on a frozen backbone.",
    ),
    (
        "zero_optimization.stage3_max_live_parameter",
        1,
        "zero_optimization.stage3_max_live_parameter is not a key of DeepSpeed 0.19. Did you mean stage3_max_live_",
    ),
    (
        "zero_optimization.stage3_max_live_parameters",
        "auto",
        "zero_optimization.stage3_max_live_parameters = 'auto' is not an integer of at least 0. Correct it.",
    ),
    (
        "zero_optimization.max_reuse_distance",
        -1,
        "zero_optimization.max_reuse_distance = -1 is not an integer of at least",
    ),
    (
        "zero_optimization.max_reuse_distance",
        1.5,
        "zero_optimization.max_reuse_distance = 1.5 is not an integer of at ",
    ),
    (
        "zero_optimization.max_reuse_distance",
        True,
        "zero_optimization.max_reuse_distance = true is not an integer of at ",
    ),
    (
        "zero_optimization.offload_param",
        "cpu",
        "zero_optimization.offload_param = 'cpu' is not an object. Write {...}.",
    ),
    (
        "zero_optimization.offload_param.device",
        "disk",
        "zero_optimization.offload_param.device = 'disk' is not one of none, cpu, nvme. Correct it.",
    ),
    (
        "zero_optimization.offload_param.device",
        "nvme",
        "zero_optimization.offload_param.nvme_path is missing. Name a folder on the NVMe drive.",
    ),
    (
        "zero_optimization.offload_param.nvme_path",
        3,
        "zero_optimization.offload_param.nvme_path = 3 is not a path in quotes. Correct it.",
    ),
]


@pytest.mark.parametrize(("where", "value", "message"), CASES, ids=[f"{where}={value}" for where, value, _ in CASES])
def test_one_mistake_gives_one_line(tmp_path, where, value, message):
    config = copy.deepcopy(CPU)
    *folders, key = where.split(".")
    table = config
    for folder in folders:
        table = table[folder]
    table[key] = value
    with pytest.raises(ConfigError, match=re.escape("mine.json: " + message)) as caught:
        read_ds_config(written(tmp_path, config))
    assert len(caught.value.problems) == 1


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_ds_config(written(tmp_path, {"zzz": 1, "fp16": {}, "aio": {"x": 1}}))
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n  b: 2}', "mine.json, line 2, column 3: not readable as JSON: "),
        ('{"a": 1, "a": 2, "b": {"c": 1, "c": 2}}', "mine.json: the key a is given twice. Keep one of the two."),
        ("[]", "mine.json: not a JSON object. Start from a copy of a file in ds_configs."),
        ("9" * 5000, "mine.json: not readable as JSON: "),
        ("[" * 100_000, "mine.json: not readable as JSON: "),
        (
            '{"zero_optimization": {"stage": Infinity}}',
            "zero_optimization.stage = inf is not an integer of at least 0.",
        ),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_ds_config(written(tmp_path, text))


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(
        ConfigError, match=r"zero3_cp is not in ds_configs. Did you mean zero3_cpu\? A path must end in"
    ):
        read_ds_config("zero3_cp")
    with pytest.raises(ConfigError, match='"none" means a run without DeepSpeed. There is no JSON to read for it.'):
        read_ds_config("none")
    with pytest.raises(
        ConfigError, match=r"absent.json: cannot be read \(No such file or directory\). Check the path."
    ):
        read_ds_config(str(tmp_path / "absent.json"))


def class_keys(path, class_name):
    """Field names and aliases of a pydantic class in DeepSpeed's source."""
    tree = ast.parse((DEEPSPEED / path).read_text(encoding="utf-8"))
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name)
    fields = [node for node in body if isinstance(node, ast.AnnAssign)]
    aliases = {
        keyword.value.value
        for field in fields
        for keyword in getattr(field.value, "keywords", [])
        if keyword.arg == "alias"
    }
    return {field.target.id for field in fields} | aliases


def test_the_tables_are_deepspeeds():
    assert importlib.metadata.version("deepspeed").startswith(deepspeed_keys.DEEPSPEED_VERSION + ".")
    zero = set(deepspeed_keys.ZERO_KEYS) | deepspeed_keys.ZERO_KEYS_WITHOUT_EFFECT
    assert zero == class_keys("runtime/zero/config.py", "DeepSpeedZeroConfig")
    offload = class_keys("runtime/zero/offload_config.py", "DeepSpeedZeroOffloadParamConfig")
    assert set(deepspeed_keys.OFFLOAD_PARAM_KEYS) == offload
    constants = (DEEPSPEED / "runtime/swap_tensor/constants.py").read_text(encoding="utf-8")
    assert set(deepspeed_keys.AIO_KEYS) == set(re.findall(r'^AIO_\w+ = "(\w+)"', constants, re.MULTILINE))


def test_top_level_keys_occur_in_deepspeeds_source():
    known = deepspeed_keys.USABLE_KEYS | deepspeed_keys.OWNED_KEYS.keys() | deepspeed_keys.KEYS_WITHOUT_EFFECT
    folders = ("runtime", "comm", "monitor", "profiling", "autotuning", "datastates", "utils")
    source = "".join(
        path.read_text(encoding="utf-8") for folder in folders for path in sorted((DEEPSPEED / folder).rglob("*.py"))
    )
    assert [key for key in sorted(known) if not re.search(rf"""["']{key}["']""", source)] == []


def test_the_tables_do_not_overlap():
    tables = (deepspeed_keys.USABLE_KEYS, set(deepspeed_keys.OWNED_KEYS), deepspeed_keys.KEYS_WITHOUT_EFFECT)
    assert sum(map(len, tables)) == len(set.union(*map(set, tables)))
    assert not set(deepspeed_keys.ZERO_KEYS) & deepspeed_keys.ZERO_KEYS_WITHOUT_EFFECT
