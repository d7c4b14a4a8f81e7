"""Every rank says once where it is and what it runs, right after the channel opens; all ranks hear all of it.

Ranks with different libraries may compute different bits, or fail in the middle of a run, so they are refused here.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from heterotune import __version__
from heterotune.collective.channel import ROOT, Channel
from heterotune.errors import LaunchError

NODE_VARIABLE = "HETEROTUNE_NODE"
"""Names a rank's node where its host name does not, for example to treat one machine as several nodes."""

COMPARED_PACKAGES = ("torch", "deepspeed", "transformers", "mpi4py", "numpy")
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class RankFacts:
    """What a rank says of itself.

    Attributes:
        host: The machine's name.
        node: The node that it counts to; the host, unless `NODE_VARIABLE` says otherwise.
        local_rank: Its number on the machine as its launcher counts, 0 where the launcher does not say.
        cores: Numbers of the CPU cores that it may use, in order.
        versions: Package -> version.
    """

    host: str
    node: str
    local_rank: int
    cores: tuple[int, ...]
    versions: dict[str, str]


def own_facts(environ: Mapping[str, str], local_rank: int) -> RankFacts:
    """Return what this process has to say."""
    host = socket.gethostname()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return RankFacts(host, environ.get(NODE_VARIABLE) or host, local_rank, tuple(sorted(cores)), compared_versions())


def compared_versions() -> dict[str, str]:
    """Return the versions on which ranks must agree."""
    versions = {"heterotune": __version__, "python": platform.python_version()}
    for package in COMPARED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = NOT_INSTALLED
    return versions


def call_roll(channel: Channel, mine: RankFacts) -> tuple[RankFacts, ...]:
    """Return what every rank says, in MPI-rank order. Every rank must call this."""
    parts = channel.gather_bytes(json.dumps(asdict(mine)).encode(), ROOT)
    joined = None if parts is None else b"[" + b",".join(parts) + b"]"
    heard = json.loads(channel.broadcast_bytes(joined, ROOT))
    return tuple(RankFacts(**{**facts, "cores": tuple(facts["cores"])}) for facts in heard)


def nodes_of_ranks(channel: Channel, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the name of every MPI rank's node, in rank order. Every rank must call this."""
    return tuple(facts.node for facts in call_roll(channel, own_facts(environ, 0)))


def check_same_versions(roll: Sequence[RankFacts]) -> None:
    """Refuse ranks that run other versions than most ranks do.

    Args:
        roll: From `call_roll`, so every rank comes to the same conclusion.

    Raises:
        LaunchError: On every rank alike; names each host that differs and in what.
    """
    usual = _most_frequent([facts.versions for facts in roll])
    differences: dict[str, list[int]] = {}
    for mpi_rank, facts in enumerate(roll):
        if facts.versions != usual:
            told = _difference(facts.versions, usual)
            differences.setdefault(f"{facts.host} has {told}", []).append(mpi_rank)
    if differences:
        said = "; ".join(f"{what} (MPI {_ranks(ranks)})" for what, ranks in differences.items())
        raise LaunchError(
            f"The hosts run different versions: {said}. Results would not be comparable. Install the same packages on "
            "every host, or start with a Python on a file system or in a container image that all hosts share."
        )


def _most_frequent(all_versions: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what most ranks have; that of the lower rank where two are equally frequent."""
    return max(all_versions, key=all_versions.count)


def _difference(versions: Mapping[str, str], usual: Mapping[str, str]) -> str:
    names = [name for name in {**usual, **versions} if versions.get(name) != usual.get(name)]
    return ", ".join(
        f"{name} {versions.get(name, NOT_INSTALLED)} instead of {usual.get(name, NOT_INSTALLED)}" for name in names
    )


def _ranks(mpi_ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(mpi_ranks) > 1 else ''} {', '.join(map(str, mpi_ranks))}"
