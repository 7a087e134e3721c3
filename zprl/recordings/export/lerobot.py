"""A session as a LeRobot dataset, format v3.0, written without LeRobot.

=========================  =================================================================
column                     content
=========================  =================================================================
``observation.state``      raw features of robot and sensors
``observation.<key>``      the policy's observation
``action``                 the policy's action, before the safety filter
``action.sent``            features really sent
``residual``, ``latent``   the agent's residual and the point taken, of the chunk that was
                           played (0 where none was)
``chunk``                  number of that chunk, -1 for none
``is_intervention``        whether a person moved the arm
``next.reward``            1 at the last step of a success
``next.done``              the last step
``next.success``           the last step of a success
=========================  =================================================================

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
        numbers: Numbers of the episodes; ``None``: all that are labelled success or failure.
        overwrite: Replace an existing folder.

    Returns:
        The number of its episodes.

    Raises:
        DataError: nothing to export, the folder exists, or the rate is no whole number (LeRobot
            wants one).
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    rate = whole_rate(store.header.rate_hz, where=str(store.path))
    episodes = judged(store, numbers)
    task = RealTask.load(store.path / TASK)

    def fill(folder: Path) -> None:
        files = LeRobotFiles(folder, rate=rate, robot=_robot(task), task=task.description)
        try:
            for episode, success in episodes:
                about = {
                    "session_episode": episode.number,
                    "session_phase": str(episode.phase),
                    "success": success,
                }
                where = f"{store.path}: episode {episode.number}"
                columns = _columns(episode, success=success)
                files.add(columns, names=_names(episode), about=about, where=where)
            files.finish()
        finally:
            files.close()

    durable.write_dir(path, fill)
    return len(episodes)


def _columns(episode: RecordedEpisode, *, success: bool) -> dict[str, np.ndarray]:
    """Return one episode's columns, a row per control step."""
    frames, chunks = episode.frames, episode.chunks
    chunk = frames["chunk"].numpy()
    ids = chunks["id"].numpy()
    none = (chunk == NO_CHUNK)[:, None]
    # Row of the chunk that was played; any row where none was, it is masked below.
    played = np.searchsorted(ids, np.where(none[:, 0], ids[0], chunk))
    residual = np.where(none, 0, chunks["residual"].numpy()[played])
    latent = np.where(none, 0, chunks["point"].numpy()[played])

    observations = {
        f"{OBSERVATION}{key}": value[:-1].numpy().astype(np.float32)
        for key, value in episode.obs.items()
    }
    last = np.arange(episode.steps) == episode.steps - 1
    return {
        **observations,
        STATE: frames["features"][:-1].numpy().astype(np.float32),
        "action": episode.commanded,
        "action.sent": frames["sent"].numpy().astype(np.float32),
        "residual": residual.astype(np.float32),
        "latent": latent.astype(np.float32),
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
