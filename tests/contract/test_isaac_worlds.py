"""Every registered task of Isaac's beside the default one: the contract, the starts, and an operator without failings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.on_device import HandedOver
from zprl import plugins, seeding
from zprl.config import Randomise, Task
from zprl.envs import make
from zprl.envs.check import check_env
from zprl.envs.isaac import cabinet, isaaclab_task, isaaclab_terms, physics, reach, stack, world
from zprl.envs.isaac.usd import panda
from zprl.envs.rotation import DOWN_6D
from zprl.errors import ConfigError, EnvironmentProblem

pytestmark = pytest.mark.isaac
pytest.importorskip("isaaclab_ov")

STEPS = {"isaac/reach": 90, "isaac/stack": 300, "isaac/cabinet": 170}
"""Steps that the slowest of 8 episodes needs without failings, and some more."""
THINGS = {
    "isaac/reach": ["goal"],
    "isaac/stack": ["cube", "lower"],
    "isaac/cabinet": ["cabinet_frame", "cabinet_drawer"],
}
FLAWLESS = {
    name: {"share": 1.0, "bias": 0.0, "jitter": 0.0, "speed": 0.02}
    for name in ("better", "okay", "worse")
}
REACH = "isaaclab/Isaac-Reach-Franka"


def test_every_registered_task_is_tested() -> None:
    assert {name for name in plugins.names("tasks") if name.startswith("isaac/")} == {
        *STEPS,
        "isaac/lift-cube",
    }


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_it_keeps_the_contract(name: str, device: str) -> None:
    check_env(lambda: make(Task(name=name, episode_steps=12), num_envs=2, device=device))


def _reach_starts(obs: dict[str, torch.Tensor]) -> None:
    goal, tool = obs["goal"], obs["robot0_eef_pos"]
    low, high = torch.tensor(reach.GOALS)
    assert ((goal[:, :3] >= low) & (goal[:, :3] <= high)).all()
    assert ((goal[:, :3] - tool).norm(dim=1) > 0.1).all()
    assert torch.allclose(goal[:, 3:7].norm(dim=1), torch.ones(8))
    assert (
        goal[:, 3] >= math.cos(reach.MAX_YAW / 2) - 1e-6
    ).all()  # x of the quaternion of a yaw after half a turn about x
    assert torch.allclose(goal[:, 7:], goal[:, :3] - tool, atol=1e-6)


def _stack_starts(obs: dict[str, torch.Tensor]) -> None:
    upper, lower = obs["object"][:, :3], obs["object"][:, 10:13]
    for cube in (upper, lower):
        assert ((cube[:, 0] - 0.5).abs() <= stack.SPREAD_X + 1e-6).all()
        assert (
            (cube[:, 1].abs() >= stack.NEAR_Y - 1e-6) & (cube[:, 1].abs() <= stack.FAR_Y + 1e-6)
        ).all()
    assert (upper[:, 1] * lower[:, 1] < 0).all()
    assert (
        len({sign > 0 for sign in upper[:, 1].tolist()}) == 2
    )  # 8 tosses of a coin, with this seed not all alike
    assert torch.allclose(obs["object"][:, 13:], lower - upper, atol=1e-6)


def _cabinet_starts(obs: dict[str, torch.Tensor]) -> None:
    handle = obs["object"][:, :3]
    off = (handle[:, :2] - torch.tensor(cabinet.PLACE[:2]) - torch.tensor([-0.055, 0.0])).abs()
    assert (off <= torch.tensor(cabinet.SPREAD) + 1e-5).all()
    assert len(handle[:, 1].unique()) == 8
    assert (obs["object"][:, 6].abs() < 1e-4).all()


STARTS = {
    "isaac/reach": _reach_starts,
    "isaac/stack": _stack_starts,
    "isaac/cabinet": _cabinet_starts,
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_an_operator_without_failings_succeeds(name: str, device: str) -> None:
    with make(Task(name=name, episode_steps=STEPS[name]), num_envs=8, device=device) as made:
        assert isinstance(made, world.IsaacWorld)
        env = HandedOver(made)
        obs = env.reset(5)
        STARTS[name](obs)
        assert {*env.scene()} == {*panda.CAPSULES, *panda.BOXES, *THINGS[name]}
        operator = env.operator(0, FLAWLESS)
        won, over = torch.zeros(2, 8, dtype=torch.bool)
        for _ in range(STEPS[name]):
            result = env.step(operator.act(obs))
            obs = result.obs
            ended = (result.terminated | result.truncated) & ~over
            if name == "isaac/stack":
                apart = -result.final_obs["object"][result.success, 13:]
                assert (apart[:, :2].abs() < stack.SUCCESS_OFFSET).all()
                assert ((apart[:, 2] - 0.048).abs() < stack.SUCCESS_HEIGHT_ERROR).all()
                assert (
                    result.final_obs["robot0_gripper_qpos"][result.success] > stack.FINGER_OPEN
                ).all()
            elif name == "isaac/cabinet":
                assert (
                    result.final_obs["object"][result.success, 6] > cabinet.SUCCESS_OPENING
                ).all()
                assert (
                    result.obs["object"][result.success, 6].abs() < 1e-3
                ).all()  # the next episode's drawer is shut
            else:
                assert (
                    result.final_obs["goal"][result.success, 7:].norm(dim=1)
                    < reach.SUCCESS_DISTANCE
                ).all()
            won |= ended & result.success
            over |= ended
            if over.all():
                break
    assert won.all()


@pytest.mark.gpu
def test_randomisation_changes_what_it_says(device: str) -> None:
    """Every number is computed by hand from the draws of (seed, environment, episode)."""
    randomise = Randomise(
        mass=0.3, friction=0.4, gains=0.2, latency_steps=4, observation_noise=0.002, cube_size=0.1
    )
    with make(
        Task(name="isaac/stack", episode_steps=10, randomise=randomise), num_envs=5, device=device
    ) as made:
        assert isinstance(made, world.IsaacWorld)
        env, isaac = HandedOver(made), made._env

        def check(episode: int) -> torch.Tensor:
            luck = torch.rand(5, 5, generator=seeding.torch_generator(7, "randomise", episode))
            sizes = {
                "object": torch.tensor([0.9, 0.95, 1.0, 1.05, 1.1]),
                "lower": torch.ones(5),
            }  # the five pairs evenly spaced among all
            for name, factor in sizes.items():
                thing = isaac.scene[name]
                mass = 0.1 * (1 + 0.3 * (2 * luck[:, :1] - 1))
                assert torch.allclose(thing.data.body_mass.torch.cpu(), mass)
                edge = 0.048 * factor
                assert torch.allclose(
                    thing.data.body_inertia.torch[:, 0, 0].cpu(),
                    mass[:, 0] * edge**2 / 6,
                    rtol=1e-4,
                )
                friction = physics.friction(isaac, thing, "ovphysx").cpu()
                assert torch.allclose(
                    friction[:, 0, :2], (0.5 * (1 + 0.4 * (2 * luck[:, 1:2] - 1))).expand(5, 2)
                )
            robot = isaac.scene["robot"].data
            assert torch.allclose(
                robot.joint_stiffness.torch[:, :7].cpu(),
                (400 * (1 + 0.2 * (2 * luck[:, 2:3] - 1))).expand(5, 7),
            )
            assert torch.allclose(
                robot.joint_damping.torch[:, :7].cpu(),
                (80 * (1 + 0.2 * (2 * luck[:, 3:4] - 1))).expand(5, 7),
            )
            assert (robot.joint_stiffness.torch[:, 7:] == 2000).all()
            return (luck[:, 4] * 5).long()

        seen = env.reset(7)
        late = check(0)
        assert torch.allclose(
            made._terms.scenario.edge.cpu(), 0.048 * torch.tensor([0.95, 0.975, 1.0, 1.025, 1.05])
        )
        assert len(late.unique()) > 1
        true = torch.cat(
            (
                made._terms.tool(isaac)[0],
                isaac.scene["object"].data.root_pos_w.torch - isaac.scene.env_origins,
            ),
            dim=1,
        )
        noise = torch.cat((seen["robot0_eef_pos"], seen["object"][:, :3]), dim=1) - true.cpu()
        assert 0.001 < float(noise.std()) < 0.003
        assert (seen["robot0_gripper_command"] == 1).all()
        down = env.hold() - torch.tensor([0.0, 0.0, 0.05] + [0.0] * 7)
        start, began = env.hold()[:, 2], torch.full((5,), -1)
        for step in range(10):
            result = env.step(down)
            moved = (start - made._terms.tool(isaac)[0][:, 2].cpu()) > 1e-4
            began = torch.where((began < 0) & moved, step, began)
        assert (began - late == began[0] - late[0]).all(), (
            "each arm starts as many steps later as its actions are late"
        )
        assert result.truncated.all()
        assert (check(1) != late).any()
        assert torch.equal(env.reset(7)["object"], seen["object"])
    with pytest.raises(ConfigError, match="no cube"):
        make(
            Task(name="isaac/reach", randomise=Randomise(cube_size=0.1)), num_envs=1, device=device
        )
    with pytest.raises(ConfigError, match="no domain randomisation"):
        make(Task(name=REACH, randomise=Randomise(mass=0.1)), num_envs=1, device=device)


@pytest.mark.gpu
def test_a_task_of_isaac_labs_own_keeps_the_contract(device: str) -> None:
    check_env(lambda: make(Task(name=REACH, episode_steps=12), num_envs=2, device=device))


def test_what_cannot_be_made_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(name: str, kind: type, match: str, **values: object) -> None:
        with pytest.raises(kind, match=match) as caught:
            make(Task(name=name, **values), num_envs=1)
        assert caught.value.remedy
        assert "\n" not in caught.value.message

    terms = tmp_path / "terms.yaml"
    text = (isaaclab_terms.BUILT_IN / "Isaac-Reach-Franka.yaml").read_text()
    terms.write_text(text)
    problem(
        "isaaclab/Isaac-Reach-Frank",
        EnvironmentProblem,
        "did you mean 'Isaac-Reach-Franka'",
        file=str(terms),
    )
    problem(
        "isaaclab/Isaac-Cartpole",
        EnvironmentProblem,
        "asset is missing",
        file=str(_cartpole(tmp_path)),
    )
    problem("isaaclab/Isaac-Reach-Franka-OSC", ConfigError, "nothing says what the terms")
    for old, new, match in (
        ("pose_command", "pose", "no observation term 'pose'"),
        ("action_dim: 7", "action_dim: 8", "takes 7 numbers"),
        ("control_hz: 30", "control_hz: 50", "acts 30 times"),
        ("success: success", "success: done", "no termination 'done'"),
    ):
        terms.write_text(text.replace(old, new))
        problem(REACH, ConfigError, match, file=str(terms))
    monkeypatch.setattr(
        isaaclab_task,
        "configure",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no engine here\ntrace")),
    )
    problem(REACH, EnvironmentProblem, "does not start: no engine here")


def _cartpole(folder: Path) -> Path:
    path = folder / "cartpole.yaml"
    path.write_text(
        "observations: {state: [joint_pos_rel]}\naction_dim: 1\ncontrol_hz: 60\nsuccess: time_out\n"
    )
    return path


@pytest.mark.gpu
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_newton_moves_the_free_arm_as_physx_does(device: str) -> None:
    """The turn with which every episode begins, hand down and 5 cm aside: it is far, so that limits of force tell."""
    paths = []
    for engine in ("ovphysx", "newton"):
        with make(
            Task(name="isaac/stack", episode_steps=60, physics=engine), num_envs=1, device=device
        ) as made:
            env = HandedOver(made)
            env.reset(3)
            target = env.hold()
            target[:, :3] += torch.tensor([0.0, 0.05, 0.0])
            target[:, 3:9] = torch.tensor(DOWN_6D)
            paths.append(torch.cat([env.step(target).obs["robot0_eef_pos"] for _ in range(40)]))
    assert (paths[0][-1] - paths[0][0]).norm() > 0.04
    assert (paths[0] - paths[1]).norm(dim=1).max() < 0.004


@pytest.mark.gpu
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_newton_holds_what_it_grips(device: str) -> None:
    """The scripted pick on the other engine: 15 of 16 cubes.  It steps 16 environments as slowly as one, hence so many at once."""
    steps = 150
    with make(Task(episode_steps=steps, physics="newton"), num_envs=16, device=device) as made:
        assert isinstance(made, world.IsaacWorld)
        env = HandedOver(made)
        obs = env.reset(5)
        operator = env.operator(0, FLAWLESS)
        won = torch.zeros(16, dtype=torch.bool)
        for _ in range(steps):
            result = env.step(operator.act(obs))
            obs = result.obs
            won |= result.success
            if won.all():
                break
    assert int(won.sum()) >= 15


@pytest.mark.gpu
@pytest.mark.exhaustive  # minutes of compiling where no kernel is cached
@pytest.mark.timeout(900)
def test_newton_keeps_the_contract(device: str) -> None:
    check_env(
        lambda: make(
            Task(name="isaac/reach", episode_steps=10, physics="newton"), num_envs=2, device=device
        )
    )
