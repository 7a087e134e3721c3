"""What the scripts beside this one write in this environment and open in another tool's: ``python -m tests.peers.made FOLDER``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.factories import make_episodes
from zprl.data.episode import Episode
from zprl.data.writers.convert import convert
from zprl.data.writers.robomimic import RobomimicWriter

RATE = 20
TASK = "Lift the cube."


def drifting(frames: int, height: int, width: int) -> np.ndarray:
    """Smooth images that change from frame to frame, so that a frame in the wrong place shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [
            np.stack([x * 200 // width + t, y * 200 // height, 0 * x + 5 * t], -1)
            for t in range(frames)
        ]
    ).astype(np.uint8)


def with_images(episode: Episode) -> Episode:
    """Two cameras, one of odd size."""
    images = {
        "wrist_image": drifting(episode.length, 96, 128),
        "front": drifting(episode.length, 63, 65),
    }
    return replace(episode, obs={**episode.obs, **images}, rate_hz=RATE)


def main(folder: Path) -> None:
    """Datasets ``video`` and ``png``, ``again.hdf5``, and the numbers they must hold."""
    folder.mkdir(parents=True)
    episodes = [with_images(episode) for episode in make_episodes(4)]
    with RobomimicWriter(
        folder / "source.hdf5",
        {"env_name": "lift", "env_type": 2, "env_kwargs": {"control_freq": RATE}},
    ) as writer:
        for episode in episodes:
            writer.write(episode)
    keys = tuple(episodes[0].obs)
    for name, to, images in (
        ("video", "lerobot", "video"),
        ("png", "lerobot", "png"),
        ("again.hdf5", "robomimic", "video"),
    ):
        print(
            convert(
                folder / "source.hdf5",
                folder / name,
                to=to,
                obs_keys=keys,
                task=TASK,
                robot="franka",
                images=images,
            )
        )
    arrays = {}
    for number, episode in enumerate(episodes):
        states = [value for value in episode.obs.values() if value.dtype != np.uint8]
        arrays |= {f"{number}/{key}": value for key, value in episode.obs.items()}
        arrays |= {
            f"{number}/state": np.concatenate(states, 1),
            f"{number}/actions": episode.actions,
            f"{number}/rewards": episode.rewards,
        }
    np.savez_compressed(folder / "expected.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
