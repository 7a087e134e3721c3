"""What the actor sees of the cameras: the newest pictures at each control step, cut and scaled as the policy wants them."""

from __future__ import annotations

from collections import deque

import numpy as np

from zprl.robot.sensors.base import LatestReader
from zprl.robot.sensors.image_crop import view
from zprl.robot.sensors.shared_memory_ring import RingReader
from zprl.robot.task import RealTask


def ring_name(session: str, camera: str) -> str:
    """Name of a camera's shared memory; one per session and camera."""
    return f"{session}-{camera}"


class CameraHistory:
    """All cameras of a task.

    Args:
        task: The task.
        session: Prefix of the rings' names.
        max_age_s: Pictures older than this are refused.
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
        """Look."""
        for reader in self.readers.values():
            reader.start()

    def stop(self) -> None:
        """Look away."""
        for reader in self.readers.values():
            reader.stop()

    def forget(self) -> None:
        """An episode begins."""
        self.history.clear()

    def look(self) -> None:
        """Take a picture of every camera into the history.

        Raises:
            StaleSensor: a camera shows nothing new.
        """
        if not self.readers:
            return
        seen = {}
        for camera, image in self.images.items():
            picture = self.readers[camera].latest(self.max_age_s).value
            seen[image.key] = view(picture, image.crop, image.size)
        self.history.append(seen)

    def seen(self) -> dict[str, np.ndarray]:
        """Image key to (O, H, W, 3) uint8, the newest last; the first one stands for those before it."""
        if not self.history:
            return {}
        rows = [self.history[0]] * (self.steps - len(self.history)) + list(self.history)
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
