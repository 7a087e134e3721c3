"""Motions of a Franka: Cartesian impedance control, its targets and the ramp to rest."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from zprl.robot.base import RobotError
from zprl.robot.driver_parts import first_line
from zprl.robot.franka_config import FrankaConfig

POLL_S = 0.001
"""Time between two looks whether a motion has begun [s]: the robot's own period."""


def start_impedance_control(client: Any, state: Any, config: FrankaConfig) -> Any:
    """Hold the present pose by an impedance controller, and return its tracker.

    Args:
        client: The ``franky.Robot``; nothing else may read its state meanwhile.
        state: Its newest state; the elbow is pulled towards the joints measured there.
        config: Stiffness, damping, clips and rates.

    Raises:
        RobotError: the robot does not give control within ``recover_timeout``.
    """
    import franky

    posture = franky.PostureTask(state.q.ravel(), config.posture_stiffness)
    try:
        tracker = franky.CartesianImpedanceTracker(
            client,
            translational_stiffness=config.translational_stiffness,
            rotational_stiffness=config.rotational_stiffness,
            damping=np.repeat((config.translational_damping, config.rotational_damping), 3),
            translational_error_clip=np.full(3, config.translational_clip),
            rotational_error_clip=np.full(3, config.rotational_clip),
            posture_task=posture,
            max_delta_tau=config.max_torque_rate,
        )
        _await_motion(client, config.recover_timeout)
    except Exception as error:
        raise RobotError(
            f"the Franka does not give control: {first_line(error)}", remedy="see health()"
        ) from error
    return tracker


def _await_motion(client: Any, seconds: float) -> None:
    """Wait until the robot itself reports a motion.

    "In control" begins before the request is sent: a stop would overtake it.
    """
    import franky

    end = time.monotonic() + seconds
    while not (client.is_in_control and client.state.robot_mode == franky.RobotMode.Move):
        client.poll_motion()  # raises what went wrong
        if time.monotonic() > end:
            raise TimeoutError("the motion does not start")
        time.sleep(POLL_S)


def target_pose(position: np.ndarray, quaternion: np.ndarray) -> Any:
    """Return a ``franky.Affine`` of a position (3,) [m] and a unit quaternion xyzw (4,)."""
    import franky

    return franky.Affine(position, quaternion)


def ramp_down(client: Any) -> None:
    """Ramp the torques down to damping and give up control; returns at once, never raises."""
    import franky

    with contextlib.suppress(Exception):
        client.move(franky.TorqueStopMotion(), asynchronous=True)


def stop_at_once(client: Any) -> None:
    """Stop by libfranka's own function; blocks until it answers, never raises."""
    with contextlib.suppress(Exception):
        client.stop()
