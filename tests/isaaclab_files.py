"""Files as Isaac Lab 3.0.0 records them (seen there), made with h5py alone, or with its own handler where it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FRAMES = 12
ENV_ARGS = {
    "env_name": "Isaac-Stack-Cube-Franka-IK-Rel-v0",
    "type": 2,
    "sim_args": {"dt": 0.01, "decimation": 5, "render_interval": 5, "num_envs": 1},
}
"""20 control steps per second."""


def content(seed: int = 0) -> dict[str, Any]:
    """What an episode's recorders leave: nested arrays of 12 frames."""
    draw = np.random.default_rng(seed)
    line = np.linspace(0, 0.1, FRAMES)[:, None] + draw.uniform(0, 0.1, 3)
    pose = np.tile([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (FRAMES, 1))
    state = {
        "articulation": {
            "robot": {"root_pose": pose, "joint_position": draw.normal(size=(FRAMES, 9))}
        }
    }
    return {
        "actions": draw.uniform(-1, 1, (FRAMES, 7)),
        "processed_actions": draw.uniform(-0.1, 0.1, (FRAMES, 9)),
        "obs": {
            "robot0_eef_pos": line,
            "eef_quat": np.tile([0.6, 0.0, 0.0, 0.8], (FRAMES, 1)),
            "object": draw.normal(size=(FRAMES, 2)),
            "table_cam": draw.integers(0, 255, (FRAMES, 6, 8, 3)).astype(np.uint8),
            "datagen_info": {
                "subtask_term_signals": {"grasp_1": np.arange(FRAMES) > 5},
                "eef_pose": {"franka": np.tile(np.eye(4), (FRAMES, 1, 1))},
            },
        },
        "initial_state": {"articulation": {"robot": {"root_pose": pose[:1]}}},
        "states": state,
    }


def write_isaaclab_file(
    path: Path, *, episodes: int = 1, version: int | None = 1, success: bool = True
) -> Path:
    """A recording; ``version=None`` is of a time before format versions, when quaternions were wxyz."""
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["format_version"] = version
        data = file.create_group("data")
        data.attrs["total"] = FRAMES * episodes
        data.attrs["env_args"] = json.dumps(ENV_ARGS)
        for number in range(episodes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": FRAMES, "seed": number, "success": success})
            _put(demo, content(number))
    return path


def write_with_isaaclab(path: Path, *, episodes: int = 1) -> Path:
    """The same, written by Isaac Lab's own file handler."""
    import torch
    from isaaclab.utils.datasets import EpisodeData, HDF5DatasetFileHandler

    handler = HDF5DatasetFileHandler()
    handler.create(str(path), env_name=ENV_ARGS["env_name"])
    handler.add_env_args({"sim_args": ENV_ARGS["sim_args"]})
    for number in range(episodes):
        episode = EpisodeData()
        parts = content(number)
        start = parts.pop("initial_state")
        episode.add("initial_state", _tensors(start, 0))
        for frame in range(FRAMES):
            for key, value in parts.items():
                episode.add(key, _tensors(value, frame))
        episode.seed, episode.success = number, True
        episode.pre_export()
        handler.write_episode(episode)
    assert torch.is_tensor(episode.data["actions"])
    handler.close()
    return path


def _tensors(value: Any, frame: int) -> Any:
    import torch

    return (
        {key: _tensors(part, frame) for key, part in value.items()}
        if isinstance(value, Mapping)
        else torch.as_tensor(value[frame])
    )


def _put(parent: h5py.Group, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _put(parent.create_group(key), value)
        else:
            parent.create_dataset(key, data=value, compression="gzip", compression_opts=2)
