"""All validated episodes in one folder: frames of every episode joined per key, an index, and the normaliser.

::

    artifacts/episodes/
        frames.safetensors       obs/<key> (M, d), actions (M, A), rewards (M,), dones (M,)
        index.json               names, offsets, lengths, success, quality, dimensions
        normalizer.safetensors   buffers of :class:`zprl.data.normalizer.Normalizer`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zprl import durable
from zprl.data.episode import Episode
from zprl.data.normalizer import Normalizer
from zprl.errors import DataError

FORMAT_VERSION = 1


class EpisodeStore:
    """Read-only view of a stored set of episodes (M frames in all).

    Attributes:
        obs: (M, d) per key, in the order of ``ingest.obs_keys``.
        actions: (M, A).
        rewards: (M,).
        dones: (M,) bool.
        offsets: First frame of each episode.
        lengths: Frames of each episode.
        success: Whether each episode achieved the task, bool.
        names: ``<file stem>/<demo_i>`` of each episode.
        quality: Grade of each episode.
        normalizer: Fitted on all frames.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        index = durable.read_json(self.path / "index.json")
        try:
            if index["format_version"] != FORMAT_VERSION:
                raise DataError(
                    f"{self.path} has format version {index['format_version']}, this zprl reads {FORMAT_VERSION}",
                    remedy="run the ingest stage again (dvc repro ingest)",
                )
            frames = durable.read_tensors(self.path / "frames.safetensors")
            self.names: tuple[str, ...] = tuple(index["names"])
            self.quality: tuple[str, ...] = tuple(index["quality"])
            self.success = torch.tensor(index["success"], dtype=torch.bool)
            self.lengths = torch.tensor(index["lengths"], dtype=torch.long)
            self.offsets = torch.tensor(index["offsets"], dtype=torch.long)
            # A list, not a mapping: JSON objects are written with sorted keys, and the order of keys is part of a policy.
            self.obs_dims: dict[str, int] = {key: int(width) for key, width in index["obs_dims"]}
            self.action_dim = int(index["action_dim"])
            self.obs = {key: frames[f"obs/{key}"] for key in self.obs_dims}
            self.actions, self.rewards, self.dones = frames["actions"], frames["rewards"], frames["dones"]
            state = durable.read_tensors(self.path / "normalizer.safetensors")
            self.normalizer = Normalizer.from_state(state, self.obs_dims)
            self._check()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path} is damaged: {error}", remedy="run the ingest stage again (dvc repro ingest)") from error

    def _check(self) -> None:
        total = int(self.lengths.sum())
        sizes = {len(self.names), len(self.quality), len(self.success), len(self.lengths), len(self.offsets)}
        shapes = {key: tuple(value.shape) for key, value in self.obs.items()} | {"actions": tuple(self.actions.shape)}
        wanted = {key: (total, width) for key, width in self.obs_dims.items()} | {"actions": (total, self.action_dim)}
        expected_offsets = torch.cumsum(self.lengths, 0) - self.lengths
        if len(sizes) != 1 or shapes != wanted or not torch.equal(expected_offsets, self.offsets):
            raise ValueError("index.json and frames.safetensors do not fit together")

    @classmethod
    def open(cls, path: Path | str) -> EpisodeStore:
        """Open a store, or raise :class:`DataError` naming the file that is missing or damaged."""
        return cls(path)

    @staticmethod
    def write(path: Path | str, episodes: Sequence[Episode], normalizer: Normalizer) -> None:
        """Replace the folder ``path``; the same episodes give the same bytes."""
        if not episodes:
            raise DataError("there are no episodes to store", remedy="record demonstrations or relax the checks")
        keys = list(normalizer.obs_dims)
        frames: dict[str, Tensor] = {f"obs/{key}": _join([e.obs[key] for e in episodes]) for key in keys}
        frames["actions"] = _join([e.actions for e in episodes])
        frames["rewards"] = _join([e.rewards for e in episodes])
        frames["dones"] = _join([e.dones for e in episodes], np.bool_)
        lengths = [episode.length for episode in episodes]
        index: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "names": [e.name for e in episodes],
            "quality": [e.quality for e in episodes],
            "success": [bool(e.success) for e in episodes],
            "lengths": lengths,
            "offsets": [sum(lengths[:i]) for i in range(len(lengths))],
            "obs_dims": [[key, width] for key, width in normalizer.obs_dims.items()],
            "action_dim": normalizer.action_dim,
        }

        def fill(folder: Path) -> None:
            durable.write_tensors(folder / "frames.safetensors", frames)
            durable.write_tensors(folder / "normalizer.safetensors", normalizer.state_dict())
            durable.write_json(folder / "index.json", index)

        durable.write_dir(path, fill)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        number = range(len(self))[index]  # IndexError ends iteration; negative numbers count from the end
        start = int(self.offsets[number])
        part = slice(start, start + int(self.lengths[number]))
        return Episode(
            name=self.names[number],
            obs={key: value[part].numpy() for key, value in self.obs.items()},
            actions=self.actions[part].numpy(),
            rewards=self.rewards[part].numpy(),
            dones=self.dones[part].numpy(),
            success=bool(self.success[number]),
            quality=self.quality[number],
        )


def fit_normalizer(episodes: Sequence[Episode]) -> Normalizer:
    """Fit on all frames of ``episodes``; keys in the order of the first episode."""
    obs = {key: _join([e.obs[key] for e in episodes]) for key in episodes[0].obs}
    return Normalizer.fit(obs, _join([e.actions for e in episodes]))


def _join(arrays: Sequence[np.ndarray], dtype: Any = np.float32) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype, copy=False))
