"""Process ``actor``: answers the driver's chunk requests with the newest weights.

Weights are swapped between chunks only; each chunk names the version that made it.  The answer goes
to the driver at once and to the recorder on its own line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import torch

from zprl import durable
from zprl.errors import DataError
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.robot.sensors.base import StaleSensor
from zprl.session.bus import Bus, ReliableQueue
from zprl.session.camera_history import CameraHistory
from zprl.session.chunk_policy import ChunkPolicy
from zprl.session.messages import (
    SIM_WEIGHTS_VERSION,
    Beat,
    ChunkAnswer,
    ChunkRequest,
    EventMessage,
    LastEmbedding,
    RobotState,
    Topic,
    WeightsVersion,
)
from zprl.session.process import Settings, Stopping, main, turns

POLL_S = 0.02


class Weights:
    """The newest published weights of the residual."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.work / "weights"
        self.version = SIM_WEIGHTS_VERSION
        self.value: torch.Tensor | None = None

        # The successor of a killed actor does not wait for the next label.
        versions = [int(path.stem) for path in self.folder.glob("[0-9]*.safetensors")]
        if versions:
            self.announced(max(versions))

    def announced(self, version: int) -> None:
        """Read the weights of a version that the learner has announced, if they are newer.

        A learner that begins anew announces old versions, and a file may have been removed for a
        newer one.
        """
        if version <= self.version:
            return
        with contextlib.suppress(DataError):
            path = self.folder / f"{version:06d}.safetensors"
            self.value = durable.read_tensors(path)["actor"]
            self.version = version


class ActorProcess:
    """Answers chunk requests; see the module.

    Args:
        settings: Settings of the session.
        bus: Bus of the process.
        feed: Line to the recorder.
    """

    def __init__(self, settings: Settings, bus: Bus, feed: ReliableQueue) -> None:
        conditions = settings.conditions()
        self.bus, self.feed = bus, feed
        self.limits_digest = conditions.digests["limits"]
        self.policy = ChunkPolicy(settings.session / "start", settings.config, seed=settings.seed)
        self.policy.warm_up()
        self.cameras = CameraHistory(
            conditions.task, settings.rings, conditions.limits.sensor_age_s
        )
        self.weights = Weights(settings)

    def step(self) -> None:
        """Take in what has arrived; answer the newest request, an older one is of no use."""
        newest: tuple[ChunkRequest, Mapping[str, np.ndarray]] | None = None
        for message in self.bus.poll(POLL_S):
            match message.contents:
                case WeightsVersion(version=version) | Beat(version=version):
                    self.weights.announced(version)
                case ChunkRequest() as request:
                    newest = request, message.arrays
                case RobotState(step=step):
                    self._remember_images(step)

        if newest is not None:
            request, arrays = newest
            self._remember_images(request.step)
            self._answer(request, arrays)

    def beat(self) -> None:
        """Publish a beat with the version of the newest weights."""
        self.bus.publish(Beat(version=self.weights.version))

    def _remember_images(self, step: int) -> None:
        """Remember what the cameras show at the beginning of a control step."""
        if step == 0:
            self.cameras.forget()
        try:
            self.cameras.take_images()
        except StaleSensor as error:
            self._report("sensor_stale", error.message[:MAX_TEXT])

    def _answer(self, request: ChunkRequest, arrays: Mapping[str, np.ndarray]) -> None:
        """Make the chunk that is requested, or embed an episode's last observation."""
        if not self._use_weights(request.weights):
            return  # not announced yet; the driver asks again

        obs = {name.removeprefix("obs/"): value for name, value in arrays.items()}
        obs |= self.cameras.images_of_steps()
        facts = LastEmbedding(
            number=request.number,
            decision=request.decision,
            version=self.policy.version,
            digest=self.policy.digest,
            limits=self.limits_digest,
        )
        if request.final:
            self.feed.put("actor", facts, self.policy.embed_last(obs, request))
            return

        chunk = ChunkAnswer(**dict(facts), step=request.step, stamp=request.stamp)
        self._send(chunk, self.policy.choose(obs, request))

    def _use_weights(self, version: int | None) -> bool:
        """Swap in the weights that the driver asks for; return False where they are not there.

        Args:
            version: As :class:`zprl.session.messages.Plan` says.
        """
        if version == SIM_WEIGHTS_VERSION:
            self.policy.use(SIM_WEIGHTS_VERSION, self.policy.simulated)
            return True
        weights = self.weights
        if weights.value is None or (version is not None and weights.version < version):
            return False
        self.policy.use(weights.version, weights.value)
        return True

    def _send(self, chunk: ChunkAnswer, arrays: dict[str, np.ndarray]) -> None:
        """Send a chunk to the driver, then all that learning needs of it to the recorder."""
        self.bus.publish(chunk, {"targets": arrays["targets"]})
        if not self.feed.put("actor", chunk, arrays):
            self._report("recorder_full", "the recorder does not keep up")

    def _report(self, kind: str, reason: str) -> None:
        event = Event(kind, Level.SOFT_STOP, reason, recoverable=True)
        self.bus.publish(EventMessage.of(event))


def run(settings: Settings, stopping: Stopping) -> None:
    """Serve until asked to stop."""
    torch.set_num_threads(1)
    topics = [Topic.CHUNK_REQUEST]
    if settings.conditions().task.images:
        topics.append(Topic.STATE)
    bus = Bus(settings.sockets, "actor", {"driver": topics, "learner": [Topic.WEIGHTS, Topic.BEAT]})
    feed = ReliableQueue(settings.sockets, "recorder", reader=False)

    actor = ActorProcess(settings, bus, feed)
    actor.cameras.start()
    for _ in turns(stopping, actor.beat):
        actor.step()

    actor.cameras.stop()
    bus.close()
    feed.close()


if __name__ == "__main__":
    main(run)
