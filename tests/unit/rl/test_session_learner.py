"""The learner of a session is a fold: equal labels in equal order give equal bytes."""

from __future__ import annotations

import pytest
import torch

from tests.session_start import DIM, lived, make_start
from zprl.config import Real
from zprl.errors import DataError
from zprl.rl.session_learner import SessionLearner

CONFIG = Real(updates_per_chunk=1.5, batch_size=8, critic_episodes=1, train_episodes=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_start(tmp_path_factory.mktemp("session") / "start")


def learner(folder, **changes) -> SessionLearner:
    return SessionLearner(folder, CONFIG.model_copy(update=changes), seed=3)


def width(folder) -> int:
    found = learner(folder)
    return found.state_dim - DIM


def feed(found: SessionLearner, order, d) -> SessionLearner:
    for number, success in order:
        found.consume(lived(number, embedding_dim=d), number, success=success)
    return found


def test_equal_labels_in_equal_order_give_equal_bytes(folder) -> None:
    d, order = width(folder), [(1, True), (2, False), (4, True)]
    first, second = feed(learner(folder), order, d), feed(learner(folder), order, d)
    for name, value in first.agent.state().items():
        assert torch.equal(value, second.agent.state()[name]), name
    other = feed(learner(folder), [order[1], order[0], order[2]], d)
    assert not torch.equal(first.agent.critics.flat, other.agent.critics.flat)


def test_updates_are_paid_by_chunks_and_fractions_carry_on(folder) -> None:
    found = feed(
        learner(folder, updates_per_chunk=0.3), [(1, True), (2, True), (3, True)], width(folder)
    )
    assert found.updates.done == 4  # 3 episodes x 5 chunks x 0.3 = 4.5, paid as 1 + 2 + 1
    assert found.paid == pytest.approx(0.5)


def test_the_rows_by_hand(folder) -> None:
    d, found = width(folder), learner(folder)
    episode = lived(7, 3, embedding_dim=d, last_steps=2)
    found.consume(episode, 7, success=True)
    rows = found.replay.data
    assert rows["reward"][:3].tolist() == pytest.approx(
        [0, 0, 0.99]
    )  # success at the second step of its chunk
    assert rows["discount"][:3].tolist() == pytest.approx([0.99**4, 0.99**4, 0.0])
    assert torch.equal(
        rows["inputs"][1], torch.cat([episode.embedding[1], episode.anchor[1], episode.point[1]])
    )
    assert torch.equal(
        rows["next_inputs"][1, : d + DIM], torch.cat([episode.embedding[2], episode.anchor[2]])
    )
    assert torch.equal(
        rows["next_inputs"][2, : d + DIM],
        torch.cat([episode.final_embedding, episode.final_anchor]),
    )


def test_what_a_person_moved_is_not_learned_from(folder) -> None:
    d, found = width(folder), learner(folder)
    episode = lived(7, 4, embedding_dim=d, intervened=(1, 3))
    found.consume(episode, 7, success=True)
    assert len(found.replay) == 2
    assert torch.equal(found.replay.data["inputs"][1, :d], episode.embedding[2])
    assert found.replay.data["reward"][:2].tolist() == [0, 0]  # the success was the person's
    found.consume(None, 7, success=False)  # correcting it must not touch another row
    assert found.replay.data["reward"][:2].tolist() == [0, 0]


def test_a_correction_changes_the_reward_and_pays_for_nothing(folder) -> None:
    d, found = width(folder), learner(folder)
    feed(found, [(1, True), (2, False)], d)
    done = found.updates.done
    found.consume(None, 2, success=True)
    found.consume(None, 1, success=False)
    assert found.replay.data["reward"][[4, 9]].tolist() == pytest.approx([0.0, 0.99**2])
    assert (found.updates.done, found.version) == (done, 4)


def test_the_actor_waits_for_the_critics(folder) -> None:
    d, found = width(folder), learner(folder, critic_episodes=2)
    before = found.agent.actor.net.flat.clone()
    feed(found, [(1, True), (2, False)], d)
    assert torch.equal(found.agent.actor.net.flat, before)
    feed(found, [(3, True)], d)
    assert not torch.equal(found.agent.actor.net.flat, before)


def test_evaluation_labels_only_count(folder) -> None:
    found = learner(folder)
    before = found.agent.critics.flat.clone()
    found.consume(None, 1, success=True)
    assert found.version == 1
    assert torch.equal(found.agent.critics.flat, before)


def test_going_on_from_a_checkpoint_gives_the_same_bytes(folder, tmp_path) -> None:
    d = width(folder)
    whole = feed(learner(folder), [(n, n % 2 == 0) for n in range(1, 6)], d)
    part = feed(learner(folder), [(n, n % 2 == 0) for n in range(1, 4)], d)
    part.save(tmp_path / "checkpoint")
    again = learner(folder)
    for n in range(1, 4):
        again.consume(lived(n, embedding_dim=d), n, success=n % 2 == 0, learn=False)
    again.restore(tmp_path / "checkpoint")
    feed(again, [(4, True), (5, False)], d)
    for name, value in whole.agent.state().items():
        assert torch.equal(value, again.agent.state()[name]), name
    assert again.curve == whole.curve


def test_a_checkpoint_of_other_labels_is_refused(folder, tmp_path) -> None:
    part = feed(learner(folder), [(1, True)], width(folder))
    part.save(tmp_path / "checkpoint")
    with pytest.raises(DataError, match="knows 1 labels"):
        learner(folder).restore(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("start", "actor", "critics"),
    [("agent", True, True), ("critics", False, True), ("fresh", False, False)],
)
def test_what_is_taken_over_from_simulation(folder, start, actor, critics) -> None:
    full, found = learner(folder, start="agent"), learner(folder, start=start)
    assert torch.equal(found.agent.actor.net.flat, full.agent.actor.net.flat) == actor
    assert torch.equal(found.agent.critics.flat, full.agent.critics.flat) == critics


def test_an_episode_of_another_policy_is_refused(folder) -> None:
    with pytest.raises(DataError, match="does not fit"):
        learner(folder).consume(lived(1, embedding_dim=width(folder) + 1), 1, success=True)
