"""The choice of network interfaces, on made-up tables of them."""

from __future__ import annotations

import json
import socket
import threading
from types import SimpleNamespace

import psutil
import pytest

from heterotune.collective.interfaces import (
    Host,
    Interface,
    candidate_addresses,
    interface_toward,
    interface_toward_master,
    prefix_length,
    read_host,
    read_interfaces,
    resolve,
    socket_variables,
    source_address,
    visible_address,
)

LOOPBACK = Interface("lo", "127.0.0.1", 8)
DOCKER = Interface("docker0", "172.17.0.1", 16)


def host(name: str, *interfaces: Interface) -> Host:
    return Host(name, identity=name, interfaces=(LOOPBACK, *interfaces))


def test_an_address_that_every_host_has_is_no_candidate() -> None:
    root = host("a", DOCKER, Interface("eth0", "10.0.0.1", 24))
    assert candidate_addresses(root, [host("b", DOCKER, Interface("eth0", "10.0.0.2", 24))]) == ("10.0.0.1",)


def test_a_network_in_which_all_hosts_are_comes_first() -> None:
    storage, fabric = Interface("eth0", "10.1.0.1", 24), Interface("ib0", "10.9.0.1", 16)
    first = host("b", Interface("eth0", "10.1.0.2", 24), Interface("ib0", "10.9.4.2", 16))
    second = host("c", Interface("eth0", "10.2.0.3", 24), Interface("ib0", "10.9.7.3", 16))
    assert candidate_addresses(host("a", storage, fabric), [first]) == ("10.1.0.1", "10.9.0.1")
    assert candidate_addresses(host("a", storage, fabric), [first, second]) == ("10.9.0.1", "10.1.0.1")


def test_hosts_without_a_common_network_keep_every_address() -> None:
    root = host("a", Interface("eth0", "10.1.0.1", 24), Interface("eth1", "10.2.0.1", 24))
    assert candidate_addresses(root, [host("b", Interface("eth0", "10.3.0.1", 24))]) == ("10.1.0.1", "10.2.0.1")


def test_ipv4_comes_before_ipv6() -> None:
    root = host("a", Interface("eth0", "fd00::1", 64), Interface("eth0", "10.1.0.1", 24))
    other = host("b", Interface("eth0", "fd00::2", 64), Interface("eth0", "10.1.0.2", 24))
    assert candidate_addresses(root, [other]) == ("10.1.0.1", "fd00::1")


def test_a_host_whose_addresses_all_others_have_has_no_candidate() -> None:
    assert candidate_addresses(host("a", DOCKER), [host("b", DOCKER)]) == ()


def test_networks_of_ipv4_and_ipv6_do_not_mix() -> None:
    assert not Interface("a", "10.0.0.1", 8).is_in_network_of(Interface("b", "fd00::1", 8))
    assert Interface("a", "10.200.0.1", 8).is_in_network_of(Interface("b", "10.0.0.1", 8))
    assert not Interface("a", "10.0.1.1", 24).is_in_network_of(Interface("b", "10.0.0.1", 24))


@pytest.mark.parametrize(
    ("address", "netmask", "length"),
    [
        ("10.0.0.1", "255.255.240.0", 20),
        ("10.0.0.1", None, 32),
        ("fd00::1", "ffff:ffff:ffff:ffff::", 64),
        ("fd00::1", None, 128),
    ],
)
def test_prefix_length(address: str, netmask: str | None, length: int) -> None:
    assert prefix_length(address, netmask) == length


def test_a_host_survives_json() -> None:
    told = Host("a", "a 1", (LOOPBACK, DOCKER), "10.0.0.1")
    assert Host.from_dict(json.loads(json.dumps(told.as_dict()))) == told


def test_what_the_other_hosts_take_a_name_for_decides() -> None:
    assert visible_address(["127.0.1.1", "", "10.0.0.1", "10.0.0.9"]) == "10.0.0.1"
    assert visible_address(["", "127.0.0.1", "127.0.1.1"]) == "127.0.0.1"
    assert visible_address(["", ""]) == ""


