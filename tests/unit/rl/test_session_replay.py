"""The replay of a session: which labels make transitions, which weights differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zprl.rl import session_replay


class Folded:
    """A learner that notes what it is given."""

    def __init__(self, known: set[int]) -> None:
        self.episodes = dict.fromkeys(known)
        self.given: list[tuple[Any, int, bool, bool]] = []

    def consume(self, recorded: Any, number: int, *, success: bool, learn: bool, tick: Any) -> None:
        self.given.append((recorded, number, success, learn))


def episode(phase: str = "train", weights: dict[int, str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        phase=phase,
        transitions=lambda: "transitions",
        facts=SimpleNamespace(weights=weights or {}),
    )


def taken(label: str, *, phase: str = "train", known: bool = False) -> tuple[Any, int, bool, bool]:
    learner = Folded({3} if known else set())
    store = SimpleNamespace(episode=lambda number: episode(phase))
    session_replay.take(learner, store, SimpleNamespace(episode=3, label=label))
    (given,) = learner.given
    return given


def test_a_first_label_of_a_training_episode_brings_its_transitions() -> None:
    assert taken("success") == ("transitions", 3, True, True)
    assert taken("failure") == ("transitions", 3, False, True)


@pytest.mark.parametrize(
    "case",
    [{"label": "discard"}, {"label": "success", "phase": "evaluate_after"}],
)
def test_discarded_episodes_and_evaluations_bring_none(case: dict[str, str]) -> None:
    assert taken(**case)[0] is None


def test_a_label_that_corrects_an_earlier_one_brings_none() -> None:
    assert taken("failure", known=True) == (None, 3, False, True)


def test_versions_that_acted_with_other_weights_are_named() -> None:
    """Version 1 acted twice with the replay's weights, 2 with others, 7 was never replayed."""
    episodes = [
        episode(weights={1: "a", 7: "d"}),
        episode(weights={1: "a", 2: "x"}),
        # The weights of simulation have a negative version and are no result of the session.
        episode(weights={-1: "s"}),
    ]
    store = SimpleNamespace(episodes=lambda: iter(episodes))
    assert session_replay.differing(store, {0: "0", 1: "a", 2: "b"}) == [2, 7]
    assert session_replay.differing(store, {1: "a", 2: "x", 7: "d"}) == []
