from __future__ import annotations

import pytest
import torch

from tests.unit.envs.toy import Toy
from zprl.envs.chunk import ChunkEnv
from zprl.errors import ConfigError


class Spy(Toy):
    """Keeps every action it was given; its reward is the episode's age in each step."""

    def reset(self, seed):
        self.actions: list[torch.Tensor] = []
        return super().reset(seed)

    def step(self, action):
        self.actions.append(action.clone())
        age = self.age + 1
        result = super().step(action)
        object.__setattr__(result, "reward", age.float())
        return result


def _chunk(env: ChunkEnv, height: float = 0.0) -> torch.Tensor:
    spec = env.env.spec
    chunk = torch.zeros(spec.num_envs, env.chunk_steps, spec.action_dim)
    chunk[:, :, 2] = height
    chunk[:, :, 3] = -1
    return chunk


def test_reward_is_discounted_and_stops_at_the_end_of_the_episode():
    with ChunkEnv(Spy(2, episode_steps=6), 4, step_discount=0.5) as env:
        env.reset(0)
        assert (
            env.step(_chunk(env)).reward.tolist() == [1 + 1 + 0.75 + 0.5] * 2
        )  # 1 + 2/2 + 3/4 + 4/8
        result = env.step(_chunk(env))
    assert (
        result.reward.tolist() == [5 + 3.0] * 2
    )  # 5 + 6/2; the new episode's steps 1, 2 do not count
    assert result.length.tolist() == [2, 2]
    assert result.truncated.tolist() == [True, True]
    assert not result.terminated.any()
    assert result.env_steps == 8  # two environments, four steps each, holding included


def test_ended_environment_holds_and_never_executes_the_old_chunk():
    world = Spy(3, episode_steps=6)
    with ChunkEnv(world, 4) as env:
        env.reset(0)
        env.step(_chunk(env, 0.9))
        env.step(_chunk(env, 0.9))
        assert all(torch.equal(action, _chunk(env, 0.9)[:, 0]) for action in world.actions[:6])
        assert all(torch.equal(action, world.hold()) for action in world.actions[6:8])
        env.step(_chunk(env, 0.9))
        assert torch.equal(
            world.actions[8], _chunk(env, 0.9)[:, 0]
        )  # the next chunk is the new episode's own


def test_only_the_ended_environment_holds():
    world = Spy(2, episode_steps=50)
    with ChunkEnv(world, 4) as env:
        env.reset(0)
        world.position[1, 2] = 0.42  # two steps of 0.05 m bring it above 0.5 m
        chunk = _chunk(env, 0.9)
        result = env.step(chunk)
        assert result.success.tolist() == [False, True]
        assert result.length.tolist() == [4, 2]
        assert torch.equal(world.actions[3][0], chunk[0, 3])
        assert torch.equal(world.actions[3][1], world.hold()[1])
        # 0.42 + 2 x 0.05 where it succeeded; the other goes on from its start
        assert result.final_obs["robot0_eef_pos"][1, 0, 2].item() == pytest.approx(0.52, abs=0.002)
        assert torch.equal(result.final_obs["robot0_eef_pos"][0], result.obs["robot0_eef_pos"][0])
        assert result.obs["age"].flatten().tolist() == [4, 2]


def test_history_is_filled_with_the_first_frame_and_rolls():
    with ChunkEnv(Spy(1, episode_steps=6), 2, obs_steps=3) as env:
        assert env.reset(0)["age"].flatten().tolist() == [0, 0, 0]
        assert env.step(_chunk(env)).obs["age"].flatten().tolist() == [0, 1, 2]
        assert env.step(_chunk(env)).obs["age"].flatten().tolist() == [2, 3, 4]
        result = env.step(_chunk(env))
        assert result.final_obs["age"].flatten().tolist() == [4, 5, 6]
        assert result.obs["age"].flatten().tolist() == [0, 0, 0]


def test_history_after_an_end_in_mid_chunk_knows_nothing_of_the_old_episode():
    with ChunkEnv(Spy(1, episode_steps=3), 4, obs_steps=3) as env:
        env.reset(0)
        result = env.step(_chunk(env))
    assert result.final_obs["age"].flatten().tolist() == [1, 2, 3]
    assert result.obs["age"].flatten().tolist() == [0, 0, 1]


def test_second_end_within_a_chunk_belongs_to_nobody():
    with ChunkEnv(Spy(1, episode_steps=2), 5, step_discount=1.0) as env:
        env.reset(0)
        result = env.step(_chunk(env))
    assert result.reward.tolist() == [3]  # 1 + 2 of the first episode
    assert result.final_obs["age"].flatten().tolist() == [2]
    assert result.obs["age"].flatten().tolist() == [
        1
    ]  # five steps: 2, 2 and the first of the third episode


def test_earlier_histories_stay_as_they_were():
    with ChunkEnv(Spy(2), 3, obs_steps=2) as env:
        first = env.reset(0)
        copy = {key: value.clone() for key, value in first.items()}
        env.step(_chunk(env))
        assert all(torch.equal(first[key], copy[key]) for key in copy)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 3, 3), (3, 2, 4), (3, 4)])
def test_wrong_chunk_shape_is_refused(shape: tuple[int, ...]):
    with ChunkEnv(Spy(3), 3) as env:
        env.reset(0)
        with pytest.raises(ConfigError, match=r"expected \(3, 3, 4\)"):
            env.step(torch.zeros(shape))


def test_step_before_reset_is_refused():
    with ChunkEnv(Spy(1), 1) as env, pytest.raises(ConfigError, match="before the first reset"):
        env.step(torch.zeros(1, 1, 4))


def test_zero_sizes_are_refused():
    with pytest.raises(ConfigError):
        ChunkEnv(Toy(), 0)
    with pytest.raises(ConfigError):
        ChunkEnv(Toy(), 1, 0)
