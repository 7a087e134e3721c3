"""A session as a robomimic HDF5 file, which ``zprl`` itself reads as demonstrations.

The action of a step is the policy's command, before the safety filter; where a person moved the arm
it is not what moved it, so episodes with an intervention are left out unless they are asked for by
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zprl.data.episode import Episode
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import DataError
from zprl.recordings.export import Judged, judged
from zprl.recordings.store import SessionStore

GYM = 2
"""robomimic's number for an environment that is none of the simulators it knows."""


def export_robomimic(
    store: SessionStore,
    path: Path | str,
    *,
    numbers: Sequence[int] | None = None,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write episodes as demos.

    Args:
        store: The session.
        path: ``*.hdf5``; it appears when it is complete.
        numbers: Numbers of the episodes; ``None``: all that are labelled and free of interventions.
        overwrite: Replace an existing file.

    Returns:
        Name of each demo to the number of its episode.

    Raises:
        DataError: nothing to export, or the file exists.
    """
    episodes = judged(store, numbers)
    if numbers is None:
        episodes = [item for item in episodes if not item[0].intervention.any()]
    if not episodes:
        raise DataError(
            f"{store.path}: every labelled episode has interventions",
            remedy="name the episodes to export",
        )

    header = store.header
    env_args = {
        "env_name": header.task,
        "env_type": GYM,
        "env_kwargs": {"session": header.id, "rate_hz": header.rate_hz},
    }
    with RobomimicWriter(path, env_args, overwrite=overwrite) as writer:
        return {writer.write(_episode(item)): item[0].number for item in episodes}


def _episode(item: Judged) -> Episode:
    """Return a demo: each observation with its action; the last one has none and is left out."""
    episode, success = item
    last = np.zeros(episode.steps, np.float32)
    last[-1] = 1.0
    return Episode(
        name=f"episode/{episode.number}",
        obs={key: value[:-1].numpy() for key, value in episode.obs.items()},
        actions=episode.commanded,
        rewards=last * success,
        dones=last > 0,
        success=success,
    )
