"""The bookkeeping that all learners share: episodes, rows of the curve, progress of a resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.toy_world import toy_policy
from tests.unit.rl.test_learner import make_env, make_learner
from zprl.envs.chunk import ChunkResult
from zprl.rl import segment_learner
from zprl.rl.segment_learner import Row

N = 8


def ended(
    *, won: Sequence[int] = (), timed_out: Sequence[int] = (), length: int = 4
) -> ChunkResult:
    """A chunk of ``length`` steps in which the named environments' episodes end."""

    def flags(numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor([number in numbers for number in range(N)])

    return ChunkResult(
        obs={},
        final_obs={},
        reward=torch.zeros(N),
        terminated=flags(won),
        truncated=flags(timed_out),
        success=flags(won),
        length=torch.full((N,), length),
        env_steps=N * length,
    )


def test_episodes_are_counted_where_they_end() -> None:
    """Environment 1 succeeds after two chunks, environment 2 times out after three."""
    learner, lengths = make_learner(), torch.zeros(N)
    learner._count_episodes(ended(), lengths)
    learner._count_episodes(ended(won=[1]), lengths)
    learner._count_episodes(ended(timed_out=[2], length=3), lengths)
    assert learner.recent == [(1.0, 8.0), (0.0, 11.0)]
    # A new episode has begun in both; the others go on.
    assert lengths.tolist() == [11.0, 3.0, 0.0, *[11.0] * 5]


def test_success_is_that_of_the_newest_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_learner, "RECENT", 4)
    learner, lengths = make_learner(), torch.zeros(N)
    learner._count_episodes(ended(timed_out=[0, 1, 2]), lengths)
    learner._count_episodes(ended(won=[0, 1, 2], length=2), lengths)
    # Of six episodes the last four count: one failure of 4 steps, three successes of 2.
    assert learner.recent == [(0.0, 4.0), *[(1.0, 2.0)] * 3]
    learner._report({"q_mean": 0.5})
    assert learner.curve[-1]["success_rate"] == 0.75
    assert learner.curve[-1]["episode_length"] == 2.5


def test_a_row_counts_decisions_and_environment_steps() -> None:
    """Three vector steps of eight environments with chunks of four actions."""
    learner, rows = make_learner(), []
    learner.on_row = rows.append
    learner.vector_steps = 3
    learner._report({"q_mean": 0.5})
    wanted: Row = {
        "env_steps": 96,
        "chunk_steps": 24,
        "updates": 0,
        "success_rate": 0.0,
        "episode_length": 0.0,
        "q_mean": 0.5,
    }
    assert rows == learner.curve == [wanted]


def test_progress_survives_json() -> None:
    learner, other = make_learner(), make_learner()
    learner.run_segment(make_env)
    learner.recent = [(1.0, 8.0), (0.0, 12.0)]
    facts: dict[str, Any] = json.loads(json.dumps(learner._progress()))
    other._restore_progress(facts)
    assert other._progress() | {"updates": 0} == learner._progress() | {"updates": 0}
    assert (other.segment, other.decisions) == (1, 48)
    assert toy_policy().spec.policy.chunk_steps * 48 == other.env_steps
