"""Driver of a Franka arm and hand through franky-control 2 (libfranka 0.21, robot system 5.9 on).

The arm is held by a Cartesian impedance controller that runs at 1 kHz inside franky's C++ thread;
:meth:`Franka.send_action` only moves its reference, which takes microseconds.  Everything that may
wait for the network has a thread of its own: the hand (two), and a watcher that reads the state
when nobody is in control (in control the state is a copy in memory).

A client that has lost the robot is dead for good: :meth:`Franka.connect` builds a new one.  Its
``recover_from_errors()`` may answer False although it succeeded: what the state says afterwards
counts.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zprl.robot.base import (
    GRIPPER,
    POSE,
    WRENCH,
    Health,
    Mode,
    Ranges,
    RobotError,
    StopLevel,
    Values,
)
from zprl.robot.driver_parts import (
    ACTION,
    GRIPPER_INDEX,
    QUATERNION_PART,
    check_commandable,
    first_line,
    not_connected,
    not_in_control,
    read_action,
    read_config,
)
from zprl.robot.franka_config import FrankaConfig
from zprl.robot.franka_connection import StateWatcher, error_flags, is_idle, open_client, release
from zprl.robot.franka_gripper import FrankaGripper
from zprl.robot.franka_motion import (
    ramp_down,
    start_impedance_control,
    stop_at_once,
    target_pose,
)

MAX_OPENING = 0.08
"""Widest opening of the hand [m]."""

JOINTS = 7
OBSERVATION = (
    *POSE,
    *WRENCH,
    GRIPPER,
    *(f"joint_{i}.{quantity}" for quantity in ("pos", "vel") for i in range(1, JOINTS + 1)),
)
"""Features of an observation, in the order in which the driver fills them."""

FIRST_STATE_S = 0.05
"""Longest wait of :meth:`Franka.health` for the first state after control was lost [s]; it is due
after 1 ms."""

FRESH_STATE_S = 0.1
"""Longest wait for one state while waiting for a condition [s]."""

LOAD_TOLERANCE = 1e-3
"""Difference below which the reported load is the configured one [kg]."""

MODES = {
    "Idle": Mode.IDLE,
    "Move": Mode.MOVING,
    "Reflex": Mode.REFLEX,
    "UserStopped": Mode.USER_STOPPED,
}
"""Modes by libfranka's names; every other one is an error."""


def make(config: Mapping[str, Any]) -> Franka:
    """Make the driver; entry point ``franka``.  Touches no hardware.

    Raises:
        ConfigError: a key or value that :class:`FrankaConfig` does not take.
    """
    return Franka(read_config(FrankaConfig, config, name="franka"))


