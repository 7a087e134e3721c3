"""Files that grow and survive a kill; :mod:`zprl.durable` writes whole files.

Every append, fsync and removal calls :func:`zprl.durable.operation` first, so that fault tests can
strike it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from zprl import durable
from zprl.errors import EnvironmentProblem

MODE = 0o644
"""Rights of a new file."""


class Appender:
    """A file that only grows; an append that fails leaves it as it was.

    Args:
        path: The file; made when missing.
        new: Refuse a file that is there already.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | (os.O_EXCL if new else 0)
        with durable.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, flags, MODE)

    def append(self, data: bytes, *, sync: bool) -> None:
        """Append bytes; a killed process loses none of them.

        Args:
            data: The bytes; they reach the kernel before this returns.
            sync: Wait until a power cut cannot take them away either (milliseconds instead of
                microseconds).

        Raises:
            EnvironmentProblem: the disk is full or broken; nothing was appended.
        """
        with durable.explained(self.path):
            before = os.fstat(self._fd).st_size

            try:
                durable.operation("append", self.path)
                _write(self._fd, data)
                if sync:
                    durable.operation("fsync", self.path)
                    os.fsync(self._fd)
            except OSError:
                # A part of the bytes may have been written.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, before)
                raise

    def cut(self, size: int) -> None:
        """Remove everything after the first ``size`` bytes, for good."""
        with durable.explained(self.path):
            durable.operation("cut", self.path)
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; harmless when closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def remove(path: Path) -> None:
    """Remove a file for good; harmless when it is gone."""
    with durable.explained(path):
        durable.operation("remove", path)
        path.unlink(missing_ok=True)
        durable.sync(path.parent)


def lease(folder: Path) -> int:
    """Take the one writer's lease on a folder; the kernel drops it when its holder dies.

    The folder itself is locked, so that no lock file becomes part of the data.

    Returns:
        A file descriptor; closing it gives the lease back.

    Raises:
        EnvironmentProblem: another process writes there.
    """
    with durable.explained(folder):
        fd = os.open(folder, os.O_RDONLY)
        try:
            durable.lock(fd)
        except BlockingIOError as error:
            os.close(fd)
            raise EnvironmentProblem(
                f"another process writes {folder}", remedy="wait for it or stop it, then run again"
            ) from error
        except OSError:
            os.close(fd)
            raise
        return fd


def leased(folder: Path) -> bool:
    """Return whether a process holds the lease on a folder; a folder that is absent has none."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
