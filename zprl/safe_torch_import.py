"""Keep torch from running native code that lies in the working folder.

NVIDIA's cuSPARSELt, which torch loads, ends its library path (RUNPATH ``$ORIGIN:``) with an empty
entry.  That is the working folder, and ``libcuda.so.1`` is looked for there: beside downloaded
recordings, a file of that name would be run by every command that imports torch. So the library is
loaded before torch asks for it, by a thread whose own working folder is ``/``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

LIBRARY = "nvidia/cusparselt/lib/libcusparseLt.so.0"
"""Where torch finds it: beside its own folder."""


class _BeforeTorch(MetaPathFinder):
    """Finder of no module, which notices when torch is about to be imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch":
            sys.meta_path.remove(self)
            _load()


def _load() -> None:
    torch = PathFinder.find_spec("torch")
    library = (
        Path(torch.origin).absolute().parents[1] / LIBRARY if torch and torch.origin else Path()
    )
    if library.is_file():
        thread = threading.Thread(target=_load_at_root, args=(str(library),))
        thread.start()
        thread.join()


def _load_at_root(library: str) -> None:
    """Load a library while the working folder of this thread, and of no other, is ``/``."""
    before: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    try:
        os.unshare(os.CLONE_FS)
        os.chdir("/")
    except OSError:
        # A container may forbid it: then for an instant it is the folder of all threads.
        before = contextlib.chdir("/")
    with contextlib.suppress(OSError), before:  # torch itself says better why it does not load
        ctypes.CDLL(library)


def guard() -> None:
    """Have the library loaded when torch is, for many commands never need it."""
    if sys.platform == "linux" and "torch" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorch())
