"""Processes that end when the one that started them ends, however that happens (on Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None, number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies: the thread that started this process.

    Args:
        parent: Its process id, where known: a child imports for a while before it can ask, and its
            parent may be dead by then.
        number: The signal; SIGKILL where there is nothing to save.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
