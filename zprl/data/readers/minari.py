"""Reader of Minari's datasets, ``<dataset>/data/main_data.hdf5``.

They are read with plain h5py and no trust in the file.  Conventions that differ are converted:

- Its observations have one frame more than there are actions: the last is left out.
- Keys of nested observations are joined by dots (``achieved_goal.kettle``).  A flat vector is the
  key ``observation``, or sorted under robomimic's names where the environment is known
  (:mod:`zprl.data.benchmark_layouts`); ``metadata.json`` beside the file says which it is.
- Success of a step is ``infos/success`` or ``infos/is_success``, else a sparse reward's upper value
  (1 of 0 and 1, 0 of -1 and 0).
- An episode here ends with its first success, so what was recorded after it is left out, and the
  reward is 1 there and 0 before: benchmarks go on recording, with rewards of any shape.

Written against Minari 0.5.4.  Images that it has encoded as JPEG are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from zprl import durable
from zprl.data.benchmark_layouts import layout
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import (
    RefusedError,
    attribute,
    check_dataset,
    check_names,
    group,
    member,
    member_names,
)
from zprl.data.readers.hdf5_reader import Hdf5Reader, images, natural, numbers
from zprl.errors import DataError

MAIN = "main_data"
PREFIX = "episode_"
FLAT = "observation"
"""Key of a flat observation of an environment that is not known here."""
SUCCESS = ("success", "is_success")
OBSERVED = "rewards and one more"
"""Words for the number of observations that there must be."""
MAX_DEPTH = 4


class MinariReader(Hdf5Reader):
    """Reads files of Minari's HDF5 storage.

    Example::

        for item in MinariReader().read("D4RL/door/human-v2/data/main_data.hdf5"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "minari"

    def owns_file(self, file: h5py.File) -> bool:
        """Tell whether there are groups ``episode_<n>`` at the top."""
        return any(name.startswith(PREFIX) for name in file)

    def read_file(self, file: h5py.File, path: Path) -> Iterator[Episode | Finding]:
        """Read an open file."""
        try:
            episodes = sorted(
                (name for name in member_names(file["/"]) if name.startswith(PREFIX)), key=natural
            )
            if not episodes:
                raise RefusedError(
                    "D02", "the file holds no episodes", "check that ingest.reader names its format"
                )
            environment = _environment(file, path)
        except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
            yield self.refusal(path, error)
            return

        # Every dataset's file has the same name: the folder's tells them apart.
        stem = path.stem
        if stem == MAIN:
            stem = (path.parent.parent if path.parent.name == "data" else path.parent).name
        for name in episodes:
            full_name = f"{stem}/{name}"
            try:
                episode = self._read_episode(group(file["/"], name), full_name, environment)
            except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
                yield self.refusal(path, error, episode=full_name)
                continue
            yield episode

    def _read_episode(self, node: h5py.Group, name: str, environment: str) -> Episode:
        """Read one episode up to its first success.

        Args:
            node: The episode's group in the file.
            name: Name of the episode that is made.
            environment: Environment's id, which decides how a flat observation is split.
        """
        check_names(node)
        steps = check_dataset(member(node, "rewards"), f"{node.name}/rewards").shape[0]
        rewards = numbers(node, "rewards", rank=1, length=steps)
        actions = numbers(
            node, self.actions_key, rank=2, length=steps, length_source="the number of rewards"
        )
        if rewards is None or actions is None:
            raise RefusedError(
                "D02",
                f"the dataset {node.name}/{self.actions_key} is missing",
                "check that ingest.reader names its format",
            )

        won = _successes(node, rewards)
        length = int(won.argmax()) + 1 if won.any() else steps
        obs = {
            key: value[:length]
            for key, value in self._observations(node, steps, environment).items()
        }
        last = np.zeros(length, bool)
        last[-1:] = True
        return Episode(
            name=name,
            obs=obs,
            actions=actions[:length],
            rewards=won[:length].astype(np.float32),
            dones=last,
            success=bool(won.any()),
        )

    def _observations(
        self, node: h5py.Group, steps: int, environment: str
    ) -> dict[str, np.ndarray]:
        """Read the observations of all steps, and of the frame after the last."""
        places = dict(_leaves(node, "observations"))
        frames = steps + 1
        if list(places) == [""]:  # a flat vector
            parent, name = places.pop("")
            flat = numbers(parent, name, rank=2, length=frames, length_source=OBSERVED)
            assert flat is not None
            parts = layout(environment, flat.shape[1])
            if parts is None:
                split = {FLAT: flat}
            else:
                split = {key: flat[:, where] for key, where in parts.items()}
            return {key: split[key] for key in self.wanted(list(split), list(split))}

        states = [key for key, (parent, name) in places.items() if parent[name].ndim <= 2]
        obs = {}
        for key in self.wanted(list(places), states):
            parent, name = places[key]
            value = images(parent, name, length=frames, length_source=OBSERVED)
            if value is None:
                value = numbers(parent, name, rank=2, length=frames, length_source=OBSERVED)
            assert value is not None
            obs[key] = value
        return obs


def _leaves(
    parent: h5py.Group, name: str, key: str = "", depth: int = 0
) -> Iterator[tuple[str, tuple[h5py.Group, str]]]:
    """Yield key, and group and name of every dataset of an observation."""
    node = member(parent, name)
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

    path = f"{parent.name}/{name}"
    if node is None:
        raise RefusedError(
            "D02", f"the dataset {path} is missing", "check that ingest.reader names its format"
        )
    if isinstance(node, h5py.Dataset) and node.dtype.hasobject:
        raise RefusedError(
            "D19",
            f"{path} holds encoded images or text",
            "record with jpeg_encoding=False, and numbers else",
        )
    check_dataset(node, path)
    yield key, (parent, name)


def _successes(node: h5py.Group, rewards: np.ndarray) -> np.ndarray:
    """Return the steps (T,) that were a success, as bool."""
    infos = member(node, "infos")
    if isinstance(infos, h5py.Group):
        for key in SUCCESS:
            flags = member(infos, key)
            if flags is None:
                continue
            shape = check_dataset(flags, f"{infos.name}/{key}").shape
            first = 1 if shape == (len(rewards) + 1,) else 0  # the reset may have a flag, too
            length = len(rewards) + first
            flag = numbers(infos, key, rank=1, length=length, length_source="the number of rewards")
            assert flag is not None
            return flag[first:] > 0.5

    values = set(np.unique(rewards).tolist())
    for low, high in ((0.0, 1.0), (-1.0, 0.0)):
        if values <= {low, high}:
            successes: np.ndarray = rewards == high
            return successes
    raise RefusedError(
        "D02",
        "no infos/success, and the rewards are not sparse",
        "record infos with a flag `success` for every step",
    )


def _environment(file: h5py.File, path: Path) -> str:
    """Return the environment's id, empty where nothing says it.

    Before Minari 0.5 the file itself says it, and since then ``metadata.json`` beside it.
    """
    text = attribute(file["/"], "env_spec")
    beside = path.with_name("metadata.json")
    if text is None and beside.is_file():
        try:
            metadata = durable.read_json(beside, allow_nan=True)
        except DataError as error:
            raise RefusedError(
                "D01", f"{beside.name} beside it: {error.message}", "copy it again from its source"
            ) from error
        text = metadata.get("env_spec") if isinstance(metadata, dict) else None

    try:
        spec = (
            durable.parse_json(text, "env_spec", allow_nan=True) if isinstance(text, str) else None
        )
    except DataError:
        spec = None
    return str(spec.get("id", "")) if isinstance(spec, dict) else ""
