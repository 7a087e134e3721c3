"""Worlds in several processes: the same numbers as in one, and an end that is noticed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.poisoned import Folder
from zprl import envs
from zprl.config import Task
from zprl.envs.mujoco.processes import SpreadWorlds
from zprl.errors import ConfigError, EnvironmentProblem

pytestmark = pytest.mark.mujoco
NAME, N, STEPS = "metaworld/push-wall-v3", 3, 12


def task(*, workers: int, cameras: tuple[str, ...] = ()) -> Task:
    return Task(name=NAME, episode_steps=STEPS, cameras=cameras, image_size=32, workers=workers)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in one
    )


@pytest.mark.parametrize("cameras", [(), ("corner2",)])
def test_two_processes_give_one_process_s_numbers(cameras: tuple[str, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    with (
        envs.make(task(workers=2, cameras=cameras), num_envs=N) as spread,
        envs.make(task(workers=0, cameras=cameras), num_envs=N) as plain,
    ):
        assert isinstance(spread, SpreadWorlds)
        assert spread.spec == plain.spec
        for env in (spread, plain):
            env.count_from(5)
        assert same(spread.reset(7), plain.reset(7))
        for step in range(2 * STEPS + 3):  # across the ends of two episodes
            action = 2 * torch.rand(N, 4, generator=draw) - 1
            got, expected = (env.step(action, render=step % 3 != 1) for env in (spread, plain))
            for name in ("obs", "final_obs"):
                assert same(getattr(got, name), getattr(expected, name)), (name, step)
            for name in ("reward", "terminated", "truncated", "success", "target"):
                assert torch.equal(getattr(got, name), getattr(expected, name)), (name, step)
        assert torch.equal(spread.hold(), plain.hold())


@pytest.mark.parametrize("workers", [0, 2])
def test_worlds_at_rest_are_passed_by_and_the_others_do_not_notice(workers: int) -> None:
    draw, resting = torch.Generator().manual_seed(0), torch.tensor([False, True, False])
    with (
        envs.make(task(workers=workers), num_envs=N) as env,
        envs.make(task(workers=0), num_envs=N) as awake,
    ):
        assert same(env.reset(7), awake.reset(7))
        env.rest(resting)
        for step in range(STEPS + 2):  # across the end of an episode
            action = 2 * torch.rand(N, 4, generator=draw) - 1
            got, expected = env.step(action), awake.step(action)
            for name in ("obs", "final_obs"):
                found, wanted = getattr(got, name), getattr(expected, name)
                assert all(
                    torch.equal(found[key][~resting], wanted[key][~resting])
                    and not found[key][1].any()
                    for key in wanted
                ), step
            assert not (got.terminated | got.truncated | got.success)[1], step
            assert torch.equal(got.truncated[~resting], expected.truncated[~resting]), step
        assert same(env.reset(7), awake.reset(7)), "a reset wakes all"


def test_a_killed_process_is_named_and_the_others_end() -> None:
    env = envs.make(task(workers=2), num_envs=N)
    env.reset(0)
    pids = [worker._process.pid for worker in env._workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(EnvironmentProblem, match=r"the process of worlds 2 to 2 ended by SIGKILL"):
        for _ in range(2):
            env.step(torch.zeros(N, 4))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(EnvironmentProblem, match="the environment is closed"):
        env.step(torch.zeros(N, 4))
    env.close()
    env.close()


def test_errors_of_a_process_are_those_of_one() -> None:
    with pytest.raises(ConfigError, match=r"no camera 'front'.*\n.*corner2"):
        envs.make(task(workers=2, cameras=("front",)), num_envs=2)
    with envs.make(task(workers=5), num_envs=1) as env:
        assert len(env._workers) == 1, "no more processes than worlds"
        with pytest.raises(EnvironmentProblem, match="before the first reset"):
            env.step(torch.zeros(1, 4))
        assert env.reset(0)["object"].shape == (1, 14), "a refused order harms nothing"
        with pytest.raises(ConfigError, match="operator"):
            env.operator(0, {})


def test_a_process_runs_nothing_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    folder.poison()
    for name, value in folder.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(folder.path)
    with envs.make(task(workers=2), num_envs=N) as env:
        env.reset(7)
    assert folder.sprung() == []
