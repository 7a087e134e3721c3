"""Process ``learner``: folds over the labels as they come and publishes weights.  It runs nice, with one thread, and nobody waits for it.

It never invents an order: what it takes in is the journal, line by line, so that
:mod:`zprl.rl.session_replay` can do the same.
"""

from __future__ import annotations

import os
import time

import torch

from zprl import durable
from zprl.recordings.store import SessionStore
from zprl.rl.session_learner import SessionLearner
from zprl.rl.session_replay import take
from zprl.session.bus import Bus
from zprl.session.process import Settings, Stopping, main

BEAT_S = 0.2
CHECKPOINT_LABELS = 10
NICE = 10
LOOK_POLLS = 20


def run(settings: Settings, stopping: Stopping) -> None:
    """Learn until asked to stop."""
    torch.set_num_threads(1)
    bus = Bus(settings.sockets, "learner", {"recorder": ["labelled"]})
    store = SessionStore.open(settings.session)
    learner = SessionLearner(settings.session / "start", settings.config, seed=settings.seed)
    beat = _Beat(bus, learner)
    checkpoint = settings.work / "learner"
    if checkpoint.exists():
        _go_on(learner, store, checkpoint, beat)
    _publish(settings, bus, learner)
    os.nice(NICE)  # not before: a busy machine must not keep it from beginning
    while not stopping:
        for line in store.labels.in_order()[learner.labels :]:
            take(learner, store, line, tick=beat)
            if learner.labels % CHECKPOINT_LABELS == 0:
                learner.save(checkpoint)
            _publish(settings, bus, learner)
            if stopping:
                return
        for _ in range(
            LOOK_POLLS
        ):  # then look for oneself: a message may be lost while a process is replaced
            if stopping or bus.poll(0.05):
                break
            beat()
    bus.close()


class _Beat:
    """Says now and then that the learner is alive, and what its newest weights know."""

    def __init__(self, bus: Bus, learner: SessionLearner) -> None:
        self.bus, self.learner = bus, learner
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BEAT_S
            self.bus.publish("beat", {"version": max(self.learner.published, 0)})


def _go_on(learner: SessionLearner, store: SessionStore, checkpoint, beat: _Beat) -> None:  # noqa: ANN001
    known = int(durable.read_json(checkpoint / "facts.json")["labels"])
    for line in store.labels.in_order()[:known]:
        take(learner, store, line, learn=False, tick=beat)
    learner.restore(checkpoint)


def _publish(settings: Settings, bus: Bus, learner: SessionLearner) -> None:
    """Write the weights, then tell of them."""
    path = settings.work / "weights" / f"{learner.version:06d}.safetensors"
    if not path.exists():
        durable.write_tensors(path, {"actor": learner.agent.actor.net.flat})
        _forget(settings, learner.version - 3)
    learner.published = learner.version
    bus.publish("weights", {"version": learner.version})
    if learner.curve:
        bus.publish("learning", learner.curve[-1])


def _forget(settings: Settings, version: int) -> None:
    """Old weights are of no use to anybody."""
    (settings.work / "weights" / f"{version:06d}.safetensors").unlink(missing_ok=True)


if __name__ == "__main__":
    main(run)
