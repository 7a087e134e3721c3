"""Store of all validated episodes: one folder with frames, an index and the normaliser.

::

    artifacts/episodes/
        frames.safetensors       obs/<key> (M, d), actions (M, A), rewards (M,), dones (M,)
        index.json               names, offsets, lengths, success, quality, dimensions,
                                 weights where a recipe gives some
        normalizer.safetensors   buffers of :class:`zprl.data.normalizer.Normalizer`
        images/<number>.npy      images of each camera (M, H, W, 3) uint8, where there are any

Images are mapped, not read, so that more of them than memory holds can be trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zprl import durable
from zprl.data.array_writer import ArrayWriter, write_npy, write_safetensors
from zprl.data.episode import Episode, is_image
from zprl.data.normalizer import Normalizer
from zprl.errors import DataError

FORMAT_VERSION = 1
MAX_INDEX = 64 * 2**20
"""Longest index, in bytes: 100,000 episodes have 10 MB."""
IMAGES = "images"
INGEST_AGAIN = "run the ingest stage again (dvc repro ingest)"


class EpisodeStore:
    """Read-only view of a stored set of episodes (M frames in all).

    Attributes:
        obs: (M, d) per key, in the order of ``ingest.obs_keys``, then images (M, H, W, 3) uint8.
        obs_dims: Width of each key that is no image.
        image_sizes: Height and width of each key that is one, in order.
        actions: (M, A).
        rewards: (M,).
        dones: (M,) bool.
        offsets: First frame of each episode.
        lengths: Frames of each episode.
        success: True for each episode that achieved the task, bool.
        names: ``<file stem>/<demo_i>`` of each episode.
        quality: Grade of each episode.
        weights: How often each episode's windows are drawn, relative to one another, float64; all 1
            unless a recipe says otherwise.
        normalizer: Fitted on all frames.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        index = durable.read_json(self.path / "index.json", limit=MAX_INDEX)
        try:
            if index["format_version"] != FORMAT_VERSION:
                raise DataError(
                    f"{self.path} has format version {index['format_version']}, "
                    f"this zprl reads {FORMAT_VERSION}",
                    remedy=INGEST_AGAIN,
                )
            frames = durable.read_tensors(self.path / "frames.safetensors")
            self.names: tuple[str, ...] = tuple(index["names"])
            self.quality: tuple[str, ...] = tuple(index["quality"])
            self.success = torch.tensor(index["success"], dtype=torch.bool)
            self.lengths = torch.tensor(index["lengths"], dtype=torch.long)
            self.offsets = torch.tensor(index["offsets"], dtype=torch.long)
            self.weights = torch.tensor(
                index.get("weights", [1.0] * len(self.names)), dtype=torch.float64
            )
            # A list, not a mapping: JSON objects are written with sorted keys, and the order of
            # keys is part of a policy.
            self.obs_dims: dict[str, int] = {key: int(width) for key, width in index["obs_dims"]}
            self.action_dim = int(index["action_dim"])
            self.image_sizes: dict[str, tuple[int, int]] = {
                key: (int(h), int(w)) for key, h, w in index.get("images", [])
            }

            self.obs = {key: frames[f"obs/{key}"] for key in self.obs_dims}
            self.obs |= {
                key: _mapped(self.path / IMAGES / f"{n}.npy")
                for n, key in enumerate(self.image_sizes)
            }
            self.actions = frames["actions"]
            self.rewards = frames["rewards"]
            self.dones = frames["dones"]
            state = durable.read_tensors(self.path / "normalizer.safetensors")
            self.normalizer = Normalizer.from_state(state, self.obs_dims)
            self._check()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path} is damaged: {error}", remedy=INGEST_AGAIN) from error

    def _check(self) -> None:
        """Raise :class:`ValueError` where the index and the arrays do not fit together."""
        total = int(self.lengths.sum())
        sizes = {
            len(self.names),
            len(self.quality),
            len(self.success),
            len(self.lengths),
            len(self.offsets),
            len(self.weights),
        }
        if not (self.weights.isfinite() & (self.weights > 0)).all():
            raise ValueError("index.json has weights that are not positive numbers")

        shapes = {key: tuple(value.shape) for key, value in self.obs.items()}
        shapes["actions"] = tuple(self.actions.shape)
        wanted: dict[str, tuple[int, ...]] = {
            key: (total, width) for key, width in self.obs_dims.items()
        }
        wanted["actions"] = (total, self.action_dim)
        wanted |= {key: (total, *size, 3) for key, size in self.image_sizes.items()}
        expected_offsets = torch.cumsum(self.lengths, 0) - self.lengths
        if len(sizes) != 1 or shapes != wanted or not torch.equal(expected_offsets, self.offsets):
            raise ValueError("index.json and frames.safetensors do not fit together")

    @classmethod
    def open(cls, path: Path | str) -> EpisodeStore:
        """Open a store, or raise :class:`DataError` naming the file that is missing or damaged."""
        return cls(path)

    @staticmethod
    def write(
        path: Path | str,
        episodes: Sequence[Episode],
        normalizer: Normalizer,
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Replace the folder ``path``; the same episodes give the same bytes.

        One episode at a time is in memory.

        Args:
            path: The folder.
            episodes: Read once per array that is stored.
            normalizer: Fitted on them.
            weights: How often windows of each quality are drawn in training (1 where it says
                nothing); ``None`` or empty stores none.
        """
        if not episodes:
            raise DataError(
                "there are no episodes to store", remedy="record demonstrations or relax the checks"
            )
        images = {
            key: value.shape[1:3] for key, value in episodes[0].obs.items() if is_image(value)
        }
        index = _index(episodes, normalizer, images, weights or {})
        total = sum(index["lengths"])

        def stack(
            dtype: str, shape: Sequence[int], of: Callable[[Episode], np.ndarray]
        ) -> ArrayWriter:
            return ArrayWriter(dtype, (total, *shape), (of(e) for e in episodes))

        frames = {
            f"obs/{key}": stack("float32", (width,), _observation(key))
            for key, width in normalizer.obs_dims.items()
        }
        frames["actions"] = stack("float32", (normalizer.action_dim,), lambda e: e.actions)
        frames["rewards"] = stack("float32", (), lambda e: e.rewards)
        frames["dones"] = stack("bool", (), lambda e: e.dones)

        def fill(folder: Path) -> None:
            for number, (key, size) in enumerate(images.items()):
                array = stack("uint8", (*size, 3), _images(key, size))
                write_npy(folder / IMAGES / f"{number}.npy", array)
            write_safetensors(folder / "frames.safetensors", frames)
            durable.write_tensors(folder / "normalizer.safetensors", normalizer.state_dict())
            durable.write_json(folder / "index.json", index)

        durable.write_dir(path, fill)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        # IndexError ends iteration; negative numbers count from the end.
        number = range(len(self))[index]
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
    """Fit on all frames of ``episodes``, one at a time; keys in the order of the first episode."""
    pairs = {
        key: (torch.from_numpy(low), torch.from_numpy(high))
        for key, (low, high) in _ranges(episodes).items()
    }
    actions = pairs.pop("actions")
    return Normalizer.of_ranges(
        {key.removeprefix("obs/"): pair for key, pair in pairs.items()}, actions
    )


def _ranges(episodes: Iterable[Episode]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return lowest and highest values, each (d,) float32, under ``obs/<key>`` and ``actions``.

    Images have none.  A NaN anywhere in a dimension makes both NaN.
    """
    measured: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for episode in episodes:
        states = {f"obs/{key}": value for key, value in episode.obs.items() if not is_image(value)}
        for key, value in {**states, "actions": episode.actions}.items():
            value = value.astype(np.float32, copy=False)
            low = value.min(0)
            high = value.max(0)

            # The first episode's ranges are its own, later ones widen them.
            if key in measured:
                low = np.minimum(measured[key][0], low)
                high = np.maximum(measured[key][1], high)
            measured[key] = (low, high)
    return measured


def _index(
    episodes: Sequence[Episode],
    normalizer: Normalizer,
    images: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """Return the content of ``index.json``."""
    facts = [(e.name, e.quality, bool(e.success), e.length) for e in episodes]
    names, quality, success, lengths = (list(column) for column in zip(*facts, strict=True))
    index: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "names": names,
        "quality": quality,
        "success": success,
        "lengths": lengths,
        "offsets": [0, *itertools.accumulate(lengths[:-1])],
        "obs_dims": [[key, width] for key, width in normalizer.obs_dims.items()],
        "action_dim": normalizer.action_dim,
    }
    # Only what is there is named, so that stores without it keep their bytes.
    if images:
        index["images"] = [[key, *size] for key, size in images.items()]
    if weights:
        index["weights"] = [float(weights.get(grade, 1.0)) for grade in quality]
    return index


def _observation(key: str) -> Callable[[Episode], np.ndarray]:
    return lambda episode: episode.obs[key]


def _images(key: str, size: tuple[int, ...]) -> Callable[[Episode], np.ndarray]:
    """Return a function to one camera's images (L, H, W, 3), all of the first episode's size."""

    def of(episode: Episode) -> np.ndarray:
        part = episode.obs[key]
        if part.dtype != np.uint8 or part.shape[1:] != (*size, 3):
            raise DataError(
                f"images of {part.dtype} {part.shape[1:]} among others of uint8 {(*size, 3)}",
                remedy="scale them alike",
            )
        return part

    return of


def _mapped(path: Path) -> Tensor:
    """Return images as a tensor over the file; a change to it stays in memory."""
    if not path.exists():
        raise DataError(f"{path} does not exist", remedy=INGEST_AGAIN)
    # Unlike `np.load`, it raises ValueError for any file that is no array of numbers.
    images = np.lib.format.open_memmap(path, mode="c")
    if images.dtype != np.uint8:
        raise ValueError(f"{path} holds no images")
    return torch.from_numpy(images)
