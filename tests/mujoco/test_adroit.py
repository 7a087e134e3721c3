"""Adroit's tasks behind the contract, on real physics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zprl import envs, plugins
from zprl.config import Task
from zprl.data.readers.robomimic import RobomimicReader
from zprl.envs.check import check_env
from zprl.envs.mujoco.world import MujocoWorlds
from zprl.envs.record_demos import RecordSettings, record
from zprl.errors import ConfigError

pytestmark = pytest.mark.mujoco

from zprl.envs.mujoco import adroit  # noqa: E402

N, STEPS = 2, 30
NAMES = sorted(adroit.TASKS)
SIZES = {"door": (39, 28), "hammer": (46, 26), "pen": (45 + 3, 24), "relocate": (39 + 3, 30)}
"""Numbers of an observation, the palm added where the benchmark has none, and of an action."""


def make(name: str, num_envs: int = N, steps: int = STEPS) -> MujocoWorlds:
    return envs.make(Task(name=f"adroit/{name}", episode_steps=steps), num_envs=num_envs)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    check_env(lambda: make(name))
    with make(name, num_envs=1) as env:
        assert (sum(env.spec.obs_dims.values()), env.spec.action_dim) == SIZES[name]
        assert env.spec.control_hz == pytest.approx(1 / env.worlds[0]._env.dt)


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_saved_state_repeats_bit_for_bit(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    with make(name) as env, make(name) as other:
        script = (
            2 * torch.rand(STEPS + 10, N, env.spec.action_dim, generator=draw) - 1
        )  # across the episode's end

        def play(world: MujocoWorlds, steps: torch.Tensor) -> list[torch.Tensor]:
            seen = [world.hold()]
            for action in steps:
                r = world.step(action)
                seen += [*r.obs.values(), *r.final_obs.values(), r.truncated, r.target]
            return seen

        env.reset(7)
        play(env, script[:12])
        saved = env.state()
        first = play(env, script[12:])
        env.restore(saved)
        again = play(env, script[12:])
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        other.restore(saved)  # a simulator that never saw the first steps
        elsewhere = play(other, script[12:])
        assert all(torch.equal(a, b) for a, b in zip(first, elsewhere, strict=True))


def test_the_palm_is_the_benchmark_s_where_it_shows_it() -> None:
    for name, at in (("door", 29), ("hammer", 33)):
        with make(name) as env:
            env.reset(0)
            env.step(env.hold() + 0.1)
            raw = env.worlds[0]._env._get_obs()
            frame = env.step(env.hold()).obs
            now = env.worlds[0]._env._get_obs()
            assert np.allclose(frame["robot0_eef_pos"][0], now[at : at + 3], atol=1e-6)
            assert not np.allclose(raw, now)
            whole = np.concatenate([frame["robot0_joint_pos"][0], frame["object"][0]])
            assert np.allclose(whole, np.delete(now, slice(at, at + 3)), atol=1e-6)


def test_starts_belong_to_seed_world_and_episode() -> None:
    with make("door", num_envs=2) as two, make("door", num_envs=3) as three:
        assert torch.equal(two.reset(5)["object"], three.reset(5)["object"][:2])
        for _ in range(STEPS):
            ended = two.step(two.hold())
            other = three.step(three.hold())
        assert ended.truncated.all()
        assert torch.equal(ended.obs["object"], other.obs["object"][:2])
        assert not torch.equal(ended.obs["object"], two.reset(5)["object"])


def achieve(name: str, world: adroit.AdroitWorld) -> None:
    """Put the objects where the task wants them, by hand."""
    env = world._env
    data, model = env.data, env.model
    if name == "door":
        data.joint("door_hinge").qpos = 1.4
    elif name == "hammer":
        data.joint("nail_dir").qpos = 0.09
    elif name == "pen":
        model.body("target").quat[:] = data.body("Object").xquat
        model.body("target").pos[:] = data.body("Object").xpos
    else:
        model.site("target").pos[:] = data.body("Object").xpos


@pytest.mark.parametrize("name", NAMES)
def test_success_is_the_task_s_own_and_ends_the_episode(name: str) -> None:
    with make(name) as env:
        env.reset(0)
        assert not env.step(env.hold()).success.any()
        achieve(name, env.worlds[1])
        result = env.step(env.hold())
        assert result.success.tolist() == result.terminated.tolist() == [False, True]
        assert result.reward.tolist() == [0.0, 1.0]


def test_random_actions_make_a_small_set_of_demonstrations(tmp_path) -> None:
    class Clumsy:
        quality = ["worse"] * N

        def __init__(self, env: MujocoWorlds) -> None:
            self._env, self._draw = env, torch.Generator().manual_seed(0)

        def act(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
            return (
                self._env.hold()
                + 0.1 * torch.randn(N, self._env.spec.action_dim, generator=self._draw)
            ).clamp(-1, 1)

    def made() -> MujocoWorlds:
        env = make("pen")
        env.operator = lambda seed, settings: Clumsy(env)
        return env

    settings = RecordSettings(
        task=Task(name="adroit/pen", episode_steps=STEPS), num_envs=N, keep_failures=1.0
    )
    file = tmp_path / "demos.hdf5"
    record(file, episodes=2, seed=0, settings=settings, make_env=made, progress=lambda n: None)
    episodes = list(RobomimicReader().read(file))
    assert [e.actions.shape[1] for e in episodes] == [24, 24]


def test_what_is_missing_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'adroit/hammer'"):
        make("hamer")
    assert "adroit/*" in plugins.names("tasks")
    with pytest.raises(ConfigError, match="no scripted operator"):
        record(
            tmp_path / "demos.hdf5",
            episodes=1,
            seed=0,
            settings=RecordSettings(task=Task(name="adroit/door"), num_envs=1),
        )
