"""Begin a session, or go on with one; where the robot is a double, bring it along."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.config import Real
from zprl.robot.base import Robot
from zprl.session import begin, bus
from zprl.session.child import Settings
from zprl.session.store import SessionHeader, SessionStore
from zprl.session.supervisor import Supervisor
from zprl.session.task import RealTask


def create(folder: Path, *, config: Real, seed: int, base: Path, steering: Path, learner: Path, episodes: Path, work: Path) -> SessionStore:
    """Begin a session: gather all it needs into its folder; no robot moves."""
    task = RealTask.load(config.task)
    robot = task.make_robot()
    from zprl.models.bundle import load_policy

    policy = load_policy(base)
    chunk_steps = policy.spec.policy.chunk_steps
    header = SessionHeader(
        id=f"{task.name}-{config.interface}-{seed}", task=task.name, seed=seed, rate_hz=task.rate_hz, chunk_steps=chunk_steps, config=config,
        world=world(robot),
    )  # fmt: skip
    gathered = work / "start"
    begin.gather(gathered, base=base, steering=steering, learner=learner, episodes=episodes, config=config, seed=seed)
    try:
        store = SessionStore.create(
            folder, header, task_yaml=task.path.read_text(), limits_yaml=task.limits_path.read_text(), start=gathered
        )
        store.close()
        return store
    finally:
        shutil.rmtree(gathered, ignore_errors=True)


def world(robot: Robot) -> dict[str, Any]:
    """What stands at the other end of the wire."""
    if not robot.simulated:
        return {"kind": "hardware"}
    from zprl.robot.twin.gap import Gap

    return {"kind": "double", "gap": Gap().model_dump(mode="json")}


def run(
    folder: Path, work: Path, *, say: Callable[[str], None] = print, stopping: Callable[[], bool] = lambda: False, console_port: int = 0
) -> None:
    """Run a session to its end, from wherever it is.

    Args:
        folder: Made by :func:`create`.
        work: For logs, weights and checkpoints.
        say: Receives sentences.
        stopping: True once it is to stop; it can be resumed.
        console_port: Of the operator's page; 0: any free one.
    """
    store = SessionStore.open(folder)
    header = store.header
    robot = RealTask.load(folder / "task.yaml").make_robot()
    work.mkdir(parents=True, exist_ok=True)
    durable.sweep(work)
    sockets = bus.make_folder()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        names = ("recorder", "driver", "actor", "learner")
        twin = None
        if robot.simulated:
            from zprl.robot.twin import Gap, TwinProcess

            twin = Path(stack.enter_context(_folder()))
            gap = Gap.model_validate(header.world["gap"])
            stack.enter_context(TwinProcess(robot.config.host, speed=header.config.speed, seed=header.seed, gap=gap, folder=twin))
            names = (*names, "scripted")
        settings = Settings(
            session=folder.absolute(), sockets=sockets, work=work.absolute(), config=header.config, seed=header.seed, console_port=console_port,
            twin=twin,
        )  # fmt: skip
        Supervisor(settings, names, say=say, stopping=stopping).run()


@contextlib.contextmanager
def _folder():  # noqa: ANN202
    path = tempfile.mkdtemp(prefix="twin-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
