"""Evaluation in a toy world: what is counted, what is not, and that equal inputs give equal bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.toy_world import ReachWorld, toy_policy
from zprl import config, durable, seeding
from zprl.envs.base import StepResult
from zprl.errors import ConfigError, DataError, Interrupted
from zprl.evaluation.result import PER_EPISODE, SUMMARY, Evaluation
from zprl.evaluation.resume_evaluation import deliver, kept
from zprl.evaluation.rollout import VIDEO_EVERY, evaluate

TASK = config.Task(name="toy/reach", episode_steps=24)
SPEC = toy_policy().spec
"""Chunks of 4; one action dimension."""


class RecordedWorld(ReachWorld):
    """A toy world with one body, whose pose is the point's position; it remembers that it was closed."""

    closed = False

    def scene(self) -> dict[str, torch.Tensor]:
        pose = torch.zeros(self.spec.num_envs, 7)
        pose[:, 0], pose[:, 6] = self.position[:, 0], 1.0
        return {"point": pose}

    def close(self) -> None:
        self.closed = True


def speeds(*actions: float):
    """A policy that always commands the same action, one per environment."""
    chunk = torch.tensor(actions)[:, None, None].expand(-1, 4, 1)
    return lambda obs, noise: chunk.clone()


class NumberedWorld(RecordedWorld):
    """Starts belong to (seed, number of the environment, episode)."""

    first = 0

    def count_from(self, first: int) -> None:
        self.first = first

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        self.seed, self.episode = seed, -1
        return super().reset(seed)

    def _start(self) -> torch.Tensor:
        self.episode += 1
        draws = [
            seeding.torch_generator(self.seed, "start", self.first + n, self.episode)
            for n in range(self.spec.num_envs)
        ]
        return torch.stack([0.1 * torch.rand(1, generator=draw) for draw in draws])


def run(
    act, episodes: int, *, world=RecordedWorld, seed: int = 5, num_envs: int | None = None, **more
) -> Evaluation:
    judged = config.Evaluate(episodes=episodes, num_envs=num_envs, seed=seed, video_episodes=2)
    return evaluate(
        act,
        world,
        policy="base",
        policy_spec=SPEC,
        num_features=1,
        task=TASK,
        config=judged,
        position_key="position",
        **more,
    )


def test_success_and_length_are_those_of_the_first_episode() -> None:
    # Full speed moves 0.2 a step from a start in [0, 0.1): beyond 1.0 after 5 steps (6 from exactly
    # 0). Standing still times out at 24.
    found = run(speeds(1.0, 0.0, 0.5), 3)
    assert found.success == (True, False, True)
    start = found.tracks["start/position"][:, 0].double()
    expected = [
        math.floor((1.0 - start[0].item()) / 0.2) + 1,
        24,
        math.floor((1.0 - start[2].item()) / 0.1) + 1,
    ]
    assert list(found.length) == expected
    # The first environment starts many more episodes meanwhile; none is counted.
    assert found.env_steps == 3 * 24
    assert found.summary()["success_rate"] == pytest.approx(2 / 3)


def test_tracks_end_with_the_episode_and_hold_its_true_last_position() -> None:
    found = run(speeds(1.0, 0.0), 2)
    steps = found.length[0]
    track = found.tracks["position"][0, :, 0]
    assert track[: steps + 1].tolist() == pytest.approx(
        [float(track[0]) + 0.2 * i for i in range(steps + 1)]
    )
    assert track[steps] > 1.0, "final_obs, not the next episode's first"
    assert track[steps + 1 :].isnan().all()
    assert found.tracks["target"][0, steps:].isnan().all()
    assert found.tracks["target"][0, :steps].eq(1.0).all(), (
        "commands of the episode, not the holding after it"
    )


def test_smoothness_is_measured_up_to_the_end_alone() -> None:
    # A constant command and a constant speed: nothing to see. The reset and the holding that follow
    # would be a jump.
    found = run(speeds(1.0, 0.0), 2)
    assert found.jerk_rms == pytest.approx((0, 0), abs=1e-2)
    assert found.total_variation == (0.0, 0.0)
    assert found.chunk_jump == (0.0, 0.0)


def test_noise_depends_on_seed_and_decision_alone() -> None:
    seen: list[torch.Tensor] = []

    def act(obs, noise):
        seen.append(noise.clone())
        return torch.zeros(2, 4, 1)

    run(act, 2, seed=9)
    assert len(seen) == 6, "24 steps in chunks of 4"
    for index, noise in enumerate(seen):
        generator = seeding.torch_generator(9, "evaluation-noise", index)
        assert torch.equal(noise, torch.randn(2, SPEC.policy.horizon, 1, generator=generator))


