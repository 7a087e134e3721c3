"""The USD files that Isaac's worlds refer to, authored from primitives.

They need no download, no licence and no GPU.

Each thing has a module in :mod:`zprl.envs.isaac.usd`.  The tables are public, here too, because
images are drawn from the same numbers the physics uses.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from pathlib import Path

from zprl.envs.isaac.usd import cabinet, panda, shapes, table
from zprl.envs.isaac.usd.panda import ARM, CAPSULES, FINGERS, Segment
from zprl.envs.isaac.usd.shapes import Box, Capsule, Vec3
from zprl.envs.isaac.usd.table import CUBE_EDGE, TABLE, TABLE_POSE

__all__ = [
    "ARM",
    "BOXES",
    "CAPSULES",
    "COLOURS",
    "CUBE_EDGE",
    "FINGERS",
    "TABLE",
    "TABLE_POSE",
    "Box",
    "Capsule",
    "Segment",
    "Vec3",
    "author",
    "ensure",
    "name",
]
BOXES = panda.BOXES | table.BOXES | cabinet.BOXES
"""Boxes by link or thing, in its frame."""
COLOURS = panda.COLOURS | table.COLOURS | cabinet.COLOURS
"""Colour of each link or thing, in the simulators' images as in those that reports draw."""
_THINGS = (table, panda, cabinet)


@functools.cache  # the modules that this process has imported stay, even where files are edited
def name() -> str:
    """Return the folder's name, a digest of every module that decides what is written.

    So an edit of a number never meets stale assets.
    """
    files = sorted(Path(str(module.__file__)) for module in (shapes, *_THINGS))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def ensure(cache: Path) -> Path:
    """Return the asset root below ``cache``; author it if this code has not done so yet.

    Two processes may race: each authors into its own folder and the first rename wins.
    """
    root = cache / name()
    if root.is_dir():
        return root

    temp = cache / f"{root.name}.{os.getpid()}.partial"
    shutil.rmtree(temp, ignore_errors=True)
    author(temp)
    try:
        temp.rename(root)
    except OSError:
        shutil.rmtree(temp, ignore_errors=True)
        if not root.is_dir():
            raise
    return root


def author(root: Path) -> None:
    """Write every thing below ``root``, at the paths that stock configurations resolve to."""
    for thing in _THINGS:
        thing.author(root)
