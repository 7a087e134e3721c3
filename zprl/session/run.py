"""Begin a session, or go on with one; where the robot is a double, bring it along."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.config import Real, Rl
from zprl.errors import ConfigError
from zprl.recordings.store import SessionHeader, SessionStore
from zprl.robot.base import Robot
from zprl.robot.task import RealTask
from zprl.session import bus, setup
from zprl.session.process import Settings
from zprl.session.processes import operator_devices
from zprl.session.processes.console import access
from zprl.session.supervisor import Supervisor

NAMES = ("recorder", "driver", "actor", "learner", "console")


def create(
    folder: Path,
    *,
    config: Real,
    agent: Rl,
    seed: int,
    base: Path,
    steering: Path | None,
    learner: Path | None,
    episodes: Path,
    work: Path,
) -> SessionStore:
    """Begin a session: gather all it needs into its folder; no robot moves.  See :func:`zprl.session.setup.gather`.

    What lies in ``work`` is thrown away: weights and checkpoints of another session are none of
    this one's.
    """
    if not folder.exists():
        shutil.rmtree(work, ignore_errors=True)
    task = RealTask.load(config.task)
    robot = task.make_robot()
    from zprl.models.bundle import load_policy

    policy = load_policy(base)
    chunk_steps = policy.spec.policy.chunk_steps
    header = SessionHeader(
        id=f"{task.name}-{config.interface}-{seed}",
        task=task.name,
        seed=seed,
        rate_hz=task.rate_hz,
        chunk_steps=chunk_steps,
        config=config,
        world=world(robot),
    )
    gathered = durable.private_folder(work) / "start"
    setup.gather(
        gathered,
        base=base,
        steering=steering,
        learner=learner,
        episodes=episodes,
        config=config,
        agent=agent,
        seed=seed,
    )
    try:
        store = SessionStore.create(
            folder,
            header,
            task_yaml=task.path.read_text(),
            limits_yaml=task.limits_path.read_text(),
            start=gathered,
        )
        store.close()
        return store
    finally:
        shutil.rmtree(gathered, ignore_errors=True)


def world(robot: Robot) -> dict[str, Any]:
    """What stands at the other end of the wire."""
    if not robot.simulated:
        return {"kind": "hardware"}
    from zprl.robot_sim.sim_gap import SimGap

    return {"kind": "double", "gap": SimGap().model_dump(mode="json")}


def run(
    folder: Path,
    work: Path,
    *,
    say: Callable[[str], None] = print,
    stopping: Callable[[], bool] = lambda: False,
    console_port: int = 0,
) -> None:
    """Run a session to its end, from wherever it is.

    Args:
        folder: Made by :func:`create`.
        work: For logs, weights and checkpoints.
        say: Receives sentences.
        stopping: True once it is to stop; it can be resumed.
        console_port: Of the operator's page; 0: any free one.
    """
    header = SessionStore.open(folder).header
    task = RealTask.load(folder / "task.yaml")
    durable.private_folder(work)
    durable.sweep(work)
    sockets = bus.make_folder()
    try:
        with (
            access.granted(work),
            with_simulated_robot(
                task, speed=header.config.speed, seed=header.seed, gap=header.world.get("gap")
            ) as twin,
        ):
            settings = Settings(
                session=folder.absolute(),
                sockets=sockets,
                work=work.absolute(),
                config=header.config,
                seed=header.seed,
                console_port=console_port,
                rings=sockets.name,
                twin=twin,
            )
            names = (
                *NAMES,
                *(["hand"] if operator_devices.wanted() else []),
                *(["scripted"] if twin else []),
            )
            Supervisor(settings, names, say=say, stopping=stopping).run()
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


@contextlib.contextmanager
def with_simulated_robot(
    task: RealTask, *, speed: float = 0.0, seed: int = 0, gap: Any = None
) -> Iterator[Path | None]:
    """Bring a double along where the task's robot is one; yields the folder of its sockets, or ``None`` for hardware."""
    if not task.make_robot().simulated:
        yield None
        return
    from zprl.robot_sim import SimGap, SimProcess
    from zprl.robot_sim.xarm_server import SimulatedXArm

    drivers = {arm.driver for arm in task.arms.values()}
    if unknown := drivers - {"franka", "xarm"}:
        raise ConfigError(
            f"'{task.name}' runs on a double that is not started by itself: {', '.join(unknown)}",
            remedy="use its robot",
        )
    pace = 1.0 if "xarm" in drivers else speed  # the xArm's double knows no other
    with contextlib.ExitStack() as doubles:
        folders: dict[str, Path] = {}
        for arm in task.arms.values():
            host = str(arm.config["host"])
            if arm.driver == "franka":
                twin: SimProcess | SimulatedXArm = SimProcess(
                    host, speed=pace, seed=seed, gap=SimGap.model_validate(gap or {})
                )
            else:
                twin = SimulatedXArm(host)
            folders.setdefault(arm.driver, doubles.enter_context(twin).folder)
        yield folders.get("franka") or folders["xarm"]
