"""Small good things for tests: episodes, demo files, stores.

Make a demonstration that would pass every check: the arm goes down to a cube, closes, and lifts it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zprl.data.episode import Episode
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.writers.robomimic import RobomimicWriter

OBS_KEYS = (
    "robot0_eef_pos",
    "robot0_eef_quat",
    "robot0_gripper_qpos",
    "robot0_gripper_command",
    "object",
)
ENV_ARGS = {"env_name": "lift-cube", "env_type": 1, "env_kwargs": {}}


def make_episode(
    seed: int = 0,
    length: int = 40,
    *,
    name: str | None = None,
    success: bool = True,
    quality: str = "unknown",
) -> Episode:
    """A lift of ``length`` frames; equal seeds give equal episodes.  Actions are (L, 10): position, 6-D rotation, gripper."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, length)[:, None]
    cube = np.array([rng.uniform(0.4, 0.6), rng.uniform(-0.2, 0.2), 0.02])
    start = np.array([0.45, 0.0, 0.35]) + rng.uniform(-0.03, 0.03, 3)
    goal = cube + np.array([0.0, 0.0, 0.2 if success else 0.05])
    down, up = np.clip(2 * time, 0, 1), np.clip(2 * time - 1, 0, 1)
    eef = (
        start * (1 - down)
        + cube * (down - up)
        + goal * up
        + 1e-4 * rng.standard_normal((length, 3))
    )
    closed = (time > 0.5).astype(float)
    angle = 0.2 * rng.uniform(-1, 1) * time + np.pi  # yaw while pointing down
    quat = np.concatenate([np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle], 1)
    cube_track = cube + np.array([0.0, 0.0, 1.0]) * (goal[2] - cube[2]) * up * success
    obs = {
        "robot0_eef_pos": eef,
        "robot0_eef_quat": quat,
        "robot0_gripper_qpos": np.tile(0.04 - 0.02 * closed, (1, 2)) * [[1.0, 1.01]],
        "robot0_gripper_command": 1 - 2 * closed,
        "object": np.concatenate(
            [cube_track, np.tile([0.0, 0.0, 0.0, 1.0], (length, 1)), cube_track - eef], 1
        ),
    }
    rotation = np.concatenate(
        [np.cos(angle), np.sin(angle), 0 * angle, np.sin(angle), -np.cos(angle), 0 * angle], 1
    )
    target = np.concatenate([eef[1:], eef[-1:]]) + 1e-3 * rng.standard_normal((length, 3))
    rewards = np.zeros(length)
    rewards[-1] = float(success)
    dones = np.zeros(length, bool)
    dones[-1] = True
    return Episode(
        name=name or f"made/demo_{seed}",
        obs={key: value.astype(np.float32) for key, value in obs.items()},
        actions=np.concatenate([target, rotation, 1 - 2 * closed], 1).astype(np.float32),
        rewards=rewards.astype(np.float32),
        dones=dones,
        success=success,
        quality=quality,
    )


def make_episodes(count: int = 4, *, length: int = 40, seed: int = 0) -> list[Episode]:
    """Different episodes of slightly different length; every fourth fails."""
    grades = ("better", "okay", "worse")
    return [
        make_episode(seed + i, length + i, success=i % 4 != 3, quality=grades[i % 3])
        for i in range(count)
    ]


def write_demo_file(path: Path, count: int = 4, *, length: int = 40, seed: int = 0) -> Path:
    """A good robomimic file of ``count`` episodes."""
    with RobomimicWriter(path, ENV_ARGS) as writer:
        for episode in make_episodes(count, length=length, seed=seed):
            writer.write(episode)
    return path


def make_store(path: Path, count: int = 4, *, length: int = 40, seed: int = 0) -> EpisodeStore:
    """A store of ``count`` good episodes with all observation keys."""
    episodes = make_episodes(count, length=length, seed=seed)
    EpisodeStore.write(path, episodes, fit_normalizer(episodes))
    return EpisodeStore.open(path)


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(Path(path).read_text())
