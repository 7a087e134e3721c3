"""Reader of Isaac Lab's recordings, HDF5 files of its ``RecorderManager``.

They are nearly of robomimic's schema, and are read with plain h5py and no trust in the file.
Differences, as Isaac Lab 3.0.0 writes them:

- Observations may be groups in groups: their names are joined by dots
  (``datagen_info.eef_pose.franka``).  Where the observation group ``policy`` is one flat vector,
  ``obs`` is a dataset, and its key here is ``policy``.
- An episode is a success or not as a whole, and no rewards are recorded: the reward of its last
  frame is 1 or 0.
- ``processed_actions``, what the action terms made of the actions, are read with
  ``ingest.actions: processed_actions``.
- Control steps per second follow from ``env_args.sim_args``: 1 / (dt * decimation).
- Files without ``format_version`` are older than 3.0, whose quaternions are wxyz: observations
  named ``*quat``, four numbers wide, become xyzw.  Actions, and quaternions inside other
  observations, stay as they are; see ``ingest.conventions``.

``states`` and ``initial_state`` are the simulator's own, taken after each step: no observations of
the frame they stand in.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from zprl.data.episode import is_quaternion
from zprl.data.readers.env_args import env_args
from zprl.data.readers.hdf5_guard import RefusedError, attribute, group, member, member_names
from zprl.data.readers.hdf5_reader import natural
from zprl.data.readers.robomimic import RobomimicReader, observation

FLAT = "policy"
"""Key of an observation group that was recorded as one vector."""
VERSION = 1
"""Format version since which quaternions are xyzw (``DATASET_FORMAT_VERSION`` of
isaaclab/utils/datasets)."""
MAX_DEPTH = 6


class IsaacLabReader(RobomimicReader):
    """Reads files that Isaac Lab's recorders export.

    Example::

        for item in IsaacLabReader(obs_keys=("eef_pos", "eef_quat")).read("logs/dataset.hdf5"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "isaaclab"

    def owns_file(self, file: h5py.File) -> bool:
        """Tell whether there are robomimic's demos with Isaac Lab's groups or attributes.

        Isaac Lab has groups of states where robomimic has one dataset.
        """
        if not super().owns_file(file):
            return False

        data = group(file, "data")
        first = group(data, min((name for name in data if name.startswith("demo_")), key=natural))
        states = any(
            isinstance(member(first, name), h5py.Group) for name in ("initial_state", "states")
        )
        return states or "format_version" in file.attrs or env_args(data).sim_args

    def _format(self, file: h5py.File) -> str:
        if _legacy(file):
            return "Isaac Lab before 3.0; quaternions named *quat became xyzw from wxyz"
        return f"Isaac Lab, format version {attribute(file['/'], 'format_version')}"

    def _check_version(self, data: h5py.Group) -> None:
        version = attribute(data.file["/"], "format_version")
        if version is not None and version != VERSION:
            raise RefusedError(
                "D20",
                f"format version {version}, this zprl reads {VERSION}",
                "update zprl or convert the file",
            )

    def _observations(self, node: h5py.Group, length: object) -> dict[str, np.ndarray]:
        """Read the observations; quaternions of old files become xyzw."""
        places = dict(_leaves(node, "obs"))
        states = [
            key
            for key, (parent, name) in places.items()
            if isinstance(parent[name], h5py.Dataset) and parent[name].ndim <= 2
        ]
        obs = {}
        for key in self.wanted(list(places), states):
            value = observation(*places[key], length)
            assert value is not None
            if (
                is_quaternion(key)
                and value.ndim == 2
                and value.shape[1] == 4
                and _legacy(node.file)
            ):
                value = value[:, [1, 2, 3, 0]]
            obs[key] = value
        return obs


def _legacy(file: h5py.File) -> bool:
    return "format_version" not in file.attrs


def _leaves(
    parent: h5py.Group, name: str, key: str = "", depth: int = 0
) -> Iterator[tuple[str, tuple[h5py.Group, str]]]:
    """Yield key, and group and name of every observed dataset."""
    node = member(parent, name)
    if node is None:
        raise RefusedError(
            "D02",
            f"{parent.name}/{name} is missing",
            "record observations, e.g. with ActionStateRecorderManagerCfg",
        )
    if isinstance(node, h5py.Group):
        if depth == MAX_DEPTH:
            raise RefusedError(
                "D05",
                f"{node.name} is nested deeper than {MAX_DEPTH} levels",
                "flatten the observation when recording",
            )
        for part in member_names(node):
            yield from _leaves(node, part, f"{key}.{part}" if key else part, depth + 1)
        return
    yield key or FLAT, (parent, name)
