"""Smallest and largest number of every dimension, gathered one episode at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from zprl.data.episode import Episode, is_image


def ranges(episodes: Iterable[Episode]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
