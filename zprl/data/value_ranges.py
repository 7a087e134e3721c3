"""Smallest and largest number of every dimension, gathered one episode at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from zprl.data.episode import Episode, is_image


def ranges(episodes: Iterable[Episode]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lowest and highest values, each (d,) float32, under ``obs/<key>`` and ``actions``; images have none.

    A NaN anywhere in a dimension makes both NaN.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for episode in episodes:
        states = {f"obs/{key}": value for key, value in episode.obs.items() if not is_image(value)}
        for key, value in {**states, "actions": episode.actions}.items():
            value = value.astype(np.float32, copy=False)
            low, high = value.min(0), value.max(0)
            if key in found:
                low, high = np.minimum(found[key][0], low), np.maximum(found[key][1], high)
            found[key] = (low, high)
    return found