def test_a_video_has_regular_frames_and_the_last_before_the_end() -> None:
    found = run(speeds(1.0, 0.0), 2)
    episode, step, poses = (found.tracks[f"video/{name}"] for name in ("episode", "step", "poses"))
    assert found.bodies == ("point",)
    assert poses.shape == (len(step), 1, 7)
    ended = found.length[0]
    assert step[episode == 0].tolist() == sorted({*range(0, ended, VIDEO_EVERY), ended - 1})
    assert step[episode == 1].tolist() == sorted({*range(0, 24, VIDEO_EVERY), 23})
    track = found.tracks["position"][0, :, 0]
    assert poses[episode == 0][:, 0, 0].tolist() == pytest.approx(
        [float(track[s]) for s in step[episode == 0]]
    )


def test_equal_evaluations_have_equal_bytes(tmp_path: Path) -> None:
    policy = toy_policy()
    for name in ("one", "two"):
        run(policy.act, 3).save(tmp_path / name)
    assert durable.digest(tmp_path / "one") == durable.digest(tmp_path / "two")
    run(policy.act, 3, seed=6).save(tmp_path / "three")
    assert durable.digest(tmp_path / "one") != durable.digest(tmp_path / "three")


def test_save_and_read(tmp_path: Path) -> None:
    before = run(speeds(1.0, 0.0), 2)
    before.save(tmp_path / "e")
    after = Evaluation.read(tmp_path / "e")
    assert after.summary() == before.summary()
    assert (after.success, after.length, after.bodies, after.video_strips) == (
        before.success,
        before.length,
        ("point",),
        2,
    )
    assert after.tracks.keys() == before.tracks.keys()
    document = json.loads((tmp_path / "e" / SUMMARY).read_text())
    needed = {
        "policy",
        "task",
        "seed",
        "episodes",
        "success_rate",
        "ci_low",
        "ci_high",
        "episode_length",
        "jerk_rms",
        "env_steps",
    }
    assert needed <= document.keys()


def test_an_episode_within_one_chunk_has_no_jump_and_json_says_null(tmp_path: Path) -> None:
    found = run(speeds(1.0, 1.0), 2, world=lambda n: RecordedWorld(n, goal=0.3))
    assert all(math.isnan(jump) for jump in found.chunk_jump)
    found.save(tmp_path / "e")
    document = json.loads((tmp_path / "e" / SUMMARY).read_text())
    assert document["chunk_jump"] is None
    assert document["per_episode"]["chunk_jump"] == [None, None]
    assert math.isnan(Evaluation.read(tmp_path / "e").chunk_jump[0])


@pytest.mark.parametrize("damage", ["{}", "[]", "not json", '{"per_episode": {}}'])
def test_reading_damage_is_a_data_error(tmp_path: Path, damage: str) -> None:
    run(speeds(1.0), 1).save(tmp_path / "e")
    (tmp_path / "e" / SUMMARY).write_text(damage)
    with pytest.raises(DataError):
        Evaluation.read(tmp_path / "e")


def test_a_world_without_the_position_is_refused() -> None:
    judged = config.Evaluate(episodes=2)
    with pytest.raises(ConfigError, match="robot0_eef_pos"):
        evaluate(
            speeds(0.0, 0.0),
            ReachWorld,
            policy="base",
            policy_spec=SPEC,
            num_features=1,
            task=TASK,
            config=judged,
        )


def by_noise(obs, noise: torch.Tensor) -> torch.Tensor:
    """A policy that goes as fast as its noise says; no arithmetic whose last bit depends on the size of the batch."""
    return noise[:, :, :1].clamp(0.1, 1.0)


