"""Process ``actor``: answers the driver's requests for chunks with the newest weights.

Weights are swapped between chunks only; each chunk says which version made it.  The answer goes to
the driver at once and to the recorder on its own line.
"""

from __future__ import annotations

import contextlib
import time

import torch

from zprl import durable
from zprl.errors import DataError
from zprl.robot.events import Event, Level
from zprl.robot.sensors.base import StaleSensor
from zprl.session.bus import Bus, Message, ReliableQueue
from zprl.session.camera_history import CameraHistory
from zprl.session.chunk_policy import ChunkPolicy, Request
from zprl.session.messages import SIM_WEIGHTS_VERSION
from zprl.session.process import Settings, Stopping, main

BEAT_S = 0.2


class Weights:
    """The newest published weights of the residual."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.work / "weights"
        self.version, self.value = SIM_WEIGHTS_VERSION, None
        newest = max(
            (int(path.stem) for path in self.folder.glob("[0-9]*.safetensors")), default=None
        )
        if newest is not None:  # a killed actor's successor does not wait for the next label
            self.announced(newest)

    def announced(self, version: int) -> None:
        """Read the file a learner told of; a learner that begins anew tells of old ones, and a file may be gone for a newer one."""
        if version > self.version:
            with contextlib.suppress(DataError):
                self.value = durable.read_tensors(self.folder / f"{version:06d}.safetensors")[
                    "actor"
                ]
                self.version = version


def run(settings: Settings, stopping: Stopping) -> None:
    """Serve until asked to stop."""
    torch.set_num_threads(1)
    under = settings.conditions()
    task = under.task
    topics = ["wish", "state"] if task.images else ["wish"]
    bus = Bus(settings.sockets, "actor", {"driver": topics, "learner": ["weights", "beat"]})
    feed = ReliableQueue(settings.sockets, "recorder", reader=False)
    chooser = ChunkPolicy(settings.session / "start", settings.config, seed=settings.seed)
    chooser.warm_up()
    eyes = CameraHistory(task, settings.rings, under.limits.sense_age_s)
    eyes.start()
    weights = Weights(settings)
    beat = 0.0
    while not stopping:
        wishes = []
        for message in bus.poll(0.02):
            if message.sender == "learner":
                weights.announced(int(message.body["version"]))
            elif message.topic == "wish":
                wishes.append(message)
            else:
                _look(eyes, bus, message)
        if wishes:
            _look(eyes, bus, wishes[-1])
            # An older wish is of no use to anybody.
            answer(chooser, weights, eyes, wishes[-1], bus, feed, limits=under.digests["limits"])
        if time.monotonic() - beat > BEAT_S:
            beat = time.monotonic()
            bus.publish("beat", {"version": weights.version})
    eyes.stop()
    bus.close()
    feed.close()


def _look(eyes: CameraHistory, bus: Bus, message: Message) -> None:
    """A control step has begun: remember what the cameras show now."""
    if message.body["step"] == 0:
        eyes.forget()
    try:
        eyes.look()
    except StaleSensor as error:
        bus.publish(
            "event",
            Event("sense_stale", Level.SOFT_STOP, error.message[:500], recoverable=True).as_dict(),
        )


def answer(
    chooser: ChunkPolicy,
    weights: Weights,
    eyes: CameraHistory,
    wish: Message,
    bus: Bus,
    feed: ReliableQueue,
    *,
    limits: str,
) -> None:
    """Make the chunk that is wished for, or look at an episode's last observation; ``limits``: digest of those in force."""
    body = wish.body
    request = Request(
        int(body["number"]),
        int(body["start_number"]),
        int(body["decision"]),
        bool(body["evaluation"]),
        bool(body["explore"]),
    )
    obs = {name.removeprefix("obs/"): value for name, value in wish.arrays.items()} | eyes.seen()
    wanted = body["weights"]
    if wanted == SIM_WEIGHTS_VERSION:
        chooser.use(SIM_WEIGHTS_VERSION, chooser.simulated)
    elif weights.value is None or (wanted is not None and weights.version < wanted):
        return  # not heard of yet; the driver asks again
    else:
        chooser.use(weights.version, weights.value)
    facts = {
        "number": request.number,
        "decision": request.decision,
        "version": chooser.version,
        "digest": chooser.digest,
        "limits": limits,
    }
    if body["final"]:
        feed.put("actor", "final", facts, chooser.see(obs, request))
        return
    arrays = chooser.choose(obs, request)
    facts |= {"step": int(body["step"]), "stamp": float(body["stamp"])}
    bus.publish("chunk", facts, {"targets": arrays["targets"]})
    if not feed.put("actor", "chunk", facts, arrays):
        bus.publish(
            "event",
            Event(
                "recorder_full", Level.SOFT_STOP, "the recorder does not keep up", recoverable=True
            ).as_dict(),
        )


if __name__ == "__main__":
    main(run)
