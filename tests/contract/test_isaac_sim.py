"""Isaac Sim as far as it goes without it: what Isaac Lab would start, who keeps Kit, and what is said where it is missing."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from typing import Any

import pytest
import torch

from zprl import plugins
from zprl.config import Task
from zprl.envs import make
from zprl.envs.isaac import isaaclab_task, isaaclab_terms, launch
from zprl.envs.isaac.cabinet import Cabinet
from zprl.envs.isaac.cameras import Cameras
from zprl.envs.isaac.config import build_config
from zprl.envs.isaac.lift_cube import LiftCube
from zprl.envs.isaac.manager_terms import ManagerTerms
from zprl.envs.isaac.randomisation import Randomiser
from zprl.envs.isaac.reach import Reach
from zprl.envs.isaac.stack import Stack
from zprl.errors import EnvironmentProblem

pytestmark = pytest.mark.isaac
pytest.importorskip("isaaclab_ov")

SCENARIOS = {
    "isaac/lift-cube": LiftCube,
    "isaac/reach": Reach,
    "isaac/stack": Stack,
    "isaac/cabinet": Cabinet,
}
PHYSX, RTX = "Isaac Sim PhysX", "a Kit-based renderer"


def configured(name: str, **about: Any) -> Any:
    task = Task(name=name, **about)
    launch.prepare()
    if name.startswith(isaaclab_task.PREFIX):
        task_id = name.removeprefix(isaaclab_task.PREFIX)
        return isaaclab_task.configure(
            task,
            task_id,
            isaaclab_terms.IsaacLabTerms.load(task_id, None),
            num_envs=2,
            device="cpu",
        )
    scenario = SCENARIOS[name]()
    terms = ManagerTerms(
        scenario,
        Randomiser(task.randomise, task.physics, scenario.things, torch.zeros(1, dtype=torch.bool)),
        Cameras(task),
    )
    return build_config(task, num_envs=2, device="cpu", terms=terms)


def starts(config: Any) -> tuple[str, ...]:
    """What in a configuration makes Isaac Lab start Kit, in its own words."""
    from isaaclab.app.sim_launcher import validate_launch

    return validate_launch(config, {"visualizer": None})[1]


def test_every_registered_task_is_tested() -> None:
    assert {name for name in plugins.names("tasks") if name.startswith("isaac/")} == {*SCENARIOS}


@pytest.mark.parametrize("name", [*SCENARIOS, "isaaclab/Isaac-Reach-Franka"])
def test_the_engine_alone_decides_whether_kit_starts(name: str) -> None:
    about = {} if name.startswith(isaaclab_task.PREFIX) else {"cameras": ("front", "wrist")}
    for engine in ("ovphysx", "newton"):
        assert starts(configured(name, physics=engine, **about)) == ()
    config = configured(name, physics="isaacsim", **about)
    reasons = starts(config)
    assert [
        reason.startswith(expected) for reason, expected in zip(reasons, (PHYSX, RTX), strict=False)
    ] == [True] * (1 + bool(about))
    if about:
        assert {
            config.scene.front.renderer_cfg.renderer_type,
            config.scene.wrist.renderer_cfg.renderer_type,
        } == {"isaac_rtx"}
        assert config.scene.front.renderer_cfg.global_settings.antialiasing_mode == "Off"
        assert config.num_rerenders_on_reset == 1


def test_a_missing_isaac_sim_is_said_in_one_sentence_and_other_engines_still_start() -> None:
    if importlib.util.find_spec("isaacsim"):
        pytest.skip("Isaac Sim is installed here")
    with pytest.raises(EnvironmentProblem, match="Isaac Sim is not installed here") as caught:
        make(Task(name="isaac/reach", physics="isaacsim", cameras=("front",)), num_envs=1)
    assert caught.value.exit_code == 4
    assert "docs/isaac-sim.md" in caught.value.remedy
    with make(Task(name="isaac/reach"), num_envs=1) as env:
        env.reset(0)


class _Env:
    closed = 0

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    def close(self) -> None:
        _Env.closed += 1


@pytest.mark.parametrize("kit", [True, False])
def test_kit_stays_when_a_world_is_closed_and_leaves_the_signals_alone(
    kit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded protocol: what Isaac Lab's launcher does to this process, done by the test."""
    import isaaclab.app
    import isaaclab.envs

    happened: list[str] = []

    @contextlib.contextmanager
    def launch_simulation(config: Any, arguments: dict[str, Any]) -> Any:
        happened.append(f"start {arguments['device']}")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as KitLauncher does
        yield
        happened.append("end")  # where Kit ends the process

    def mine(*_: Any) -> None: ...

    monkeypatch.setattr(isaaclab.app, "launch_simulation", launch_simulation)
    monkeypatch.setattr(isaaclab.envs, "ManagerBasedRLEnv", _Env)
    monkeypatch.setattr(launch, "needs_kit", lambda config: kit)
    monkeypatch.setattr(launch.Simulator, "_kit", [])
    monkeypatch.setattr(_Env, "closed", 0)
    before = signal.signal(signal.SIGINT, mine)
    try:
        for number in (1, 2):
            launched = launch.Simulator()
            launched.start(lambda: "a configuration", "cuda")
            if kit:
                assert signal.getsignal(signal.SIGINT) is mine
            launched.close()
            launched.close()
            assert _Env.closed == number
    finally:
        signal.signal(signal.SIGINT, before)
    assert happened == (["start cuda"] * 2 if kit else ["start cuda", "end"] * 2)