def test_names_are_resolved_here() -> None:
    assert resolve("127.0.0.1") == "127.0.0.1"
    assert resolve("localhost") == "127.0.0.1"
    assert resolve("no-such-host.invalid") == ""


def test_the_interface_that_has_an_address_or_else_leads_to_it() -> None:
    table = [LOOPBACK, Interface("ib0", "10.9.0.1", 16), Interface("eth0", "10.1.0.1", 24)]
    routes = {"10.9.3.3": "10.9.0.1", "8.8.8.8": "10.1.0.1", "127.0.1.1": "127.0.0.1"}
    found = {address: interface_toward(address, table, routes.get) for address in ("10.9.0.1", *routes, "fd00::1")}
    assert found == {"10.9.0.1": "ib0", "10.9.3.3": "ib0", "8.8.8.8": "eth0", "127.0.1.1": "lo", "fd00::1": None}


def test_the_routing_table_is_asked_without_sending() -> None:
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert source_address("255.255.255.255") == ""  # a broadcast address, which no plain socket may use


def test_the_variables_of_the_user_are_kept() -> None:
    both = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "=ib0"}
    assert socket_variables("ib0", {}) == both
    assert socket_variables("ib0", {"GLOO_SOCKET_IFNAME": "eth1"}) == {"NCCL_SOCKET_IFNAME": "=ib0"}
    assert socket_variables("ib0", both) == {}
    assert socket_variables(None, {}) == {}


def test_this_machine_s_own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" in {found.address for found in read_interfaces()}
    addresses = {
        "up": [
            SimpleNamespace(family=socket.AF_INET, address="10.0.0.1", netmask="255.255.255.0"),
            SimpleNamespace(family=socket.AF_INET6, address="fe80::1%up", netmask="ffff:ffff:ffff:ffff::"),
            SimpleNamespace(family=psutil.AF_LINK, address="02:00:00:00:00:01", netmask=None),
        ],
        "down": [SimpleNamespace(family=socket.AF_INET, address="10.0.1.1", netmask="255.255.255.0")],
    }
    states = {name: SimpleNamespace(isup=name == "up") for name in addresses}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    running = Interface("up", "10.0.0.1", 24)
    assert read_interfaces() == (running,)

    def refuse() -> dict:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(psutil, "net_if_stats", refuse)
    assert read_interfaces() == (running, Interface("down", "10.0.1.1", 24))


def test_two_processes_of_one_machine_have_one_identity() -> None:
    mine = read_host("127.0.0.1")
    assert (mine.name, mine.identity, mine.master_address) == (
        socket.gethostname(),
        read_host("").identity,
        "127.0.0.1",
    )
    assert mine.identity != mine.name, "the boot and the network namespace belong to it"


class DictStore:
    """A store in memory; `get` waits as torch's does."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self.changed:
            self.values[key] = value.encode()
            self.changed.notify_all()

    def get(self, key: str) -> bytes:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout=30)
            return self.values[key]


def test_the_root_learns_from_the_others_what_its_name_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0's /etc/hosts says 127.0.1.1; rank 1's says 10.0.0.1, which rank 0 finds on eth0."""
    table = (LOOPBACK, Interface("eth0", "10.0.0.1", 24))
    monkeypatch.setattr("heterotune.collective.interfaces.read_interfaces", lambda: table)
    answers = {"root": "127.0.1.1", "other": "10.0.0.1"}
    monkeypatch.setattr(
        "heterotune.collective.interfaces.resolve", lambda name: answers[threading.current_thread().name]
    )
    store, found = DictStore(), {}

    def rank(mpi_rank: int) -> None:
        found[mpi_rank] = interface_toward_master(store, mpi_rank=mpi_rank, num_ranks=2, master_address="a")

    ranks = [threading.Thread(target=rank, args=(number,), name=name) for number, name in enumerate(answers)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(timeout=30)
    assert found == {0: "eth0", 1: "eth0"}


def test_a_master_whose_name_nobody_knows_gives_no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterotune.collective.interfaces.resolve", lambda name: "")
    assert interface_toward_master(DictStore(), mpi_rank=0, num_ranks=1, master_address="a") is None
