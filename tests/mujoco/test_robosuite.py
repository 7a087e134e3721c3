"""robosuite's tasks behind the contract, on real physics."""

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

N, STEPS = 2, 10
FLAWLESS = {
    grade: {"share": float(grade == "better"), "tremor": 0, "drift": 0, "pause": 0}
    for grade in ("better", "okay", "worse")
}


def make(name: str, num_envs: int = N, steps: int = STEPS) -> MujocoWorlds:
    return envs.make(Task(name=f"robosuite/{name}", episode_steps=steps), num_envs=num_envs)


@pytest.mark.parametrize("name", ["lift", "can-absolute", "transport"])
def test_contract(name: str) -> None:
    check_env(lambda: make(name))


@pytest.mark.parametrize("name", ["can", "square-absolute", "transport"])
def test_going_on_from_a_saved_state_repeats_bit_for_bit(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    with make(name) as env, make(name) as other:
        env.reset(7)
        script = env.hold() + 0.3 * torch.randn(
            STEPS + 8, N, env.spec.action_dim, generator=draw
        )  # across the episode's end

        def play(world: MujocoWorlds, steps: torch.Tensor) -> list[torch.Tensor]:
            results = [world.step(action) for action in steps]
            return [
                value
                for r in results
                for value in (*r.obs.values(), *r.final_obs.values(), r.truncated, r.target)
            ]

        for before in (0, 6):  # right after a start, and on the way
            env.reset(7)
            play(env, script[:before])
            saved = env.state()
            first = play(env, script[before:])
            env.restore(saved)
            again = play(env, script[before:])
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            other.reset(1)  # a simulator that has seen other things
            play(other, script[:3])
            other.restore(saved)
            elsewhere = play(other, script[before:])
            assert all(torch.equal(a, b) for a, b in zip(first, elsewhere, strict=True))


def test_starts_belong_to_seed_world_and_episode() -> None:
    with make("lift", num_envs=2) as two, make("lift", num_envs=3) as three:
        assert torch.equal(two.reset(5)["object"], three.reset(5)["object"][:2])
        for _ in range(STEPS):
            ended = two.step(two.hold())
            other = three.step(three.hold())
        assert ended.truncated.all()
        assert torch.equal(ended.obs["object"], other.obs["object"][:2])
        assert not torch.equal(ended.obs["object"], two.reset(5)["object"])


def test_observations_are_of_now_and_the_first_has_no_zeros() -> None:
    with make("can") as env:
        obs = env.reset(0)
        up = env.hold()
        up[:, 2] = 1.0
        for _ in range(3):
            # robosuite's order: the can in the hand's frame, then in the world.
            in_hand, can = obs["object"][:, :3], obs["object"][:, 7:10]
            # A rotation keeps lengths; the hand's body and the tool's site are 10 cm apart at most.
            between = (can - obs["robot0_eef_pos"]).norm(dim=1)
            assert ((in_hand.norm(dim=1) - between).abs() < 1e-5).all()
            for n, world in enumerate(env.worlds):
                assert np.allclose(obs["robot0_eef_pos"][n], world.tool()[0], atol=1e-6)
            obs = env.step(up).obs


def test_a_step_commands_five_centimetres_from_where_the_tool_is() -> None:
    with make("lift") as env:
        start = env.reset(0)["robot0_eef_pos"]
        action = env.hold()
        action[:, 0] = 1.0
        action[1:, 0] = 5.0  # clipped to 1
        target = env.step(action).target
        assert torch.allclose(
            target - start, torch.tensor([0.05, 0.0, 0.0]).expand(N, 3), atol=1e-5
        )


def test_an_absolute_action_is_where_the_tool_goes() -> None:
    with make("lift-absolute", steps=60) as env:
        env.reset(0)
        action = env.hold()
        action[:, :3] += torch.tensor([0.03, -0.04, 0.05])
        for _ in range(30):
            result = env.step(action)
        assert torch.allclose(result.target, action[:, :3], atol=1e-6)
        assert ((result.obs["robot0_eef_pos"] - action[:, :3]).norm(dim=1) < 0.01).all()
        for n, world in enumerate(env.worlds):
            assert np.allclose(world.tool()[1][:, :2].T.ravel(), action[n, 3:9], atol=0.05)


def test_the_gripper_closes_with_plus_one() -> None:
    with make("lift", steps=30) as env:
        env.reset(0)
        widths = []
        for gripper in (-1.0, 1.0):
            action = env.hold()
            action[:, -1] = gripper
            for _ in range(14):  # the command needs ten from open to closed
                fingers = env.step(action).obs["robot0_gripper_qpos"]
            widths.append(fingers[:, 0] - fingers[:, 1])
        assert (widths[0] > 0.07).all()
        assert (widths[1] < 0.005).all()


@pytest.mark.parametrize(
    ("name", "num_envs", "steps"), [("lift", 10, 60), ("can", 3, 160), ("square-absolute", 3, 200)]
)
def test_the_flawless_operator_succeeds(name: str, num_envs: int, steps: int, tmp_path) -> None:
    settings = RecordSettings(
        task=Task(name=f"robosuite/{name}", episode_steps=steps),
        num_envs=num_envs,
        keep_failures=1.0,
        operator=FLAWLESS,
    )
    file = tmp_path / "demos.hdf5"
    seen = record(file, episodes=num_envs, seed=0, settings=settings, progress=lambda n: None)
    assert seen.succeeded["better"] >= 0.9 * num_envs
    assert {e.actions.shape[1] for e in RobomimicReader().read(file)} == {
        10 if name.endswith("absolute") else 7
    }


def test_what_is_missing_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no task 'lifts'"):
        make("lifts")
    assert "robosuite/*" in plugins.names("tasks")
    settings = RecordSettings(task=Task(name="robosuite/transport"), num_envs=1)
    with pytest.raises(ConfigError, match="no scripted operator"):
        record(tmp_path / "demos.hdf5", episodes=1, seed=0, settings=settings)
