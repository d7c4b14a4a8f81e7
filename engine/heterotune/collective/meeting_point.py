"""Where the ranks of a job meet to start torch.distributed: an address that all hosts reach, and a port held for it.

The root listens before it says where, and the socket it listens on becomes the store's own, so nobody can take the
port in between. Every other host connects to the root's addresses, the most promising first, and the root answers with
a word that only this job knows; the first address at which all hosts got it is the meeting point. So an interface that
looks right and leads nowhere costs seconds at the start, not a hang.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.interfaces import (
    Host,
    candidate_addresses,
    interface_toward,
    read_host,
    socket_variables,
    visible_address,
)
from heterotune.errors import LaunchError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOOPBACK = "127.0.0.1"
PROBE_SECONDS = 10.0
"""How long a host tries to reach one address; TCP sends a lost first packet again after 1, 3 and 7 seconds."""

_WORD_CHARACTERS = 32
_MAX_PORT = 65535


@dataclass(frozen=True)
class MeetingPoint:
    """Where torch.distributed meets."""

    address: str
    """Of the root's host, numeric."""
    port: int
    interface: str | None
    """This host's interface toward it, if one was found."""
    listener: socket.socket | None
    """At the root: the socket that listens on the port. `open_store` hands it on."""


@dataclass(frozen=True)
class _Offer:
    """What the root tells the others before they try to reach it."""

    root_name: str
    addresses: tuple[str, ...]
    port: int
    word: str
    probers: dict[str, str]
    """Host names by the MPI rank (as text) that tries for the host; empty: all ranks are on the root's host."""
    master_address: str
    """The user's MASTER_ADDR, or empty."""


def meet(
    channel: Channel, environ: Mapping[str, str], *, describe_host: Callable[[str], Host] = read_host
) -> MeetingPoint:
    """Agree where torch.distributed meets. Every rank must call this.

    Args:
        channel: Over which the ranks can already talk.
        environ: The root's MASTER_ADDR and MASTER_PORT are taken if they are there.
        describe_host: Describes this rank's machine, given MASTER_ADDR.

    Raises:
        LaunchError: If the other hosts cannot reach the root, with what each of them tried, or if MASTER_PORT cannot be
            used.
    """
    wanted = channel.broadcast_bytes(environ.get("MASTER_ADDR", "").encode()).decode()
    host = describe_host(wanted)
    gathered = channel.gather_bytes(json.dumps(host.as_dict()).encode())
    listener, offered = None, b""
    if gathered is not None:
        hosts = [Host.from_dict(json.loads(data)) for data in gathered]
        is_one_host = len({found.identity for found in hosts}) == 1
        listener = _listen(environ.get("MASTER_PORT") or "0", only_loopback=is_one_host and not wanted)
        offered = json.dumps(asdict(_offer(hosts, listener.getsockname()[1], wanted))).encode()
    offer = _Offer(**json.loads(channel.broadcast_bytes(offered)))
    try:
        address = _choose(channel, offer, listener)
    except LaunchError:
        if listener is not None:
            listener.close()
        raise
    return MeetingPoint(address, offer.port, interface_toward(address, host.interfaces), listener)


def open_store(channel: Channel, environ: MutableMapping[str, str], *, watchdog_seconds: float) -> TCPStore:
    """Return the store over which torch.distributed starts, at the ranks' meeting point. Every rank must call this.

    Args:
        channel: Over which the ranks can already talk.
        environ: Gets the variables that keep gloo and NCCL on the interface of the meeting point.
        watchdog_seconds: Longest wait for another rank.

    Raises:
        LaunchError: As `meet`.
    """
    from torch.distributed import TCPStore

    point = meet(channel, environ)
    environ.update(socket_variables(point.interface, environ))
    return TCPStore(
        point.address,
        point.port,
        channel.num_ranks,
        is_master=point.listener is not None,
        timeout=timedelta(seconds=watchdog_seconds),
        wait_for_workers=False,
        master_listen_fd=None if point.listener is None else point.listener.detach(),
    )


