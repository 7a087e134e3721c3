"""The learner, replayed over a recorded session: the same fold, the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zprl.recordings.labels import LabelEntry
from zprl.recordings.store import SessionStore
from zprl.rl.session_learner import SessionLearner, weights_digest

TRAIN = "train"


def take(
    learner: SessionLearner,
    store: SessionStore,
    entry: LabelEntry,
    *,
    learn: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Take in one label of the session."""
    episode = store.episode(entry.episode)
    new = (
        episode.phase == TRAIN
        and entry.label != "discard"
        and entry.episode not in learner.episodes
    )
    learner.consume(
        episode.transitions() if new else None,
        entry.episode,
        success=entry.label == "success",
        learn=learn,
        tick=tick,
    )


def fold(
    store: SessionStore, *, tick: Callable[[], None] = lambda: None
) -> tuple[SessionLearner, dict[int, str]]:
    """Replay a whole session.

    Args:
        store: The session.
        tick: Called after each label.

    Returns:
        The learner at the end, and the digest of its weights after each label, by version.
    """
    torch.set_num_threads(1)
    learner = SessionLearner(store.path / "start", store.header.config, seed=store.header.seed)
    digests = {0: weights_digest(learner.agent.actor.net.flat)}
    for entry in store.labels.in_order():
        take(learner, store, entry)
        digests[learner.version] = weights_digest(learner.agent.actor.net.flat)
        tick()
    return learner, digests


def differing(store: SessionStore, digests: dict[int, str]) -> list[int]:
    """Return the versions that acted on the robot with other weights than the replay's.

    Empty when the replay is the very same learner.
    """
    acted = {
        version: digest
        for episode in store.episodes()
        for version, digest in episode.facts.weights.items()
        if version >= 0
    }
    return sorted(version for version, digest in acted.items() if digests.get(version) != digest)
