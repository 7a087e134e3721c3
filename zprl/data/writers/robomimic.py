"""Writer of one robomimic HDF5 file: complete and under its final name, or not there at all.

A killed HDF5 writer leaves a file that cannot be opened again, so nothing is ever appended to an
existing file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from zprl import durable
from zprl.data.episode import QUALITIES, Episode, is_image
from zprl.errors import DataError, EnvironmentProblem

FORMAT_VERSION = 1
"""Written as attribute ``zprl_format`` of ``data``; files of other tools have none."""
PLAIN_BYTES = 2**16
"""Largest array that is stored uncompressed."""


class RobomimicWriter:
    """Writes one file; it appears when the ``with`` block ends without an exception.

    Layout: ``data/demo_i/{obs/<key>, actions, rewards, dones}`` with ``num_samples``, ``success``
    and ``quality`` on each demo, ``total`` and ``env_args`` on ``data``, and one ``mask/<quality>``
    list per grade (robomimic's schema plus the two labels).  ``next_obs`` is left out: it repeats
    ``obs`` and nothing here reads it.

    Args:
        path: Final name, ``*.hdf5``.
        env_args: How the demos were made; robomimic expects ``env_name``, ``env_type`` and
            ``env_kwargs``.
        overwrite: Replace an existing file instead of refusing to: recorded demonstrations are
            never lost by accident.

    Example::

        with RobomimicWriter("data/demos/monday.hdf5", {"env_name": "lift-cube", "env_type": 1,
            "env_kwargs": {}}) as writer: writer.write(episode)
    """

    def __init__(
        self, path: Path | str, env_args: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self._env_args = json.dumps(dict(env_args), sort_keys=True)
        self._temp = self.path.with_name(f"{self.path.name}.{os.getpid()}{durable.PARTIAL}")
        self._overwrite = overwrite
        self._file: h5py.File | None = None
        self._total = 0
        self._masks: dict[str, list[str]] = {}

    def __enter__(self) -> RobomimicWriter:
        if self.path.exists() and not self._overwrite:
            raise DataError(
                f"{self.path} exists already",
                remedy="choose another name, or delete the file if it is not needed",
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._temp, "w")
        self._file.create_group("data").attrs["zprl_format"] = FORMAT_VERSION
        return self

    def write(self, episode: Episode) -> str:
        """Add an episode as the next ``demo_i`` and return that name.

        The episode's own name is not kept.

        Raises:
            DataError: an unknown grade.
        """
        if self._file is None:
            raise RuntimeError("RobomimicWriter is used outside its with block")
        if episode.quality not in QUALITIES:
            raise DataError(
                f"quality '{episode.quality}' is unknown",
                remedy=f"use one of {', '.join(QUALITIES)}",
            )

        data = self._file["data"]
        name = f"demo_{len(data)}"
        demo = data.create_group(name)
        demo.attrs["num_samples"] = episode.length
        demo.attrs["success"] = bool(episode.success)
        demo.attrs["quality"] = np.bytes_(episode.quality)  # fixed length: read without a heap

        for key, value in episode.obs.items():
            stored = value if is_image(value) else value.astype(np.float32, copy=False)
            _store(demo, f"obs/{key}", stored)
        _store(demo, "actions", episode.actions.astype(np.float32, copy=False))
        _store(demo, "rewards", episode.rewards.astype(np.float32, copy=False))
        _store(demo, "dones", episode.dones.astype(np.uint8))

        self._total += episode.length
        self._masks.setdefault(episode.quality, []).append(name)
        return name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        if file is None:
            return

        try:
            if kind is None:
                file["data"].attrs["total"] = self._total
                file["data"].attrs["env_args"] = self._env_args
                for quality, names in sorted(self._masks.items()):
                    if quality != "unknown":
                        file.create_dataset(f"mask/{quality}", data=np.array(names, dtype="S"))
            file.close()
            if kind is None:
                durable.publish_file(self._temp, self.path)
        except OSError as problem:
            raise EnvironmentProblem(
                f"cannot write {self.path}: {problem}", remedy="check disk space and permissions"
            ) from problem
        finally:
            self._temp.unlink(missing_ok=True)


def _store(group: h5py.Group, name: str, value: np.ndarray) -> None:
    """Store an array, compressed where it is large: an index of chunks costs some kilobytes."""
    options: dict[str, Any] = {}
    if value.nbytes > PLAIN_BYTES:
        # One image at a time, as robomimic does.
        options["chunks"] = (1, *value.shape[1:]) if is_image(value) else value.shape
        options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    group.create_dataset(name, data=value, **options)
