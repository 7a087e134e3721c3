"""Meta-World's tasks behind the contract, on real physics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from zprl import envs, plugins
from zprl.config import Task
from zprl.data.readers.robomimic import RobomimicReader
from zprl.envs.check import check_env
from zprl.envs.record_demos import RecordSettings, record
from zprl.errors import ConfigError

pytestmark = pytest.mark.mujoco

from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # noqa: E402

from zprl.envs.mujoco import metaworld  # noqa: E402

N, STEPS = 3, 30
NAMES = ("box-close-v3", "push-wall-v3", "peg-insert-side-v3")


def make(name: str, num_envs: int = N, steps: int = STEPS) -> metaworld.MetaWorlds:
    return envs.make(Task(name=f"metaworld/{name}", episode_steps=steps), num_envs=num_envs)


@pytest.fixture
def env() -> Iterator[metaworld.MetaWorlds]:
    with make("push-wall-v3") as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    check_env(lambda: make(name))


@pytest.mark.parametrize("name", sorted(ALL_V3_ENVIRONMENTS))
def test_every_task_starts_and_moves(name: str) -> None:
    with make(name, num_envs=2) as env:
        first = env.reset(0)
        assert not torch.equal(*torch.cat(list(first.values()), 1))
        up = env.hold()
        up[:, 2] = 1.0
        for _ in range(5):
            result = env.step(up)
        assert result.target is not None
        # Each step asks for one centimetre; Meta-World clips at its box, which ends at 0.5 m at
        # most.
        assert (result.target[:, 2] <= first["robot0_eef_pos"][:, 2] + 0.07).all()
        assert (result.final_obs["robot0_eef_pos"][:, 2] > first["robot0_eef_pos"][:, 2]).all()


def test_the_goal_is_the_task_s_own(env: metaworld.MetaWorlds) -> None:
    first = env.reset(3)
    for obs in (
        first,
        env.step(env.hold()).obs,
    ):  # a plain Meta-World task shows it at the start and then zeros
        for n, world in enumerate(env.worlds):
            assert np.allclose(obs["goal"][n], world._env._target_pos, atol=1e-6)
            # Meta-World reads a first frame's tool one physics step before the hand has come to
            # rest.
            assert np.allclose(
                obs["robot0_eef_pos"][n], world._env.data.body("hand").xpos, atol=1e-3
            )


def test_a_step_commands_one_centimetre(env: metaworld.MetaWorlds) -> None:
    env.reset(0)
    action = env.hold()
    before = env.step(action).target
    action[:, 0] = 1.0
    action[1:, 0] = 5.0  # clipped to 1
    after = env.step(action).target
    assert torch.allclose(after - before, torch.tensor([0.01, 0.0, 0.0]).expand(N, 3), atol=1e-7)


def test_the_gripper_closes_with_plus_one(env: metaworld.MetaWorlds) -> None:
    start = env.reset(0)["robot0_gripper_qpos"]
    action = env.hold()
    action[:, 3] = 1.0
    for _ in range(20):
        result = env.step(action)
    assert (result.obs["robot0_gripper_qpos"] < start - 0.3).all()


def test_going_on_from_a_saved_state_repeats_bit_for_bit(env: metaworld.MetaWorlds) -> None:
    env.reset(7)
    draw = torch.Generator().manual_seed(0)
    script = 2 * torch.rand(STEPS + 10, N, 4, generator=draw) - 1  # across the episode's end

    def play(world: metaworld.MetaWorlds, steps: torch.Tensor) -> list[torch.Tensor]:
        results = [world.step(action) for action in steps]
        return [
            value
            for r in results
            for value in (*r.obs.values(), *r.final_obs.values(), r.truncated, r.target)
        ]

    play(env, script[:12])
    saved = env.state()
    first = play(env, script[12:])
    env.restore(saved)
    again = play(env, script[12:])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with make("push-wall-v3") as other:  # a simulator that never saw the first steps
        other.restore(saved)
        elsewhere = play(other, script[12:])
    assert all(torch.equal(a, b) for a, b in zip(first, elsewhere, strict=True))


def test_starts_belong_to_seed_world_and_episode() -> None:
    with make("push-wall-v3", num_envs=2) as two, make("push-wall-v3", num_envs=3) as three:
        assert torch.equal(two.reset(5)["object"], three.reset(5)["object"][:2])
        for _ in range(STEPS):
            ended = two.step(two.hold())
            other = three.step(three.hold())
        assert ended.truncated.all()
        assert torch.equal(ended.obs["object"], other.obs["object"][:2])
        assert not torch.equal(ended.obs["object"], two.reset(5)["object"])


def test_a_world_s_start_belongs_to_its_number_whatever_world_it_stands_in() -> None:
    with make("push-wall-v3", num_envs=4) as four, make("push-wall-v3", num_envs=2) as two:
        four.reset(5)
        two.count_from(2)
        assert torch.equal(two.reset(5)["object"], four.reset(5)["object"][2:])
        saved = two.state()
        two.count_from(0)
        two.reset(5)
        two.restore(saved)
        for _ in range(STEPS):  # to the next episode
            later, others = two.step(two.hold()), four.step(four.hold())
        assert torch.equal(later.obs["object"], others.obs["object"][2:])


def test_the_expert_succeeds_and_the_worse_one_less(tmp_path) -> None:
    settings = RecordSettings(
        task=Task(name="metaworld/box-close-v3", episode_steps=200), num_envs=12, keep_failures=0.1
    )
    files = [tmp_path / "a.hdf5", tmp_path / "b.hdf5"]
    seen = [
        record(file, episodes=12, seed=0, settings=settings, progress=lambda n: None)
        for file in files
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert seen[0].succeeded["better"] == seen[0].tried["better"] > 0
    assert sum(seen[0].tried.values()) > sum(seen[0].succeeded.values())  # nobody is flawless
    episodes = list(RobomimicReader().read(files[0]))
    assert len(episodes) == 12
    assert {e.actions.shape[1] for e in episodes} == {4}
    assert max(np.abs(e.actions).max() for e in episodes) <= 1.0


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'metaworld/box-close-v3'"):
        make("box-closed-v3")
    assert "metaworld/*" in plugins.names("tasks")
