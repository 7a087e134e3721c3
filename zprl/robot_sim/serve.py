"""Process of a simulated Franka: ``python -m zprl.robot_sim.serve --folder DIR``."""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from zprl import durable
from zprl.parent_death import die_with_parent
from zprl.robot_sim.control import (
    ControlServer,
    GetState,
    Inject,
    Place,
    Reset,
    SimState,
    SimulatedTracker,
)
from zprl.robot_sim.franka_scene import FrankaScene, cube_start
from zprl.robot_sim.franka_server import FrankaServer
from zprl.robot_sim.pace import Pace
from zprl.robot_sim.sim_gap import SimGap

_CONTROL_PERIOD = 10
"""Steps between looks at the operator's channel."""
_IDLE_SPEED = 1.0
"""Largest speed without a client [robot seconds per second]."""
_FROZEN_S = 0.002
"""Time between two looks at the operator's channel while the robot hangs [s]."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _options(arguments)
    if options.parent:
        die_with_parent(options.parent, signal.SIGKILL)
    # A parent that talks to a Franka may hand down the real-time policy that libfranka gave to it.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    running = [True]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.clear())

    gap = SimGap.model_validate(durable.parse_json(options.gap, "--gap"))
    options.folder.mkdir(parents=True, exist_ok=True)
    world = FrankaScene(gap)
    server = FrankaServer(world, options.host, patience=options.patience, seed=options.seed)
    control = ControlServer(options.folder)
    try:
        _serve(world, server, control, SimulatedTracker(gap, options.seed), options.speed, running)
    finally:
        control.close()
        server.close()
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m zprl.robot_sim.serve", description=__doc__)
    parser.add_argument(
        "--host",
        default="127.0.0.7",
        help="loopback address; libfranka dials ports 1337 and 1338 of it",
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the operator's sockets")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="robot seconds per second; 0: as fast as it goes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", default="{}", help="JSON of zprl.robot_sim.sim_gap.SimGap")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.02,
        help="longest wait for a client's answer [s]; 0: no lockstep",
    )
    parser.add_argument("--parent", type=int, default=0, help="die with this process")

    options = parser.parse_args(arguments)
    if not options.host.startswith("127."):
        parser.error("a simulated robot listens on loopback addresses only")
    return options


def _serve(
    world: FrankaScene,
    server: FrankaServer,
    control: ControlServer,
    tracker: SimulatedTracker,
    speed: float,
    running: list[bool],
) -> None:
    pace = Pace(speed)
    idle = Pace(min(speed, _IDLE_SPEED) or _IDLE_SPEED)
    while running:
        if world.steps % _CONTROL_PERIOD == 0:
            _operate(world, server, control)
            for message in tracker.update(world.time, world.cube):
                control.publish(message)
            while server.faults.frozen and running:
                _operate(world, server, control)
                time.sleep(_FROZEN_S)

        server.tick()
        # Without a client nobody gains from a fast clock, and the processor is shared.
        (pace if server.connected else idle).wait()


def _operate(world: FrankaScene, server: FrankaServer, control: ControlServer) -> None:
    while (request := control.request()) is not None:
        match request:
            case Reset():
                world.place_cube(cube_start(request.seed, request.number, world.gap))
            case Place():
                world.place_cube(np.array(request.position))
            case Inject():
                server.inject(request.fault)

        bodies = isinstance(request, GetState) and request.bodies
        control.answer(_state(world, server, bodies=bodies))


def _state(world: FrankaScene, server: FrankaServer, *, bodies: bool) -> SimState:
    return SimState(
        time=world.time,
        steps=world.steps,
        cube=tuple(world.cube.tolist()),
        tool=(*world.tool.tolist(), *world.tool_quaternion.tolist()),
        opening=world.opening,
        lifted=world.lifted,
        mode=server.mode.name.lower(),
        connected=server.connected,
        moving=server.moving,
        wrench=tuple(world.wrench.tolist()),
        q=tuple(world.q.tolist()),
        counters={**asdict(server.counters), "gripper_commands": server.gripper.commands},
        bodies={name: tuple(pose) for name, pose in world.bodies().items()} if bodies else None,
    )


if __name__ == "__main__":
    raise SystemExit(main())
