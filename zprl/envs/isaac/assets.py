"""The USD files that Isaac's worlds refer to, authored from primitives: no download, no licence question, no GPU.

Each thing has a module in :mod:`zprl.envs.isaac.usd`.  The tables are public, here too, because
pictures are drawn from the same numbers the physics uses.
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
"""Link or thing to boxes in its frame, of everything that has some."""
COLOURS = panda.COLOURS | table.COLOURS | cabinet.COLOURS
"""Link or thing to its colour, in the simulators' pictures as in those that reports draw."""
_THINGS = (table, panda, cabinet)


@functools.cache  # what this process has imported stays what it is, whoever edits the files meanwhile
def name() -> str:
    """Name of the folder: a digest of every module that decides what is written, so an edit of a number never meets stale assets."""
    files = sorted(Path(str(module.__file__)) for module in (shapes, *_THINGS))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def ensure(cache: Path) -> Path:
    """Return the asset root below ``cache``, authoring it first if this version of the code has not done so yet.

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
    """Write every thing below ``root``, those of stock configurations at the paths that these resolve to."""
    for thing in _THINGS:
        thing.author(root)
