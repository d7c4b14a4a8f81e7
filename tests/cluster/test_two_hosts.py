"""A federation whose ranks are on two hosts (`two_hosts.py`): addresses, interfaces and host names as on a cluster.

Backbones are sharded over both hosts with ZeRO-3, so MPI, torch.distributed's store and gloo all have to find the one
network that joins them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml

LIMIT_SECONDS = 120.0
WORKER = ("-m", "heterotune.worker")
PASSED_ON = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "DS_ACCELERATOR")
LOSS, DELAY_SECONDS = 0.05, 0.02

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "two-hosts",
    "seed": 5,
    "rounds": 1,
    "watchdog_seconds": 60,
    "fleet": [{"name": "a", "model": f"{MODEL},num_hidden_layers=1", "clients": 2}],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
    "backbone": {"ds_config": "zero3_cpu"},
    "chunk": {"clients": 1},
    "evaluate": {"max_rows": 4, "batch_size": 4},
}


@dataclass(frozen=True)
class OneProcess:
    """The run file, and what one process makes of it."""

    run_file: Path
    digest: str


@pytest.fixture(scope="module")
def modules() -> tuple[ModuleType, ModuleType]:
    """`two_hosts` and `lossy_wire`; all tests are skipped, with the reason, where there can be no two hosts."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import lossy_wire
        import two_hosts
    finally:
        sys.path.pop(0)
    reason = two_hosts.reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    return two_hosts, lossy_wire


@pytest.fixture
def hosts(modules, tmp_path: Path) -> Iterator:
    """Two hosts, joined by a pair of virtual devices."""
    with modules[0].two_hosts(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def one_process(modules, tmp_path_factory, run_command: Callable, job_variables: Mapping[str, str]) -> OneProcess:
    folder = tmp_path_factory.mktemp("one-process")
    corpus = folder / "corpus.jsonl"
    rows = [{"owner": f"owner {n % 2}", "text": f"def f{n}(x):\n    return x + {n}\n" * 2} for n in range(16)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump({**RUN, "data": {**RUN["data"], "source": str(corpus)}}))
    out = folder / "out"
    out.mkdir()
    command = [sys.executable, *WORKER, run_file, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode == 0, result.output
    return OneProcess(run_file, summary_of(out)["global_adapter_sha256"])


def summary_of(run_folder: Path) -> dict:
    return json.loads((run_folder / "summary.json").read_text())


def over_mpi(hosts, two_hosts: ModuleType, slots: tuple[int, int]) -> list[str | Path]:
    """Return mpirun on the first host, up to the module, as a user starts it whose cluster has such networks."""
    where = ",".join(f"{name}:{number}" for name, number in zip(hosts.names, slots, strict=True))
    settings = {
        "PRTE_MCA_plm_ssh_agent": str(hosts.agent),
        "PRTE_MCA_prte_if_include": two_hosts.NETWORK,
        "OMPI_MCA_btl_tcp_if_include": two_hosts.NETWORK,
    }
    passed_on = [word for name in PASSED_ON for word in ("-x", name)]
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [mpirun, "--host", where, "-n", str(sum(slots)), "--bind-to", "none", *passed_on]
    given = [f"{name}={value}" for name, value in settings.items()]
    return hosts.command(hosts.names[0], ["env", *given, *command, sys.executable, "-m", "mpi4py"])


def test_ranks_under_mpirun(hosts, modules, one_process, run_command, job_variables, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [*over_mpi(hosts, modules[0], (2, 1)), *WORKER, one_process.run_file, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    assert result.returncode == 0, result.output
    summary = summary_of(out)
    assert (summary["environment"]["channel"], summary["environment"]["num_ranks"]) == ("mpi", 3)
    assert summary["global_adapter_sha256"] == one_process.digest


def test_a_master_addr_in_a_network_that_does_not_join_them(
    hosts, modules, one_process, run_command, job_variables, tmp_path
) -> None:
    """Also proof that the hosts reach each other over net0 only."""
    out = tmp_path / "out"
    out.mkdir()
    dead = modules[0].DEAD_ADDRESSES[0]
    command = [*over_mpi(hosts, modules[0], (1, 1)), *WORKER, one_process.run_file, "--run-dir", out]
    result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables | {"MASTER_ADDR": dead})
    assert result.returncode != 0
    first, second = hosts.names
    assert f"MASTER_ADDR={dead} does not lead to {first}, where MPI rank 0 runs: {dead} port " in result.output
    assert f"from {second}: No route to host. Unset it" in result.output


def test_ranks_without_mpi(hosts, modules, one_process, run_command, job_variables, free_port, tmp_path) -> None:
    """torch.distributed with MASTER_ADDR as a name, which means 127.0.1.1 to the host that bears it."""
    out = tmp_path / "out"
    out.mkdir()

    def run_rank(mpi_rank: int):
        job = {"RANK": str(mpi_rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        meeting = {"MASTER_ADDR": hosts.names[0], "MASTER_PORT": str(free_port)}
        command = hosts.command(
            hosts.names[mpi_rank], [sys.executable, *WORKER, one_process.run_file, "--run-dir", out]
        )
        return run_command(command, limit_seconds=LIMIT_SECONDS, environment={**job_variables, **job, **meeting})

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run_rank, range(2)))
    assert [result.returncode for result in results] == [0, 0], "\n".join(result.output for result in results)
    summary = summary_of(out)
    assert (summary["environment"]["channel"], summary["environment"]["num_ranks"]) == ("torch", 2)
    assert summary["global_adapter_sha256"] == one_process.digest


def test_lost_packets_and_delay(modules, one_process, run_command, job_variables, tmp_path) -> None:
    two_hosts, lossy_wire = modules
    if not lossy_wire.TUN_DEVICE.exists():
        pytest.skip(f"no {lossy_wire.TUN_DEVICE} here, which a wire that loses packets needs")
    out = tmp_path / "out"
    out.mkdir()
    ends = (f"ht{os.getpid()}x", f"ht{os.getpid()}y")
    wire = lossy_wire.LossyWire(ends, loss=LOSS, delay_seconds=DELAY_SECONDS, seed=1)
    try:
        with two_hosts.two_hosts(tmp_path, ends) as hosts:
            command = [*over_mpi(hosts, two_hosts, (1, 1)), *WORKER, one_process.run_file, "--run-dir", out]
            result = run_command(command, limit_seconds=LIMIT_SECONDS, environment=job_variables)
    finally:
        wire.close()
    assert result.returncode == 0, result.output
    assert wire.num_lost > 20
    assert summary_of(out)["environment"]["num_ranks"] == 2
    assert summary_of(out)["global_adapter_sha256"] == one_process.digest
