"""Files as Minari 0.5.4 writes them (seen there), made with h5py alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def write_minari_file(
    path: Path,
    *,
    episodes: int = 1,
    observations: Any = None,
    rewards: Sequence[float] | None = None,
    success_at: int | str | None = 6,
) -> Path:
    """Six steps per episode: ``observations`` (7, d) or nested; success at that step, counted from 1, none, or ``"not told"``."""
    draw = np.random.default_rng(0)
    with h5py.File(path, "w", track_order=True) as file:
        for number in range(episodes):
            node = file.create_group(f"episode_{number}")
            node.attrs.update({"id": number, "seed": number, "total_steps": 6, "rewards_sum": 1.0})
            _put(
                node,
                "observations",
                draw.normal(size=(7, 2)) if observations is None else observations,
            )
            node["actions"] = draw.uniform(-1, 1, (6, 2)).astype(np.float32)
            node["rewards"] = np.asarray([3.5] * 6 if rewards is None else rewards, np.float64)
            node["terminations"] = np.zeros(6, bool)
            node["truncations"] = np.arange(6) == 5
            node.create_group("infos")["qpos"] = draw.normal(size=(7, 3))
            if success_at != "not told":
                # The first is the reset's; it stays reached.
                node["infos/success"] = np.arange(7) >= (success_at or 99)
    return path


def _put(parent: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        node = parent.create_group(name)
        for key, part in value.items():
            _put(node, key, part)
    else:
        parent[name] = value
