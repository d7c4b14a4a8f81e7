"""Small files that somebody else wrote, read if regular and never more than a limit; and where shipped ones are."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MAX_JSON_BYTES = 1 << 20
"""A DeepSpeed JSON, a model's config.json: what a person writes or looks at."""
MAX_YAML_BYTES = 1 << 19
"""A run file: a fleet of a thousand model types fits. PyYAML reads about 100 KB a second."""


def read_small_text(path: str | Path, max_bytes: int) -> str:
    """Read a UTF-8 file.

    Args:
        path: A regular file, or a link to one. A FIFO or a device is refused without being read.
        max_bytes: The largest file that is read.

    Raises:
        OSError: If it is missing, unreadable, no regular file or too large; `strerror` says which.
        UnicodeDecodeError: If it is not UTF-8.
    """
    return read_small_bytes(path, max_bytes).decode("utf-8")


def read_small_bytes(path: str | Path, max_bytes: int) -> bytes:
    """Read a file; see `read_small_text`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer must not block
    except ValueError:  # a NUL or half a surrogate pair
        raise OSError(errno.EINVAL, "a path cannot hold these characters", str(path)) from None
    with open(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if about.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes", str(path))
        return file.read(about.st_size)


def is_plain_file(path: Path) -> bool:
    """Return whether a path leads to a regular file; False also for a path that the system cannot even look up."""
    try:
        return path.is_file()
    except OSError:  # for example, a name that is too long, or a folder that is closed to us
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False also for a path that the system cannot even look up."""
    try:
        return path.is_dir()
    except OSError:
        return False


def in_home(path: str) -> Path:
    """Return a path with `~` replaced; as it stands where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def shipped_places(in_package: str, in_checkout: str) -> tuple[Path, Path]:
    """Return where something that comes with heterotune may be: in an installed wheel's package, or in a checkout.

    Args:
        in_package: Its path from the package's folder.
        in_checkout: Its path from the top of the repository.
    """
    package = Path(__file__).resolve().parent
    return package / in_package, package.parents[1] / in_checkout
