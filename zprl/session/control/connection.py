"""The connection to the robot: made when the supervisor permits it, and not before."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from zprl.errors import EnvironmentProblem, Interrupted
from zprl.recordings.conditions import Conditions
from zprl.robot.base import Robot, RobotError
from zprl.robot.sensors.base import LatestReader, StaleSensor
from zprl.session import clock
from zprl.session.bus import Bus
from zprl.session.messages import Beat, Plan, Topic
from zprl.session.process import Stopping, turns
from zprl.terminal import say_error

PLAN_AGE_S = 1.0
"""Age at which the supervisor's newest plan counts no more: the arm comes to rest."""
POLL_S = 0.02
CONNECT_S, RETRY_S = 15.0, 1.0
"""Longest time to try to connect, and the pause between two attempts [s]."""
FIRST_READING_S, READING_RETRY_S = 10.0, 0.01
"""Longest wait for a sensor's first reading, and the pause between two looks [s]."""


def await_permission(bus: Bus, in_force: Conditions, stopping: Stopping) -> Plan:
    """Return the first plan under which an arm may be in control.

    That is one which does not wait for a person.  Connecting takes control, and control alone can
    make an arm jump, for example under a wrong load.

    Raises:
        Interrupted: asked to stop.
        EnvironmentProblem: the supervisor runs under other conditions.
    """

    def beat() -> None:
        bus.publish(Beat(stopped=True, digests=in_force.digests))

    for _ in turns(stopping, beat):
        for message in bus.poll(POLL_S):
            if message.topic != Topic.PLAN:
                continue
            plan = message.contents
            if not isinstance(plan, Plan) or is_old(plan.at):
                continue
            check_digests(plan.digests, in_force.digests)
            if not plan.held:
                return plan
    raise Interrupted(
        "asked to stop before it was in control", remedy="run the same command again to continue"
    )


def is_old(at: float) -> bool:
    """Return whether a plan of this time on the session's clock [s] counts no more."""
    return clock.now() - at > PLAN_AGE_S


def check_digests(supervisor: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuse to follow a supervisor that has another task or other limits in force.

    Raises:
        EnvironmentProblem: it has.
    """
    if supervisor != own:
        raise EnvironmentProblem(
            "task or limits are not those of the supervisor",
            remedy="the driver starts again with its own",
        )


def connect(robot: Robot, stopping: Stopping) -> None:
    """Connect, patiently: a person may have to release the robot first.

    Raises:
        RobotError: the robot has refused for :data:`CONNECT_S`.
    """
    end = time.monotonic() + CONNECT_S
    while True:
        try:
            robot.connect()
        except RobotError as error:
            say_error(error)
            if stopping or time.monotonic() > end:
                raise
            time.sleep(RETRY_S)
        else:
            normal_scheduling()
            return


def normal_scheduling() -> None:
    """Leave the real-time class that vendor clients put the calling thread into.

    Children and later threads would inherit it.
    """
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def await_readings(sensors: Mapping[str, LatestReader]) -> None:
    """Wait for a first reading of every sensor.

    Raises:
        StaleSensor: one has given none for :data:`FIRST_READING_S`.
    """
    end = time.monotonic() + FIRST_READING_S
    for reader in sensors.values():
        while True:
            try:
                reader.latest(FIRST_READING_S)
                break
            except StaleSensor:
                if time.monotonic() > end:
                    raise
                time.sleep(READING_RETRY_S)
