"""Writer of one LeRobot v3.0 dataset: complete and under its final name, or not there at all.

==================================  ========================================================
feature                             content
==================================  ========================================================
``observation.state``               every key of state, joined in the order of the episode;
                                    its dimensions are named ``<key>.<index>``
``observation.images.<key>``        images of the key ``<key>``
``action``                          the actions
``next.reward``                     reward of the step
``next.done``                       end of the episode, as recorded
``next.success``                    the last step of a success
==================================  ========================================================

LeRobot's own policies take one vector of state, hence the joined feature; ``zprl`` reads the keys
again from its names.  Whether an episode succeeded and its grade stand in its row of
``meta/episodes``, columns ``success`` and ``quality``.  Names of episodes are not kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

import numpy as np

from zprl import durable
from zprl.data.episode import QUALITIES, Episode, is_image
from zprl.data.lerobot_names import STATE, image_feature, state_names
from zprl.data.writers.lerobot_files import ImageStore, LeRobotFiles, check_free, whole_rate
from zprl.errors import DataError


class LeRobotWriter:
    """Writes one dataset; the folder appears when the ``with`` block ends without an exception.

    Args:
        path: Final folder.
        rate_hz: Frames per second, a whole number: LeRobot wants one.
        task: The task in one sentence; language-conditioned policies read it.
        robot: Kind of robot.
        overwrite: Replace an existing dataset instead of refusing to; what is no LeRobot dataset is
            never replaced.
        images: ``video`` (mp4, small, **lossy**: what is read is not bit for bit what was
            written) or ``png`` (lossless, in the table).

    Raises:
        DataError: the rate is no whole number.

    Example::

        with LeRobotWriter("data/lerobot/monday", rate_hz=20, task="Lift the cube.", robot="franka")
            as writer: writer.write(episode)
    """

    def __init__(
        self,
        path: Path | str,
        *,
        rate_hz: float,
        task: str,
        robot: str,
        overwrite: bool = False,
        images: ImageStore = "video",
    ) -> None:
        self.path = Path(path)
        self._rate = whole_rate(rate_hz, where=str(self.path))
        self._task = task
        self._robot = robot
        self._overwrite = overwrite
        self._images = images
        self._temp: Path | None = None
        self._files: LeRobotFiles | None = None

    def __enter__(self) -> LeRobotWriter:
        check_free(self.path, overwrite=self._overwrite)
        self._temp = durable.begin_dir(self.path)
        self._files = LeRobotFiles(
            self._temp, rate=self._rate, robot=self._robot, task=self._task, images=self._images
        )
        return self

    def write(self, episode: Episode) -> int:
        """Add an episode and return its ``episode_index``.

        Raises:
            DataError: it has another rate, other keys or widths than the first, an unknown grade,
                or numbers that are not finite.
            EnvironmentProblem: the disk is full, or the like; the dataset then cannot be finished.
        """
        files = self._files
        if files is None:
            raise RuntimeError("LeRobotWriter is used outside its with block")
        if episode.quality not in QUALITIES:
            raise DataError(
                f"quality '{episode.quality}' is unknown",
                remedy=f"use one of {', '.join(QUALITIES)}",
            )
        if episode.rate_hz not in (None, self._rate):
            raise DataError(
                f"{episode.name} has {episode.rate_hz} frames per second, not {self._rate}",
                remedy="write them apart",
            )

        states = {key: value for key, value in episode.obs.items() if not is_image(value)}
        images = {
            image_feature(key): value for key, value in episode.obs.items() if is_image(value)
        }
        names = {}
        if states:
            names[STATE] = state_names({key: value.shape[1] for key, value in states.items()})

        with durable.explained(self.path):
            files.add(
                _columns(episode, states),
                names=names,
                images=images,
                about=_about(episode),
                where=episode.name,
            )
        return files.episodes - 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        temp, files = self._temp, self._files
        self._temp = None
        self._files = None
        if temp is None or files is None:
            return

        try:
            with durable.explained(self.path):
                try:
                    if kind is None:
                        files.finish()
                finally:
                    files.close()
            if kind is None:
                durable.publish_dir(temp, self.path)
        finally:
            shutil.rmtree(temp, ignore_errors=True)


def _columns(episode: Episode, states: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    last = np.arange(episode.length) == episode.length - 1
    columns = {
        "action": episode.actions.astype(np.float32, copy=False),
        "next.reward": episode.rewards.astype(np.float32, copy=False),
        "next.done": episode.dones.astype(bool, copy=False),
        "next.success": last & episode.success,
    }
    if states:
        columns[STATE] = np.concatenate(
            [value.astype(np.float32, copy=False) for value in states.values()], axis=1
        )
    return columns


def _about(episode: Episode) -> dict[str, bool | str]:
    return {"success": bool(episode.success), "quality": episode.quality}
