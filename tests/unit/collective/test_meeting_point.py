"""Where torch.distributed meets: ranks are threads here, and "hosts" are made-up tables of interfaces."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from heterotune.collective import meeting_point
from heterotune.collective.interfaces import Host, Interface
from heterotune.collective.meeting_point import MeetingPoint, meet, open_store, probe
from heterotune.collective.single import SingleChannel
from heterotune.errors import LaunchError

LIMIT_SECONDS = 30


class ThreadChannel:
    """The two verbs that `meet` needs, between threads."""

    def __init__(self, mpi_rank: int, num_ranks: int, barrier: threading.Barrier, board: list) -> None:
        self.mpi_rank, self.num_ranks = mpi_rank, num_ranks
        self._barrier, self._board = barrier, board

    def gather_bytes(self, data: bytes) -> list[bytes] | None:
        everything = self._exchange(data)
        return everything if self.mpi_rank == 0 else None

    def broadcast_bytes(self, data: bytes) -> bytes:
        return self._exchange(data)[0]

    def _exchange(self, data: bytes) -> list[bytes]:
        self._board[self.mpi_rank] = data
        self._barrier.wait(LIMIT_SECONDS)
        everything = list(self._board)
        self._barrier.wait(LIMIT_SECONDS)
        return everything


def host(name: str, *addresses: str, master_address: str = "") -> Host:
    interfaces = tuple(Interface(f"net{number}", address, 24) for number, address in enumerate(addresses))
    return Host(name, name, (Interface("lo", "127.0.0.1", 8), *interfaces), master_address)


def meet_on(hosts_N: list[Host], environ: dict[str, str] | None = None) -> list[MeetingPoint | LaunchError]:
    """Run `meet` on one thread per rank; only the root has `environ`. Returns points or what was raised."""
    barrier, board = threading.Barrier(len(hosts_N)), [b""] * len(hosts_N)

    def rank(mpi_rank: int) -> MeetingPoint | LaunchError:
        channel = ThreadChannel(mpi_rank, len(hosts_N), barrier, board)
        mine = (environ or {}) if mpi_rank == 0 else {}
        try:
            return meet(channel, mine, describe_host=lambda wanted: hosts_N[mpi_rank])
        except LaunchError as error:
            return error

    with ThreadPoolExecutor(len(hosts_N)) as pool:
        found = list(pool.map(rank, range(len(hosts_N)), timeout=LIMIT_SECONDS))
    for point in found:
        if isinstance(point, MeetingPoint) and point.listener is not None:
            point.listener.close()
    return found


def interface_in_same_network(address: str, interfaces: tuple[Interface, ...]) -> str | None:
    """In place of this machine's routing table."""
    there = Interface("", address, 24)
    return next((found.name for found in interfaces if found.is_in_network_of(there)), None)


