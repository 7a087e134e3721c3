"""Sizes of the images of an HDF5 recording, read from headers alone.

Runs in the child of :mod:`zprl.data.readers.sandbox`.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from zprl.data.readers.hdf5_guard import member, member_names
from zprl.data.readers.hdf5_reader import natural

OBSERVED = ("obs", "observations")
RECORDINGS = ("demo_", "episode_")
MAX_DEPTH = 6


def hdf5_image_sizes(path: str) -> dict[str, tuple[int, int]]:
    """Return height and width of the images of a file's first recording, by the readers' key."""
    with h5py.File(path, "r") as file:
        data = member(file["/"], "data")
        top = data if isinstance(data, h5py.Group) else file["/"]
        first = min(
            (name for name in member_names(top) if name.startswith(RECORDINGS)),
            key=natural,
            default=None,
        )

        recording = None if first is None else member(top, first)
        if not isinstance(recording, h5py.Group):
            return {}
        return {
            key: size for name in OBSERVED for key, size in _images(member(recording, name), "", 0)
        }


def _images(node: object, key: str, depth: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield key, and height and width of every series of images below a node."""
    if isinstance(node, h5py.Group) and depth < MAX_DEPTH:
        for name in member_names(node):
            yield from _images(member(node, name), f"{key}.{name}" if key else name, depth + 1)
    elif (
        isinstance(node, h5py.Dataset)
        and node.dtype == np.uint8
        and node.ndim == 4
        and node.shape[3] == 3
    ):
        yield key, (node.shape[1], node.shape[2])
