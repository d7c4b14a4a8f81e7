"""Opens the channel that the launch environment calls for; MPI and torch are imported only when they are the one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from heterotune.collective.channel import MAX_PIECE_BYTES, Channel

ChannelKind = Literal["single", "mpi", "torch"]


def open_channel(
    kind: ChannelKind,
    *,
    watchdog_seconds: float | None = None,
    piece_bytes: int = MAX_PIECE_BYTES,
    on_stuck: Callable[[str], object] = lambda what: None,
) -> Channel:
    """Return a channel. Every rank must call this with the same arguments.

    Args:
        kind: Which one; `launching` decides.
        watchdog_seconds: How long a verb may wait for the other ranks before the job is ended; None: as long as the
            library does.
        piece_bytes: The largest buffer per library call.
        on_stuck: Told, from another thread, which verb waited too long, before the job is aborted (MPI only).

    Raises:
        LaunchError: If `kind` is "torch" and the environment does not describe a job.
    """
    if kind == "mpi":
        from heterotune.collective.mpi import MpiChannel

        return MpiChannel(watchdog_seconds=watchdog_seconds, piece_bytes=piece_bytes, on_stuck=on_stuck)
    if kind == "torch":
        from heterotune.collective.torch_channel import TorchChannel

        return TorchChannel(watchdog_seconds=watchdog_seconds, piece_bytes=piece_bytes)
    from heterotune.collective.single import SingleChannel

    return SingleChannel()
