"""Begin a session, or go on with one; a simulated robot is started with it."""

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


def create(  # noqa: PLR0913 - all by keyword but the folder
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
    """Begin a session: gather all it needs into its folder; no robot moves.

    What lies in ``work`` is removed: weights and checkpoints of another session are none of this
    one's.  Arguments as in :func:`zprl.session.setup.gather`.
    """
    if not folder.exists():
        shutil.rmtree(work, ignore_errors=True)
    task = RealTask.load(config.task)
    header = _header(task, config, base, seed)

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


def _header(task: RealTask, config: Real, base: Path, seed: int) -> SessionHeader:
    from zprl.models.bundle import load_policy

    return SessionHeader(
        id=f"{task.name}-{config.space}-{seed}",
        task=task.name,
        seed=seed,
        rate_hz=task.rate_hz,
        chunk_steps=load_policy(base).spec.policy.chunk_steps,
        config=config,
        world=world(task.make_robot()),
    )


def world(robot: Robot) -> dict[str, Any]:
    """Return the kind of robot as a session's header has it, with the gap of a simulated one."""
    if not robot.simulated:
        return {"kind": "hardware"}
    from zprl.robot_sim.sim_gap import SimGap

    return {"kind": "simulated", "gap": SimGap().model_dump(mode="json")}


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
        console_port: Port of the operator's page; 0: any free one.

    Raises:
        Interrupted: asked to stop; running again continues.
        EnvironmentProblem: a process does not stay alive.
    """
    header = SessionStore.open(folder).header
    config = header.config
    task = RealTask.load(folder / "task.yaml")
    durable.private_folder(work)
    durable.sweep(work)

    sockets = bus.make_folder()
    simulated_robot = with_simulated_robot(
        task, speed=config.speed, seed=header.seed, gap=header.world.get("gap")
    )
    try:
        with access.granted(work), simulated_robot as simulated:
            settings = Settings(
                session=folder.absolute(),
                sockets=sockets,
                work=work.absolute(),
                config=config,
                seed=header.seed,
                console_port=console_port,
                rings=sockets.name,
                robot_sim=simulated,
            )
            Supervisor(settings, _names(simulated), say=say, stopping=stopping).run()
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _names(simulated: Path | None) -> tuple[str, ...]:
    """Return the processes of a session."""
    devices = ["operator_devices"] if operator_devices.wanted() else []
    scripted = ["scripted"] if simulated is not None else []
    return (*NAMES, *devices, *scripted)


@contextlib.contextmanager
def with_simulated_robot(
    task: RealTask, *, speed: float = 0.0, seed: int = 0, gap: Any = None
) -> Iterator[Path | None]:
    """Start the simulated robot of a task, where the task has one.

    Args:
        task: The task.
        speed: Simulated seconds in a second; 0: as fast as it goes.
        seed: Seed of the robot and the scene.
        gap: How the simulated robot differs from the model that policies are trained on.

    Yields:
        The folder of its sockets, or ``None`` for hardware.

    Raises:
        ConfigError: the task's simulated robot does not start by itself.
    """
    if not task.make_robot().simulated:
        yield None
        return
    from zprl.robot_sim import SimGap, SimProcess
    from zprl.robot_sim.xarm_server import SimulatedXArm

    drivers = {arm.driver for arm in task.arms.values()}
    if unknown := drivers - {"franka", "xarm"}:
        names = ", ".join(unknown)
        raise ConfigError(
            f"'{task.name}' has a simulated robot that is not started by itself: {names}",
            remedy="use its robot",
        )

    pace = 1.0 if "xarm" in drivers else speed  # the simulated xArm knows no other
    with contextlib.ExitStack() as running:
        folders: dict[str, Path] = {}
        for arm in task.arms.values():
            host = str(arm.config["host"])
            robot: SimProcess | SimulatedXArm
            if arm.driver == "franka":
                options = SimGap.model_validate(gap or {})
                robot = SimProcess(host, speed=pace, seed=seed, gap=options)
            else:
                robot = SimulatedXArm(host)
            running.enter_context(robot)
            folders.setdefault(arm.driver, robot.folder)
        yield folders.get("franka") or folders["xarm"]
