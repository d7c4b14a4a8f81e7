"""Which network interface of a machine leads to the other hosts of a job.

Hosts have more interfaces than the one that joins them: docker0 bears the same address on every machine, a second
network may be wired to nothing, and /etc/hosts often maps a machine's own name to loopback. The choice is made from
tables of interfaces, by pure functions.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

import psutil

from heterotune.collective.channel import ROOT

_ANY_PORT = 9  # a datagram socket "connects" without sending anything, so the port does not matter


@dataclass(frozen=True)
class Interface:
    """An address of a network interface; one with several addresses appears several times."""

    name: str
    address: str
    """IPv4 or IPv6, numeric."""
    prefix_length: int
    """Leading bits of the address that name its network."""

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        """The address as a number."""
        return ip_address(self.address)

    def is_in_network_of(self, other: Interface) -> bool:
        """Return whether this address belongs to the network of another one."""
        return self.ip in ip_network(f"{other.address}/{other.prefix_length}", strict=False)


@dataclass(frozen=True)
class Host:
    """What a rank says to the others about the machine that it runs on."""

    name: str
    """For people."""
    identity: str
    """Equal for two ranks exactly if they reach each other over loopback."""
    interfaces: tuple[Interface, ...]
    """The interfaces that run."""
    master_address: str = ""
    """What the job's MASTER_ADDR means here, numeric; empty without one, or if the name is not known here."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Host:
        """Read what `as_dict` wrote."""
        return Host(**{**values, "interfaces": tuple(Interface(**found) for found in values["interfaces"])})


def read_host(master_address: str) -> Host:
    """Describe this machine; `master_address` is the job's MASTER_ADDR, or empty."""
    resolved = resolve(master_address) if master_address else ""
    return Host(socket.gethostname(), _identity(), read_interfaces(), resolved)


def read_interfaces() -> tuple[Interface, ...]:
    """Return the addresses of this machine's running interfaces, without IPv6's link-local ones."""
    states = _states()
    return tuple(
        Interface(name, found.address, prefix_length(found.address, found.netmask))
        for name, addresses in psutil.net_if_addrs().items()
        for found in addresses
        if found.family in (socket.AF_INET, socket.AF_INET6)
        and "%" not in found.address
        and (name not in states or states[name].isup)
    )


def prefix_length(address: str, netmask: str | None) -> int:
    """Return the leading bits that a netmask sets; a point-to-point link has none and is a network of one address."""
    if netmask is None:
        return ip_address(address).max_prefixlen
    return int(ip_address(netmask)).bit_count()


def candidate_addresses(root: Host, others: Sequence[Host]) -> tuple[str, ...]:
    """Return the root's addresses under which the other hosts may reach it, the most promising first.

    Neither loopback nor an address that another host has too: there, it would reach itself. First come those in a
    network in which all the others have an address, IPv4 before IPv6, else in the system's order.
    """
    taken = {interface.address for host in others for interface in host.interfaces}
    own = [found for found in root.interfaces if not found.ip.is_loopback and found.address not in taken]

    def is_common(interface: Interface) -> bool:
        return all(any(found.is_in_network_of(interface) for found in host.interfaces) for host in others)

    return tuple(found.address for found in sorted(own, key=lambda found: (not is_common(found), found.ip.version)))


def visible_address(resolved: Sequence[str]) -> str:
    """Return what a host's name means to the other hosts: the first address that is not loopback, else the first.

    Debian's /etc/hosts maps a machine's own name to 127.0.1.1, so that machine alone gets a useless answer.
    """
    known = [address for address in resolved if address]
    outside = (address for address in known if not ip_address(address).is_loopback)
    return next(outside, known[0] if known else "")


def resolve(name: str) -> str:
    """Return a host name's address, numeric, IPv4 if it has one; empty if the name is not known here."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return ""
    return min(found, key=lambda answer: answer[0] != socket.AF_INET)[4][0]


def source_address(address: str) -> str:
    """Return the address of ours from which the routing table reaches another; empty without a route. Sends nothing."""
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as route:
        try:
            route.connect((address, _ANY_PORT))
        except OSError:
            return ""
        return route.getsockname()[0]


def interface_toward(
    address: str, interfaces: Sequence[Interface], find_source: Callable[[str], str] = source_address
) -> str | None:
    """Return the name of the interface that has an address, else of the one that leads to it; None if there is none."""
    names = {interface.address: interface.name for interface in interfaces}
    return names.get(address) or names.get(find_source(address))


def socket_variables(interface: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep gloo and NCCL on an interface, less those that the user set."""
    if interface is None:
        return {}
    # NCCL takes a name as a prefix unless "=" stands before it.
    chosen = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    return {name: value for name, value in chosen.items() if not environ.get(name)}


class Store(Protocol):
    """The two verbs of a torch.distributed store that are needed here."""

    def set(self, key: str, value: str) -> None:
        """Write a value for all ranks."""
        ...

    def get(self, key: str) -> bytes:
        """Wait for a value and return it."""
        ...


def interface_toward_master(store: Store, *, mpi_rank: int, num_ranks: int, master_address: str) -> str | None:
    """Return this host's interface toward a job's MASTER_ADDR. Every rank must call this.

    On MASTER_ADDR's own host its name may mean loopback, so what the others take it for decides.

    Args:
        store: At which the ranks have already met.
        mpi_rank: This rank.
        num_ranks: In the job.
        master_address: MASTER_ADDR, a name or a number.
    """
    key = "heterotune/master_address"
    store.set(f"{key}/{mpi_rank}", resolve(master_address))
    if mpi_rank == ROOT:
        resolved_N = [store.get(f"{key}/{number}").decode() for number in range(num_ranks)]
        store.set(key, visible_address(resolved_N))
    address = store.get(key).decode()
    return interface_toward(address, read_interfaces()) if address else None


def _states() -> dict[str, Any]:
    """Return what is known of interfaces; nothing where a sandbox refuses to say, and all count as running."""
    try:
        return psutil.net_if_stats()
    except OSError:
        return {}


def _identity() -> str:
    """Name this machine and its network namespace: containers of one machine do not share a loopback."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/net")
    parts = [socket.gethostname()]
    if boot.is_file() and namespace.is_symlink():
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)
