"""A session as a LeRobot dataset, format v3.0, written without LeRobot (:mod:`zprl.data.writers.lerobot_files`).

=============================  ===================================================================================
column                         content
=============================  ===================================================================================
``observation.state``          raw features of robot and senses
``observation.<key>``          what the policy saw
``action``                     the policy's action, before the safety filter
``action.sent``                features really sent
``residual``, ``latent``       the agent's residual and the point taken, of the chunk that was played (0 where none was)
``chunk``                      number of that chunk, -1 for none
``is_intervention``            whether a person moved the arm
``next.reward``                1 at the last step of a success
``next.done``                  the last step
``next.success``               the last step of a success
=============================  ===================================================================================

Each episode's row in ``meta/episodes`` names the session's own episode: ``session_episode``,
``session_phase``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zprl import durable
from zprl.data.lerobot_names import OBSERVATION, STATE
from zprl.data.writers.lerobot_files import LeRobotFiles, check_free, whole_rate
from zprl.recordings.export import judged
from zprl.recordings.store import TASK, RecordedEpisode, SessionStore
from zprl.recordings.tensor_schema import NO_CHUNK
from zprl.robot.task import RealTask


def export_lerobot(
    store: SessionStore,
    path: Path | str,
    *,
    numbers: Sequence[int] | None = None,
    overwrite: bool = False,
) -> int:
    """Write episodes as a LeRobot dataset.

    Args:
        store: The session.
        path: Folder of the dataset; it appears when it is complete.
        numbers: Of the episodes; ``None``: all that are labelled success or failure.
        overwrite: Replace an existing folder.

    Returns:
        How many episodes it holds.

    Raises:
        DataError: nothing to export, the folder exists, or the rate is no whole number (LeRobot
            wants one).
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    rate = whole_rate(store.header.rate_hz, where=str(store.path))
    found = judged(store, numbers)
    task = RealTask.load(store.path / TASK)

    def fill(folder: Path) -> None:
        files = LeRobotFiles(folder, rate=rate, robot=_robot(task), task=task.description)
        try:
            for episode, success in found:
                about = {
                    "session_episode": episode.number,
                    "session_phase": str(episode.phase),
                    "success": success,
                }
                where = f"{store.path}: episode {episode.number}"
                files.add(
                    _columns(episode, success), names=_names(episode), about=about, where=where
                )
            files.finish()
        finally:
            files.close()

    durable.write_dir(path, fill)
    return len(found)


def _columns(episode: RecordedEpisode, success: bool) -> dict[str, np.ndarray]:
    """One episode's columns."""
    steps = episode.steps
    chunk, ids = episode.frames["chunk"].numpy(), episode.chunks["id"].numpy()
    none = (chunk == NO_CHUNK)[:, None]
    played = np.searchsorted(ids, np.where(none[:, 0], ids[0], chunk))
    last = np.arange(steps) == steps - 1
    return {
        **{
            f"{OBSERVATION}{key}": value[:-1].numpy().astype(np.float32)
            for key, value in episode.obs.items()
        },
        STATE: episode.frames["features"][:-1].numpy().astype(np.float32),
        "action": episode.commanded,
        "action.sent": episode.frames["sent"].numpy().astype(np.float32),
        "residual": np.where(none, 0, episode.chunks["residual"].numpy()[played]).astype(
            np.float32
        ),
        "latent": np.where(none, 0, episode.chunks["point"].numpy()[played]).astype(np.float32),
        "chunk": chunk,
        "is_intervention": episode.intervention,
        "next.reward": (last * success).astype(np.float32),
        "next.done": last,
        "next.success": last & success,
    }


def _names(episode: RecordedEpisode) -> dict[str, Sequence[str]]:
    named = {STATE: episode.facts.features, "action.sent": episode.facts.sent}
    return {feature: names for feature, names in named.items() if names}


def _robot(task: RealTask) -> str:
    return "+".join(arm.driver for arm in task.arms.values())