@pytest.fixture
def only_reachable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Make the given addresses stand for this machine, the others lead nowhere; returns what is tried."""

    def choose(*addresses: str) -> list[str]:
        tried: list[str] = []
        really_probe = probe

        def probe_here(address: str, port: int, word: bytes) -> str:
            tried.append(address)
            return really_probe("127.0.0.1", port, word) if address in addresses else "No route to host"

        monkeypatch.setattr(meeting_point, "probe", probe_here)
        monkeypatch.setattr(meeting_point, "interface_toward", interface_in_same_network)
        return tried

    return choose


def test_ranks_of_one_host_meet_on_loopback_and_try_nothing(only_reachable) -> None:
    tried = only_reachable()
    points = meet_on([host("a", "10.0.0.1")] * 3)
    assert [(point.address, point.interface) for point in points] == [("127.0.0.1", "lo")] * 3
    assert len({point.port for point in points}) == 1 and points[0].port > 0
    assert [point.listener is not None for point in points] == [True, False, False]
    assert tried == []


def test_the_first_address_that_every_host_reaches_is_taken(only_reachable) -> None:
    tried = only_reachable("10.2.0.1")
    hosts = [host("a", "10.1.0.1", "10.2.0.1"), host("b", "10.1.0.2", "10.2.0.2")]
    points = meet_on([hosts[0], hosts[0], hosts[1], hosts[1]])
    assert [(point.address, point.interface) for point in points] == [("10.2.0.1", "net1")] * 4
    assert tried == ["10.1.0.1", "10.2.0.1"], "one rank tries for each other host"


def test_master_addr_wins_and_means_what_other_hosts_take_it_for(only_reachable) -> None:
    tried = only_reachable("10.2.0.1")
    hosts = [
        host("a", "10.1.0.1", "10.2.0.1", master_address="127.0.1.1"),
        host("b", "10.1.0.2", "10.2.0.2", master_address="10.2.0.1"),
    ]
    points = meet_on(hosts, {"MASTER_ADDR": "a"})
    assert [(point.address, point.interface) for point in points] == [("10.2.0.1", "net1")] * 2
    assert tried == ["10.2.0.1"]


def test_hosts_that_cannot_reach_the_root_are_named_on_every_rank(only_reachable) -> None:
    only_reachable()
    errors = meet_on([host("a", "10.1.0.1"), host("b", "10.1.0.2"), host("c", "10.1.0.3")])
    wanted = (
        r"^The other hosts cannot reach a, where MPI rank 0 runs: 10\.1\.0\.1 port \d+ from b: No route to host; "
        r"10\.1\.0\.1 port \d+ from c: No route to host\. Set MASTER_ADDR to an address of a that they reach"
    )
    assert len(errors) == 3
    for error in errors:
        with pytest.raises(LaunchError, match=wanted):
            raise error


def test_a_root_without_an_address_of_its_own_says_so(only_reachable) -> None:
    only_reachable()
    with pytest.raises(LaunchError, match="cannot reach a, .* runs: it has no address that is not also another host's"):
        raise meet_on([host("a", "172.17.0.1"), host("b", "172.17.0.1")])[0]


def test_a_master_addr_that_leads_elsewhere_is_named(only_reachable) -> None:
    only_reachable("10.1.0.1")
    hosts = [host(name, f"10.1.0.{number}", master_address="127.0.0.1") for number, name in enumerate("ab", start=1)]
    wanted = (
        r"MASTER_ADDR=localhost does not lead to a, .* runs: 127\.0\.0\.1 port \d+ from b: No route to host\. Unset"
    )
    with pytest.raises(LaunchError, match=wanted):
        raise meet_on(hosts, {"MASTER_ADDR": "localhost"})[1]


def test_a_master_addr_that_no_host_knows_is_named(only_reachable) -> None:
    only_reachable()
    with pytest.raises(
        LaunchError, match="MASTER_ADDR=nowhere does not lead to a, .*: no host knows that name. Unset it"
    ):
        raise meet_on([host("a", "10.1.0.1"), host("b", "10.1.0.2")], {"MASTER_ADDR": "nowhere"})[0]


@pytest.mark.parametrize("port", ["http", "-1", "65536", "1.5", "²"])
def test_a_master_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(LaunchError, match=f"MASTER_PORT='{port}' is not a port. Unset it, and a free one is taken."):
        meet(SingleChannel(), {"MASTER_PORT": port})


def test_a_master_port_in_use_is_refused_and_a_free_one_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            LaunchError, match=f"MASTER_PORT={port} cannot be used on .*: Address already in use. Unset"
        ):
            meet(SingleChannel(), {"MASTER_PORT": str(port)})
    point = meet(SingleChannel(), {"MASTER_PORT": str(port)})
    assert point.port == port
    point.listener.close()


def test_another_program_at_the_address_is_not_the_root() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:
        port = other.getsockname()[1]
        found = pool.submit(probe, "127.0.0.1", port, b"word")
        other.accept()[0].close()
        assert found.result(LIMIT_SECONDS) == "another program answers there"
    assert probe("127.0.0.1", port, b"word") == "Connection refused"


def test_the_store_keeps_the_port_that_the_root_listened_on() -> None:
    from torch.distributed import TCPStore

    environ = {"NCCL_SOCKET_IFNAME": "mine"}
    store = open_store(SingleChannel(), environ, watchdog_seconds=LIMIT_SECONDS)
    assert environ == {"NCCL_SOCKET_IFNAME": "mine", "GLOO_SOCKET_IFNAME": "lo"}
    with pytest.raises(LaunchError, match=f"MASTER_PORT={store.port} cannot be used on"):
        meet(SingleChannel(), {"MASTER_PORT": str(store.port)})
    client = TCPStore(store.host, store.port, is_master=False)
    client.set("key", "value")
    assert store.get("key") == b"value"
