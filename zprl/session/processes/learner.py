"""Process ``learner``: learns from the labels as they come and publishes weights.

It runs at a low priority, with one thread, and nobody waits for it.  It never invents an order: it
takes in the labels line by line, so that :mod:`zprl.rl.session_replay` can do the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from zprl import durable
from zprl.recordings.store import SessionStore
from zprl.rl.session_learner import SessionLearner
from zprl.rl.session_replay import take
from zprl.session.bus import Bus
from zprl.session.messages import Beat, LearningRow, Topic, WeightsVersion
from zprl.session.process import Heartbeat, Settings, Stopping, main

CHECKPOINT_LABELS = 10
KEPT_VERSIONS = 3
NICE = 10
POLL_S, POLLS = 0.05, 20
"""Seconds to wait for one message, and how often, before the labels are read without one: a message
may be lost while a process is replaced."""


def run(settings: Settings, stopping: Stopping) -> None:
    """Learn until asked to stop."""
    torch.set_num_threads(1)
    bus = Bus(settings.sockets, "learner", {"recorder": [Topic.LABELLED]})
    store = SessionStore.open(settings.session)
    learner = SessionLearner(settings.session / "start", settings.config, seed=settings.seed)

    def beat() -> None:
        bus.publish(Beat(version=max(learner.published, 0)))

    heartbeat = Heartbeat(beat)
    checkpoint = settings.work / "learner"
    if checkpoint.exists():
        _restore(learner, store, checkpoint, heartbeat.tick)
    _publish(settings, bus, learner)
    os.nice(NICE)  # not before: a busy machine must not keep it from beginning

    while not stopping:
        for line in store.labels.in_order()[learner.labels :]:
            take(learner, store, line, tick=heartbeat.tick)
            if learner.labels % CHECKPOINT_LABELS == 0:
                learner.save(checkpoint)
            _publish(settings, bus, learner)
            if stopping:
                return

        for _ in range(POLLS):
            if stopping or bus.poll(POLL_S):
                break
            heartbeat.tick()
    bus.close()


def _restore(
    learner: SessionLearner, store: SessionStore, checkpoint: Path, tick: Callable[[], None]
) -> None:
    """Read the episodes that the checkpoint has learned from, then the checkpoint itself."""
    known = int(durable.read_json(checkpoint / "facts.json")["labels"])
    for line in store.labels.in_order()[:known]:
        take(learner, store, line, learn=False, tick=tick)
    learner.restore(checkpoint)


def _publish(settings: Settings, bus: Bus, learner: SessionLearner) -> None:
    """Write the weights, then announce them; only the newest versions are kept."""
    folder = settings.work / "weights"
    path = folder / f"{learner.version:06d}.safetensors"
    if not path.exists():
        durable.write_tensors(path, {"actor": learner.agent.actor.net.flat})
        old = folder / f"{learner.version - KEPT_VERSIONS:06d}.safetensors"
        old.unlink(missing_ok=True)

    learner.published = learner.version
    bus.publish(WeightsVersion(version=learner.version))
    if learner.curve:
        bus.publish(LearningRow.parse(learner.curve[-1]))


if __name__ == "__main__":
    main(run)
