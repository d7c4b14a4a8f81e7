"""A wire between two network namespaces that delays every frame and loses some, in user space.

`tc qdisc ... netem` does the same in the kernel, but many kernels of containers and small virtual machines lack it. A
TAP device at either end needs only /dev/net/tun; the kernel computes checksums and segments for it as for a real card.
"""

from __future__ import annotations

import fcntl
import os
import random
import selectors
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

TUN_DEVICE = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_MAX_FRAME_BYTES = 65536


class LossyWire:
    """Carries Ethernet frames between two TAP devices until it is closed."""

    def __init__(self, names: tuple[str, str], *, loss: float, delay_seconds: float, seed: int) -> None:
        """Make the devices (in the caller's network namespace; they may be moved) and start to carry.

        Args:
            names: Of the devices, at most 15 characters.
            loss: Share of frames that are lost, each way.
            delay_seconds: From one end to the other.
            seed: Of the losses.
        """
        self.num_lost = 0
        self._loss, self._delay_seconds, self._random = loss, delay_seconds, random.Random(seed)
        first, second = (_open_tap(name) for name in names)
        self._other_end = {first: second, second: first}
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop carrying and remove the devices."""
        os.close(self._stop)
        self._thread.join()
        for end in (*self._other_end, self._stopped):
            os.close(end)

    def _carry(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        with selectors.DefaultSelector() as selector:
            for end in (*self._other_end, self._stopped):
                selector.register(end, selectors.EVENT_READ)
            while True:
                wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
                ready = [key.fd for key, _ in selector.select(wait)]
                if self._stopped in ready:
                    return
                under_way.extend(frame for end in ready for frame in self._take(end))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, end, frame = under_way.popleft()
                    with suppress(OSError):  # an interface that is down takes nothing
                        os.write(end, frame)

    def _take(self, end: int) -> list[tuple[float, int, bytes]]:
        """Read a frame at one end; returns when and where it comes out, or nothing if it is lost."""
        try:
            frame = os.read(end, _MAX_FRAME_BYTES)
        except OSError:
            return []
        if self._random.random() < self._loss:
            self.num_lost += 1
            return []
        return [(time.monotonic() + self._delay_seconds, self._other_end[end], frame)]


def _open_tap(name: str) -> int:
    """Make a TAP device; it lives until the descriptor is closed."""
    end = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return end