@pytest.mark.parametrize("num_envs", [1, 3, 7, 30, 50])
def test_rounds_of_any_size_reach_the_verdicts_of_all_side_by_side(num_envs: int) -> None:
    episodes = 30  # more than are recorded
    made: list[NumberedWorld] = []

    def world(n: int) -> NumberedWorld:
        assert all(one.closed for one in made), "two simulators open at once"
        made.append(NumberedWorld(n, goal=1.8))
        return made[-1]

    ticks: list[tuple[int, int]] = []
    found = run(
        by_noise, episodes, world=world, num_envs=num_envs, tick=lambda *seen: ticks.append(seen)
    )
    sizes = [one.spec.num_envs for one in made]
    assert sum(sizes) == episodes
    assert max(sizes) == min(num_envs, episodes)
    assert all(one.closed for one in made)
    assert ticks == sorted(ticks)
    assert ticks[-1] == (episodes, episodes)
    whole = run(by_noise, episodes, world=lambda n: NumberedWorld(n, goal=1.8))
    assert len(set(whole.length)) > 5, "the episodes differ"
    for name in PER_EPISODE:
        assert getattr(found, name) == getattr(whole, name), name
    assert found.tracks.keys() == whole.tracks.keys()
    for key, value in whole.tracks.items():
        assert torch.equal(found.tracks[key].nan_to_num(-9.0), value.nan_to_num(-9.0)), key
    # What was simulated in vain after an episode's end is less where its round ends with it.
    assert sum(found.length) <= found.env_steps <= whole.env_steps


class RestingWorld(NumberedWorld):
    """A toy world that notices who is left out of a step, and lets those report nonsense."""

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        self.resting = torch.zeros(self.spec.num_envs, dtype=torch.bool)
        self.rested = 0
        return super().reset(seed)

    def rest(self, which: torch.Tensor) -> None:
        self.resting = which.clone()

    def step(self, action: torch.Tensor) -> StepResult:
        self.rested += int(self.resting.sum())
        found = super().step(action)
        for obs in (found.obs, found.final_obs):
            obs["position"][self.resting] = 77.0
        found.terminated[self.resting] = found.success[self.resting] = False
        return found


def test_environments_whose_episode_is_over_rest_and_are_not_counted() -> None:
    made: list[RestingWorld] = []

    def world(n: int) -> RestingWorld:
        made.append(RestingWorld(n, goal=1.8))
        return made[-1]

    found, whole = (
        run(by_noise, 12, world=world, num_envs=6),
        run(by_noise, 12, world=lambda n: NumberedWorld(n, goal=1.8), num_envs=6),
    )
    for name in PER_EPISODE:
        assert getattr(found, name) == getattr(whole, name), name
    for key, value in whole.tracks.items():
        assert torch.equal(found.tracks[key].nan_to_num(-9.0), value.nan_to_num(-9.0)), key
    rested = sum(one.rested for one in made)
    assert rested > 0
    assert found.env_steps == whole.env_steps - rested
    assert found.env_steps == sum(-(-steps // 4) * 4 for steps in found.length), (
        "every episode's chunks, and nothing else"
    )


def test_rounds_of_a_world_that_numbers_nothing_start_elsewhere_and_repeat() -> None:
    one, two = (run(by_noise, 7, num_envs=3) for _ in range(2))
    starts = one.tracks["start/position"].flatten().tolist()
    assert len(set(starts)) == 7
    assert starts == two.tracks["start/position"].flatten().tolist()
    assert run(by_noise, 3).tracks["start/position"].flatten().tolist() == starts[:3]


def test_a_wrong_number_of_environments_is_refused() -> None:
    with pytest.raises(ConfigError, match="environments for 2 episodes"):
        run(speeds(0.0, 0.0), 2, world=lambda _: RecordedWorld(3))


def test_a_stop_between_chunks_closes_the_world_and_keeps_nothing(tmp_path: Path) -> None:
    worlds: list[RecordedWorld] = []

    def make(n: int) -> RecordedWorld:
        worlds.append(RecordedWorld(n))
        return worlds[-1]

    def stop(done: int, episodes: int) -> None:
        raise Interrupted("asked to")

    with pytest.raises(Interrupted):
        kept(tmp_path / "base", lambda: run(speeds(0.0), 1, world=make, tick=stop))
    assert worlds[0].closed
    assert not (tmp_path / "base").exists()


def test_a_finished_verdict_is_not_reached_twice(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Evaluation:
        calls.append(1)
        return run(speeds(1.0), 1)

    first, before = kept(tmp_path / "base", make)
    second, after = kept(tmp_path / "base", make)
    assert (before, after, len(calls)) == (False, True, 1)
    assert first.summary() == second.summary()
    deliver(tmp_path / "base", tmp_path / "out")
    assert durable.digest(tmp_path / "out") == durable.digest(tmp_path / "base")


def test_a_damaged_verdict_is_reached_again(tmp_path: Path) -> None:
    kept(tmp_path / "base", lambda: run(speeds(1.0), 1))
    (tmp_path / "base" / SUMMARY).write_text("torn")
    found, already = kept(tmp_path / "base", lambda: run(speeds(1.0), 1))
    assert not already
    assert found.success == (True,)