def _offer(hosts_N: list[Host], port: int, wanted: str) -> _Offer:
    """Return where the root can be tried, from what every rank said about its host."""
    root = hosts_N[ROOT]
    first_rank: dict[str, int] = {}
    for mpi_rank, host in enumerate(hosts_N):
        first_rank.setdefault(host.identity, mpi_rank)
    others = {mpi_rank: hosts_N[mpi_rank] for identity, mpi_rank in first_rank.items() if identity != root.identity}
    if wanted:
        address = visible_address([host.master_address for host in hosts_N])
        addresses = (address,) if address else ()
    else:
        addresses = candidate_addresses(root, list(others.values())) if others else (LOOPBACK,)
    probers = {str(mpi_rank): host.name for mpi_rank, host in others.items()}
    return _Offer(root.name, addresses, port, secrets.token_hex(_WORD_CHARACTERS // 2), probers, wanted)


def _choose(channel: Channel, offer: _Offer, listener: socket.socket | None) -> str:
    """Return the first address at which every host reaches the root."""
    tried = []
    with nullcontext() if listener is None else _answering(listener, offer.word.encode()):
        for address in offer.addresses:
            is_prober = str(channel.mpi_rank) in offer.probers
            problem = probe(address, offer.port, offer.word.encode()) if is_prober else ""
            problems_N = channel.gather_bytes(problem.encode())
            problems = json.loads(channel.broadcast_bytes(_problems(offer, problems_N)))
            if not problems:
                return address
            tried += [f"{address} port {offer.port} from {name}: {problem}" for name, problem in problems]
    raise LaunchError(_unreachable(offer, tried))


def _problems(offer: _Offer, problems_N: list[bytes] | None) -> bytes:
    """Return the hosts' names with what kept them from the root, as JSON; nothing on ranks other than the root."""
    if problems_N is None:
        return b""
    found = [(name, problems_N[int(mpi_rank)].decode()) for mpi_rank, name in offer.probers.items()]
    return json.dumps([(name, problem) for name, problem in found if problem]).encode()


def _unreachable(offer: _Offer, tried: list[str]) -> str:
    name = offer.root_name
    if offer.master_address:
        why = "; ".join(tried) or "no host knows that name"
        return (
            f"MASTER_ADDR={offer.master_address} does not lead to {name}, where MPI rank 0 runs: {why}. "
            f"Unset it (an address that all hosts reach is then looked for), or set it to such an address of {name}."
        )
    why = "; ".join(tried) or "it has no address that is not also another host's"
    return (
        f"The other hosts cannot reach {name}, where MPI rank 0 runs: {why}. Set MASTER_ADDR to an address of {name} "
        "that they reach; if a firewall is between them, also MASTER_PORT to a port that it lets through."
    )


def probe(address: str, port: int, word: bytes) -> str:
    """Return why the root does not answer at an address with its word; empty if it does."""
    try:
        with (
            socket.create_connection((address, port), PROBE_SECONDS) as connection,
            connection.makefile("rb") as stream,
        ):
            answer = stream.read(len(word))
    except OSError as error:
        return error.strerror or str(error)
    return "" if answer == word else "another program answers there"


@contextmanager
def _answering(listener: socket.socket, word: bytes) -> Iterator[None]:
    """Meanwhile, tell the word to everyone who connects."""
    stop, stopped = socket.socketpair()
    thread = threading.Thread(target=_answer, args=(listener, stopped, word), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.close()
        thread.join()
        stopped.close()


def _answer(listener: socket.socket, stopped: socket.socket, word: bytes) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stopped, selectors.EVENT_READ)
        while stopped not in [key.fileobj for key, _ in selector.select()]:
            with suppress(OSError), closing(listener.accept()[0]) as connection:
                connection.sendall(word)


def _listen(port_text: str, *, only_loopback: bool) -> socket.socket:
    """Return a socket that listens on a port; 0 is any free one."""
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= _MAX_PORT):
        raise LaunchError(f"MASTER_PORT={port_text!r} is not a port. Unset it, and a free one is taken.")
    dual = not only_loopback and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    where = (LOOPBACK if only_loopback else "", int(port_text))
    try:
        listener = socket.create_server(where, family=family, dualstack_ipv6=dual, backlog=socket.SOMAXCONN)
    except OSError as error:
        raise LaunchError(
            f"MASTER_PORT={port_text} cannot be used on {socket.gethostname()}: {os.strerror(error.errno)}. "
            "Unset it, and a free one is taken; or choose another."
        ) from None
    listener.setblocking(False)
    return listener
