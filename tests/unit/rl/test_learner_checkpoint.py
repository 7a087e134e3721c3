"""Checkpoints of a learner: the agent as it was, the newest transitions, refusals by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zprl import durable
from zprl.config import Rl
from zprl.errors import DataError
from zprl.rl import learner_checkpoint
from zprl.rl.learner_checkpoint import AGENT, REPLAY, load_agent, load_replay, save_checkpoint
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac

S, R = 3, 2
CONFIG = Rl(networks={"hidden": (4,)}, updates={"batch_size": 2})


def agent(seed: int, config: Rl = CONFIG) -> Sac:
    return Sac(S, torch.ones(R), config, torch.Generator().manual_seed(seed))


def replay(rows: int, capacity: int = 6) -> Replay:
    """Transition n has n in every number."""
    memory = Replay(capacity, S, R)
    for n in range(rows):
        row = torch.full((1, S), float(n))
        memory.add(
            state=row, point=row[:, :R], reward=row[:, 0], discount=row[:, 0], next_state=row
        )
    return memory


def test_an_agent_comes_back_as_it_was(tmp_path: Path) -> None:
    saved, loaded = agent(0), agent(1)
    saved.update_critics(replay(6).sample(4, torch.Generator()), torch.Generator())
    save_checkpoint(tmp_path / "learner", saved, replay(6))
    load_agent(tmp_path / "learner", loaded)
    for name, value in saved.state().items():
        assert torch.equal(value, loaded.state()[name]), name


def test_equal_learners_write_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_checkpoint(tmp_path / name, agent(0), replay(8))
    assert durable.digest(tmp_path / "a") == durable.digest(tmp_path / "b")


def test_the_newest_transitions_are_kept_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight rows in a ring of six: rows 2 to 7 are there, and of them the last four are kept."""
    monkeypatch.setattr(learner_checkpoint, "NEWEST", 4)
    save_checkpoint(tmp_path / "learner", agent(0), replay(8))
    kept = load_replay(tmp_path / "learner" / REPLAY, S, R)
    assert (len(kept), kept.capacity) == (4, 4)
    assert kept.data["reward"].tolist() == [4.0, 5.0, 6.0, 7.0]
    # The last columns of next_inputs are free: they are written when a batch is used.
    assert kept.data["next_inputs"][0].tolist() == [4.0] * S + [0.0] * R


def test_an_agent_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "learner", agent(0), replay(1))
    with pytest.raises(DataError, match="other sizes"):
        load_agent(tmp_path / "learner", agent(0, CONFIG.changed(networks={"hidden": (5,)})))


def test_an_agent_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    broken = agent(0)
    broken.critics.flat[0] = torch.nan
    save_checkpoint(tmp_path / "learner", broken, replay(1))
    with pytest.raises(DataError, match="not finite"):
        load_agent(tmp_path / "learner", agent(0))


@pytest.mark.parametrize("wrong", ["width", "empty", "not finite", "missing"])
def test_transitions_that_do_not_fit_are_refused(tmp_path: Path, wrong: str) -> None:
    memory = replay(4)
    if wrong == "not finite":
        memory.data["discount"][1] = torch.inf
    save_checkpoint(tmp_path / "learner", agent(0), replay(0) if wrong == "empty" else memory)
    if wrong == "missing":
        tensors = durable.read_tensors(tmp_path / "learner" / REPLAY)
        del tensors["next_inputs"]
        durable.write_tensors(tmp_path / "learner" / REPLAY, tensors)
    with pytest.raises(DataError, match=REPLAY):
        load_replay(tmp_path / "learner" / REPLAY, S + (wrong == "width"), R)
    assert (tmp_path / "learner" / AGENT).is_file()
