"""Two "hosts" on one machine: network namespaces with addresses, a host name and an /etc/hosts of their own.

They share the disk, as nodes of a cluster share one. Only `net0` joins them. The interfaces before it are what makes
nodes of real clusters hard to connect: docker0 has the same address on both, ib0 looks like a common network, but is
wired to nothing, and each host's own name means 127.0.1.1 to itself, as Debian's installer sets it up.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.0.0/24"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEAD_ADDRESSES = ("10.66.0.1", "10.66.0.2")
DOCKER_ADDRESS = "172.17.0.1"

_HOSTS_FOLDER = Path("/etc/netns")
_NAME_HOST = 'printf %s "$0" > /proc/sys/kernel/hostname; exec "$@"'
# In place of ssh: HOST COMMAND. As ssh does, it passes no variables on and lets a shell read the command.
_AGENT = """#!/bin/sh
host=$1
shift
exec ip netns exec "$host" unshare --uts sh -c '
printf %s "$0" > /proc/sys/kernel/hostname
exec env -i HOME=/root PATH=/usr/bin:/bin sh -c "$1"' "$host" "$*"
"""


@dataclass(frozen=True)
class TwoHosts:
    """Names and how to run something there."""

    names: tuple[str, str]
    """Host names, which are also the names of the network namespaces."""
    agent: Path
    """A launch agent for Open MPI, in place of ssh."""

    def command(self, host: str, words: Sequence[str | Path]) -> list[str | Path]:
        """Return the command line that runs another one on a host."""
        return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", _NAME_HOST, host, *words]


def reason_to_skip() -> str | None:
    """Return why there can be no two hosts here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"no {' and no '.join(missing)} here (Debian: apt-get install iproute2 util-linux)"
    made = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if made.returncode == 0 else f"network namespaces are not allowed here: {made.stderr.strip()}"


@contextmanager
def two_hosts(folder: Path, link: Sequence[str] = ()) -> Iterator[TwoHosts]:
    """Make two hosts, and take them away with everything that still runs there.

    Args:
        folder: For the launch agent.
        link: Names of two network devices that become net0 of the hosts; none = a pair of virtual ones.
    """
    names = (f"ht{os.getpid()}a", f"ht{os.getpid()}b")
    agent = folder / "agent.sh"
    agent.write_text(_AGENT)
    agent.chmod(0o755)
    try:
        for number, name in enumerate(names):
            _make_host(name, number, names)
        _link(names, link)
        yield TwoHosts(names, agent)
    finally:
        for name in names:
            _remove_host(name)


def _make_host(name: str, number: int, names: tuple[str, str]) -> None:
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    for trap, address in (("docker0", f"{DOCKER_ADDRESS}/16"), ("ib0", f"{DEAD_ADDRESSES[number]}/24")):
        _ip("-n", name, "link", "add", trap, "type", "veth", "peer", "name", f"{trap}-end")
        _ip("-n", name, "address", "add", address, "dev", trap)
        for end in (trap, f"{trap}-end"):
            _ip("-n", name, "link", "set", end, "up")
    other = 1 - number
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {name}", f"{ADDRESSES[other]} {names[other]}", ""]
    hosts = _HOSTS_FOLDER / name / "hosts"
    hosts.parent.mkdir(parents=True)
    hosts.write_text("\n".join(lines))


def _link(names: tuple[str, str], link: Sequence[str]) -> None:
    if link:
        for device, name in zip(link, names, strict=True):
            _ip("link", "set", device, "netns", name, "name", "net0")
    else:
        first, second = names
        _ip("link", "add", "net0", "netns", first, "type", "veth", "peer", "name", "net0", "netns", second)
    for name, address in zip(names, ADDRESSES, strict=True):
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "net0")
        _ip("-n", name, "link", "set", "net0", "up")


def _remove_host(name: str) -> None:
    """Remove what `_make_host` made, as far as it came."""
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    shutil.rmtree(_HOSTS_FOLDER / name, ignore_errors=True)
    if _HOSTS_FOLDER.is_dir() and not any(_HOSTS_FOLDER.iterdir()):
        _HOSTS_FOLDER.rmdir()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