class Franka:
    """Driver of one Franka arm with its hand; a :class:`zprl.robot.base.Robot`."""

    name = "franka"
    limits = Ranges(
        speed=1.7, acceleration=13.0, jerk=6500.0, gripper_width=MAX_OPENING, reach=0.855
    )
    """The FR3's, as franky reports them."""

    def __init__(self, config: FrankaConfig) -> None:
        self.config = config
        self.simulated = config.is_loopback

        self._client: Any = None
        self._tracker: Any = None
        self._gripper: FrankaGripper | None = None
        self._watcher: StateWatcher | None = None
        self._stopping: threading.Thread | None = None

        self._last: Any = None
        """The newest state."""
        self._lost = ""
        """Reason why the connection was lost; empty while it holds."""
        self._engaged = False
        """True from the start of control until its end was noticed."""

    @property
    def observation_features(self) -> dict[str, type]:
        """Pose, wrench, opening and joints."""
        return dict.fromkeys(OBSERVATION, float)

    @property
    def action_features(self) -> dict[str, type]:
        """Pose and opening, all of them floats."""
        return dict.fromkeys(ACTION, float)

    @property
    def is_connected(self) -> bool:
        """True while this driver is in control."""
        return self._tracker is not None and self._in_control()

    @property
    def is_calibrated(self) -> bool:
        """True always: absolute encoders."""
        return True

    def calibrate(self) -> None:
        """Do nothing: the encoders are absolute."""

    # -- connection --------------------------------------------------------------------------------

    def connect(self, calibrate: bool = True) -> None:  # noqa: FBT001, FBT002 - LeRobot's signature
        """Build a fresh connection, write the settings and hold the present pose.

        Raises:
            RobotError: nobody answers, real-time scheduling is missing, or the robot is in a mode
                that cannot be commanded; in the last case :meth:`health` and :meth:`recover` work.
        """
        if self.is_connected:
            return
        self.disconnect()

        self._open()
        try:
            self.configure()
            self._start_gripper()
        except BaseException:
            self.disconnect()
            raise

        check_commandable("Franka", self.health(), place="robot")
        self._take_control()

    def configure(self) -> None:
        """Write collision thresholds, dynamics and load; the load is read back.

        Raises:
            RobotError: the robot refuses, or reports another load.
        """
        config = self.config
        load = config.load
        client = self._client
        if client is None:
            raise not_connected("Franka")

        try:
            client.set_collision_behavior(config.collision_torque, config.collision_force)
            client.set_load(load.mass, list(load.centre), np.diag(load.inertia).flatten().tolist())
            client.relative_dynamics_factor = config.dynamics
        except Exception as error:  # franky's exceptions have no common base
            raise RobotError(
                f"the Franka refuses its settings: {first_line(error)}",
                remedy="unlock it and activate FCI in Desk",
            ) from error

        if not self._await(lambda state: abs(state.m_load - load.mass) < LOAD_TOLERANCE):
            reported = self._last.m_load
            raise RobotError(
                f"the Franka reports a load of {reported:.3f} kg instead of {load.mass:.3f} kg",
                remedy="another client is writing settings: end it",
            )

    def disconnect(self) -> None:
        """Come to rest and let go; at most some seconds."""
        atexit.unregister(self.disconnect)
        held, self._client = [self._client], None
        gripper, self._gripper = self._gripper, None
        watcher, self._watcher = self._watcher, None
        self._tracker = self._stopping = self._last = None
        self._lost = ""
        self._engaged = False

        if gripper is not None:
            gripper.close()
        if watcher is not None:
            watcher.close()
        if held[0] is not None:
            release(held)

    def recover(self) -> bool:
        """Clear errors and hold the present pose; also takes control again after a stop.

        Returns:
            False where a person must act: user stop, refused recovery, or a lost connection (then
                :meth:`connect`).
        """
        client = self._client
        if client is None or self._lost:
            return False
        if self.is_connected:
            return True

        if not self._finish_motion(client):
            return False
        if self.health().mode is Mode.USER_STOPPED:
            return False
        if not self.health().ok and not _clear_errors(client):
            return False
        if not self._await(is_idle):
            return False

        try:
            self._take_control()
        except RobotError:
            return False
        return True

    # -- state and commands ------------------------------------------------------------------------

    def get_observation(self) -> Values:
        """Return pose, wrench on the tool, opening and joints, from memory.

        The wrench is libfranka's ``O_F_ext_hat_K``.
        """
        state = self._state()
        pose = state.O_T_EE
        gripper = self._gripper
        values = [
            *pose.translation.ravel().tolist(),
            *pose.quaternion.ravel().tolist(),
            *state.O_F_ext_hat_K.ravel().tolist(),
            gripper.opening if gripper is not None else 0.0,
            *state.q.ravel().tolist(),
            *state.dq.ravel().tolist(),
        ]
        return dict(zip(OBSERVATION, values, strict=True))

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Move the reference of the impedance controller; the hand follows in its own time."""
        values = np.array(read_action(action), np.float64)
        if not self.is_connected:
            raise not_in_control("Franka", self.health())

        values[QUATERNION_PART] /= float(np.linalg.norm(values[QUATERNION_PART]))
        opening = min(max(values[GRIPPER_INDEX], 0.0), MAX_OPENING)
        values[GRIPPER_INDEX] = opening

        self._tracker.set_target(target_pose(values[:3], values[QUATERNION_PART]))
        if self._gripper is not None:
            self._gripper.want(float(opening))
        return dict(zip(ACTION, values.tolist(), strict=True))

    def now(self) -> float:
        """Return the robot's clock [s]: that of its newest state."""
        return float(self._state().time.to_sec())

    def state_stamp(self) -> float:
        """Return :meth:`now`: the robot sends its time with its states only."""
        return self.now()

    def stop(self, level: StopLevel) -> None:
        """Stop.

        HOLD leaves the reference where the last command put it.  SOFT ramps torques down to damping
        and gives up control.  HARD is libfranka's own stop, sent by a thread because its answer may
        never come, and only once because libfranka mixes up the answers to two.
        """
        client = self._client
        if client is None or level is StopLevel.HOLD:
            return
        if not self._in_control() or self._stopping is not None:
            return
        if level is StopLevel.SOFT and self._tracker is None:
            return

        self._tracker = None
        if level is StopLevel.SOFT:
            ramp_down(client)
            return
        self._stopping = threading.Thread(
            target=stop_at_once, args=(client,), name="franka-stop", daemon=True
        )
        self._stopping.start()

    def health(self) -> Health:
        """Return mode and errors.

        After a loss of control it waits some milliseconds for a state that names the reason.
        """
        client = self._client
        watcher = self._watcher
        if client is None or watcher is None:
            return Health(Mode.DISCONNECTED)
        if self._lost:
            return Health(Mode.DISCONNECTED, detail=self._lost)

        if self._in_control():
            with contextlib.suppress(Exception):
                self._last = client.state
        elif not watcher.seen(FIRST_STATE_S):
            return Health(
                Mode.DISCONNECTED if self._lost else Mode.ERROR,
                detail=self._lost or "no state since control was lost",
            )

        state = self._last
        gripper = self._gripper
        return Health(
            MODES.get(state.robot_mode.name, Mode.ERROR),
            error_flags(state.current_errors),
            gripper.error if gripper is not None else "",
        )

    # -- inside ------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the connection to the arm, and begin to read its states."""
        config = self.config
        self._client = open_client(config)
        self._lost = ""
        self._watcher = StateWatcher(self._client, self._watched)
        self._watcher.start()

        # A client that is alive when the interpreter ends makes C++ abort, with the arm still under
        # control.
        atexit.register(self.disconnect)
        if not self._watcher.fresh(config.connect_timeout):
            self.disconnect()
            raise RobotError(
                f"the Franka at {config.host} sends no states",
                remedy="check network and firewall",
            )

    def _start_gripper(self) -> None:
        gripper = self._gripper = FrankaGripper(self.config)
        gripper.start()
        if not gripper.ready.wait(self.config.connect_timeout) or gripper.error:
            raise RobotError(
                f"the Franka's hand does not answer: {gripper.error or 'timeout'}",
                remedy="initialise the hand in Desk",
            )

    def _take_control(self) -> None:
        watcher = self._watcher
        assert watcher is not None
        with watcher.paused():
            self._tracker = start_impedance_control(self._client, self._last, self.config)
            self._engaged = True
            watcher.rest()

    def _finish_motion(self, client: Any) -> bool:
        """Wait until the stop and the motion under way have ended; False when one has not."""
        patience = self.config.recover_timeout
        self._tracker = None
        if self._stopping is not None:
            self._stopping.join(patience)

        with contextlib.suppress(Exception):  # how the last motion ended is known from the state
            if not client.join_motion(patience):
                return False
        self._stopping = None
        return True

    def _state(self) -> Any:
        """Return the newest state without waiting.

        Raises:
            RobotError: not connected, or the connection is lost.
        """
        client = self._client
        if client is None or self._watcher is None:
            raise not_connected("Franka")

        if self._in_control():
            try:
                self._last = client.state
            except Exception as error:
                # Control ended between the two lines, and the network with it.
                raise RobotError(
                    f"the Franka is gone: {first_line(error)}", remedy="call connect()"
                ) from error
        elif self._lost:
            raise RobotError(f"the Franka is gone: {self._lost}", remedy="call connect()")
        return self._last

    def _in_control(self) -> bool:
        """Return True while franky's control loop runs; afterwards only the watcher reads.

        From then on nothing but ``connect`` and ``recover`` may ask the client anything: it answers
        under the mutex that a read of the state holds, for a second on a dead network.
        """
        if self._engaged and not self._client.is_in_control:
            self._engaged = False
            import franky

            try:
                self._client.poll_motion()  # raises what ended it
            except franky.NetworkException as error:
                self._lost = first_line(error)
            except Exception:  # noqa: S110, BLE001 - reflexes and stops: the next state names them
                pass
            if self._watcher is not None:
                self._watcher.read()
        return self._engaged

    def _watched(self, state: Any, error: str) -> None:
        """Take what the watcher reports: a state, or the error that ended it."""
        if error:
            self._lost = error
        else:
            self._last = state

    def _await(self, holds: Callable[[Any], bool]) -> bool:
        """Wait for a state for which ``holds`` is true, at most ``recover_timeout``."""
        end = time.monotonic() + self.config.recover_timeout
        while time.monotonic() < end and self._watcher is not None and not self._lost:
            if self._watcher.fresh(FRESH_STATE_S) and holds(self._last):
                return True
        return False


def _clear_errors(client: Any) -> bool:
    """Clear the robot's errors; False where it refuses or the connection breaks."""
    try:
        client.recover_from_errors()
    except Exception:  # noqa: BLE001 - a refusal (CommandException) or the connection
        return False
    return True
