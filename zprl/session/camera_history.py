"""The newest images of the cameras at each control step, cut and scaled for the policy."""

from __future__ import annotations

from collections import deque

import numpy as np

from zprl.robot.sensors.base import LatestReader
from zprl.robot.sensors.image_crop import view
from zprl.robot.sensors.shared_memory_ring import RingReader
from zprl.robot.task import RealTask


def ring_name(session: str, camera: str) -> str:
    """Return the name of a camera's shared memory; one per session and camera."""
    return f"{session}-{camera}"


class CameraHistory:
    """All cameras of a task.

    Args:
        task: The task.
        session: Prefix of the rings' names.
        max_age_s: Age from which an image is refused [s].
    """

    def __init__(self, task: RealTask, session: str, max_age_s: float) -> None:
        self.images, self.max_age_s = task.images, max_age_s
        self.readers = {
            camera: LatestReader(RingReader(camera, ring_name(session, camera)))
            for camera in self.images
        }
        self.history: deque[dict[str, np.ndarray]] = deque(maxlen=max(task.obs_steps, 1))
        self.steps = task.obs_steps

    def start(self) -> None:
        """Begin to read the cameras."""
        for reader in self.readers.values():
            reader.start()

    def stop(self) -> None:
        """Cease to read the cameras."""
        for reader in self.readers.values():
            reader.stop()

    def forget(self) -> None:
        """Empty the history, because an episode begins."""
        self.history.clear()

    def take_images(self) -> None:
        """Take an image of every camera into the history.

        Raises:
            StaleSensor: a camera shows nothing new.
        """
        if not self.readers:
            return
        images = {}
        for camera, spec in self.images.items():
            image = self.readers[camera].latest(self.max_age_s).value
            images[spec.key] = view(image, spec.crop, spec.size)
        self.history.append(images)

    def images_of_steps(self) -> dict[str, np.ndarray]:
        """Return image key to (O, H, W, 3) uint8, the newest last.

        The first image of an episode stands for those before it.
        """
        if not self.history:
            return {}
        rows = [self.history[0]] * (self.steps - len(self.history)) + list(self.history)
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
