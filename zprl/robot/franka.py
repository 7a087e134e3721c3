"""Driver of a Franka arm and hand through franky-control 2 (libfranka 0.21, robot system 5.9 or newer).

The arm is held by a Cartesian impedance controller that runs at 1 kHz inside franky's C++ thread;
:meth:`Franka.send_action` only moves its reference, which takes microseconds.  Everything that may
wait for the network has a thread of its own: the hand (two), and a watcher that reads the state
when nobody is in control (in control the state is a copy in memory).

Three habits of libfranka and franky shape this module.  ``franky.Robot()`` puts the calling thread
into SCHED_FIFO 99, which every later thread and process inherits: it is called in a short-lived
thread, and the policy is reset besides.  After a second without states a ``Robot`` object is dead
for good: :meth:`Franka.connect` builds a new one.  ``recover_from_errors()`` may answer False
although it succeeded: what the state says afterwards counts.
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zprl.errors import ConfigError
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

MAX_OPENING = 0.08
_ACTION = (*POSE, GRIPPER)
_OBSERVATION = (
    *POSE,
    *WRENCH,
    GRIPPER,
    *(f"joint_{i}.{what}" for what in ("pos", "vel") for i in range(1, 8)),
)
_WIDE = 0.08
"""Grasps accept any width [m]: whether something is held is for the policy's eyes, not for the
hand's firmware."""
_FIRST_S = 0.05
"""Longest wait of :meth:`Franka.health` for the first state after control was lost [s]; it is due
after 1 ms."""

_RELEASE_S = 6.0
"""Longest wait for the arm to come to rest and for the client to end [s]."""


class Load(BaseModel):
    """What hangs on the flange besides the hand; wrong values make the arm jump when impedance control starts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mass: float = Field(0.0, ge=0.0, le=3.0, description="[kg]")
    centre: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0), description="of mass in the flange's frame [m]"
    )
    inertia: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0), description="about the centre of mass, diagonal [kg m^2]"
    )


class FrankaConfig(BaseModel):
    """Everything the driver is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(description="Address of the robot's control; 127.x is a double.")
    realtime: Literal["enforce", "ignore"] = Field(
        "enforce", description="What a kernel without real-time scheduling means."
    )
    translational_stiffness: float = Field(2000.0, ge=50.0, le=3000.0, description="[N/m]")
    rotational_stiffness: float = Field(60.0, ge=2.0, le=150.0, description="[Nm/rad]")
    translational_damping: float = Field(
        100.0, ge=10.0, le=400.0, description="[Ns/m]; franky's default takes the arm for 1 kg"
    )
    rotational_damping: float = Field(10.0, ge=0.5, le=50.0, description="[Nms/rad]")
    translational_clip: float = Field(
        0.02,
        gt=0.0,
        le=0.1,
        description="Longest spring [m]; stiffness times this bounds the force.",
    )
    rotational_clip: float = Field(0.4, gt=0.0, le=1.0, description="[rad]")
    posture_stiffness: float = Field(
        5.0, ge=0.0, le=50.0, description="Pull of the elbow towards its place at connect [Nm/rad]."
    )
    max_torque_rate: float = Field(
        1.0, gt=0.0, le=1.0, description="Steepest change of the joint torques [Nm/ms]."
    )
    collision_force: float = Field(
        50.0, ge=5.0, le=100.0, description="External force at which the robot stops itself [N]."
    )
    collision_torque: float = Field(
        30.0,
        ge=5.0,
        le=100.0,
        description="External joint torque at which the robot stops itself [Nm].",
    )
    dynamics: float = Field(
        0.2, gt=0.0, le=1.0, description="Of franky's own motions, relative to the robot's limits."
    )
    load: Load = Load()
    gripper_speed: float = Field(0.08, gt=0.0, le=0.2, description="[m/s]")
    gripper_force: float = Field(20.0, gt=0.0, le=70.0, description="of a grasp [N]")
    gripper_step: float = Field(
        0.005,
        gt=0.0,
        le=0.05,
        description="Smallest change of the asked opening that moves the hand [m].",
    )
    connect_timeout: float = Field(10.0, gt=0.0, le=120.0, description="[s]")
    recover_timeout: float = Field(1.0, gt=0.0, le=10.0, description="[s]")

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, and so a double."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name; "localhost" too, because names can be told to mean anything
            return False

    @model_validator(mode="after")
    def _real_robots_need_real_time(self) -> Self:
        if self.realtime == "ignore" and not self.is_loopback:
            raise ValueError(
                "realtime: ignore is for doubles at 127.x only; a real Franka needs a PREEMPT_RT kernel"
            )
        return self


def make(config: Mapping[str, Any]) -> Franka:
    """Make the driver; entry point ``franka``.  Touches no hardware.

    Raises:
        ConfigError: a key or value that :class:`FrankaConfig` does not take.
    """
    try:
        return Franka(FrankaConfig.model_validate(dict(config)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "franka"
        raise ConfigError(
            f"robot config '{where}': {first['msg']}", remedy="see zprl.robot.franka.FrankaConfig"
        ) from error


class Franka:
    """See the module."""

    name = "franka"
    limits = Ranges(
        speed=1.7, acceleration=13.0, jerk=6500.0, gripper_width=MAX_OPENING, reach=0.855
    )
    """The FR3's, as franky reports them."""

    def __init__(self, config: FrankaConfig) -> None:
        self.config = config
        self.simulated = config.is_loopback
        self._robot: Any = None
        self._tracker: Any = None
        self._hand: _Hand | None = None
        self._watcher: _Watcher | None = None
        self._last: Any = None
        self._lost = ""
        self._stopping: threading.Thread | None = None
        self._engaged = False

    @property
    def observation_features(self) -> dict[str, type]:
        """Pose, wrench, opening and joints."""
        return dict.fromkeys(_OBSERVATION, float)

    @property
    def action_features(self) -> dict[str, type]:
        """Pose and opening."""
        return dict.fromkeys(_ACTION, float)

    @property
    def is_connected(self) -> bool:
        """Whether this driver is in control."""
        return self._tracker is not None and self._in_control()

    @property
    def is_calibrated(self) -> bool:
        """Always: absolute encoders."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Write collision thresholds, dynamics and load; the load is read back.

        Raises:
            RobotError: the robot refuses, or reports another load.
        """
        config, robot = self.config, self._robot
        if robot is None:
            raise RobotError("the Franka is not connected", remedy="call connect() first")
        load = config.load
        try:
            robot.set_collision_behavior(config.collision_torque, config.collision_force)
            robot.set_load(load.mass, list(load.centre), np.diag(load.inertia).flatten().tolist())
            robot.relative_dynamics_factor = config.dynamics
        except Exception as error:  # franky's exceptions have no common base
            raise RobotError(
                f"the Franka refuses its settings: {_first_line(error)}",
                remedy="unlock it and activate FCI in Desk",
            ) from error
        reported = self._await(lambda state: abs(state.m_load - load.mass) < 1e-3)
        if not reported:
            raise RobotError(
                f"the Franka reports a load of {self._last.m_load:.3f} kg instead of {load.mass:.3f} kg",
                remedy="another client is writing settings: end it",
            )

    def connect(self, calibrate: bool = True) -> None:
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
            self._hand = _Hand(self.config)
            self._hand.start()
            if not self._hand.ready.wait(self.config.connect_timeout) or self._hand.error:
                raise RobotError(
                    f"the Franka's hand does not answer: {self._hand.error or 'timeout'}",
                    remedy="initialise the hand in Desk",
                )
        except BaseException:
            self.disconnect()
            raise
        health = self.health()
        if not health.ok:
            raise RobotError(
                f"the Franka cannot be commanded: {health.mode} {', '.join(health.errors)}".rstrip(),
                remedy="clear it with recover(), or at the robot",
            )
        self._take_control()

    def disconnect(self) -> None:
        """Come to rest and let go; at most some seconds."""
        atexit.unregister(self.disconnect)
        held, self._robot = [self._robot], None
        hand, watcher, self._hand, self._watcher = self._hand, self._watcher, None, None
        self._tracker = self._stopping = self._last = None
        self._lost, self._engaged = "", False
        if hand is not None:
            hand.close()
        if watcher is not None:
            watcher.close()
        if held[0] is not None:
            # By a thread: a client whose robot is dead may hang even while it is destroyed.
            release = threading.Thread(
                target=_release, args=(held,), name="franka-release", daemon=True
            )
            try:
                release.start()
                release.join(_RELEASE_S)
            except RuntimeError:  # the interpreter is ending and starts no more threads
                _release(held)

    def get_observation(self) -> Values:
        """Pose, wrench on the tool (libfranka's ``O_F_ext_hat_K``), opening and joints, from memory."""
        state = self._state()
        pose = state.O_T_EE
        hand = self._hand
        values = [
            *pose.translation.ravel().tolist(),
            *pose.quaternion.ravel().tolist(),
            *state.O_F_ext_hat_K.ravel().tolist(),
            hand.opening if hand is not None else 0.0,
            *state.q.ravel().tolist(),
            *state.dq.ravel().tolist(),
        ]
        return dict(zip(_OBSERVATION, values, strict=True))

    def send_action(self, action: Mapping[str, float]) -> Values:
        """Move the reference of the impedance controller; the hand follows in its own time."""
        try:
            values = np.array([action[key] for key in _ACTION], np.float64)
        except KeyError as error:
            raise RobotError(
                f"the action lacks {error}", remedy=f"an action has {', '.join(_ACTION)}"
            ) from error
        norm = float(np.linalg.norm(values[3:7]))
        if not np.isfinite(values).all() or not 0.9 < norm < 1.1:
            raise RobotError(
                "the action is not finite, or its quaternion has no unit length",
                remedy="filter actions before sending",
            )
        if not self.is_connected:
            health = self.health()
            raise RobotError(
                f"the Franka takes no commands: {health.mode} {', '.join(health.errors)} {health.detail}".rstrip(),
                remedy="call recover() or connect()",
            )
        values[3:7] /= norm
        values[7] = min(max(values[7], 0.0), MAX_OPENING)
        self._tracker.set_target(_affine(values[:3], values[3:7]))
        if self._hand is not None:
            self._hand.want(float(values[7]))
        return dict(zip(_ACTION, values.tolist(), strict=True))

    def now(self) -> float:
        """The robot's clock [s]: that of its newest state."""
        return float(self._state().time.to_sec())

    def state_stamp(self) -> float:
        """As :meth:`now`: the robot tells its time with its states only."""
        return self.now()

    def stop(self, level: StopLevel) -> None:
        """Stop.

        HOLD leaves the reference where the last command put it.  SOFT ramps torques down to damping
        and gives up control.  HARD is libfranka's own stop, sent by a thread because its answer may
        never come, and only once because libfranka mixes up the answers to two.
        """
        robot = self._robot
        if (
            robot is None
            or level is StopLevel.HOLD
            or not self._in_control()
            or self._stopping is not None
        ):
            return
        if level is StopLevel.SOFT and self._tracker is None:
            return
        self._tracker = None
        if level is StopLevel.HARD:
            self._stopping = threading.Thread(
                target=_quietly, args=(robot.stop,), name="franka-stop", daemon=True
            )
            self._stopping.start()
            return
        import franky

        _quietly(lambda: robot.move(franky.TorqueStopMotion(), asynchronous=True))

    def recover(self) -> bool:
        """Clear errors and hold the present pose; also takes control again after a stop.

        Returns:
            False where a person must act: user stop, refused recovery, or a lost connection (then
                :meth:`connect`).
        """
        robot = self._robot
        if robot is None or self._lost:
            return False
        if self.is_connected:
            return True
        self._tracker = None
        if self._stopping is not None:
            self._stopping.join(self.config.recover_timeout)
        with contextlib.suppress(Exception):  # how the last motion ended is known from the state
            if not robot.join_motion(self.config.recover_timeout):
                return False
        self._stopping = None
        if self.health().mode is Mode.USER_STOPPED:
            return False
        if not self.health().ok:
            import franky

            try:
                robot.recover_from_errors()
            except franky.CommandException:
                return False
            except Exception:  # the connection
                return False
        if not self._await(_is_idle):
            return False
        try:
            self._take_control()
        except RobotError:
            return False
        return True

    def health(self) -> Health:
        """What the robot says; after a loss of control it waits some milliseconds for a state that tells why."""
        robot, watcher = self._robot, self._watcher
        if robot is None or watcher is None:
            return Health(Mode.DISCONNECTED)
        if self._lost:
            return Health(Mode.DISCONNECTED, detail=self._lost)
        if self._in_control():
            with contextlib.suppress(Exception):
                self._last = robot.state
        elif not watcher.seen(_FIRST_S):
            return Health(
                Mode.DISCONNECTED if self._lost else Mode.ERROR,
                detail=self._lost or "no state since control was lost",
            )
        state = self._last
        modes = {
            "Idle": Mode.IDLE,
            "Move": Mode.MOVING,
            "Reflex": Mode.REFLEX,
            "UserStopped": Mode.USER_STOPPED,
        }
        hand = self._hand
        return Health(
            modes.get(state.robot_mode.name, Mode.ERROR),
            _flags(state.current_errors),
            hand.error if hand is not None else "",
        )

    # -- inside ------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Build the client in a thread, because it may block for a minute and marks its thread as real-time."""
        import franky

        mode = (
            franky.RealtimeConfig.Ignore
            if self.config.realtime == "ignore"
            else franky.RealtimeConfig.Enforce
        )
        result: list[Any] = []

        def build() -> None:
            try:
                result.append(franky.Robot(self.config.host, realtime_config=mode))
            except Exception as error:
                result.append(error)

        thread = threading.Thread(target=build, name="franka-connect", daemon=True)
        thread.start()
        thread.join(self.config.connect_timeout)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if not result:
            raise RobotError(
                f"the Franka at {self.config.host} does not answer",
                remedy="check power, network and FCI",
            )
        if isinstance(result[0], Exception):
            raise RobotError(
                f"cannot connect to the Franka at {self.config.host}: {_first_line(result[0])}",
                remedy="check power, network, FCI and the real-time kernel",
            ) from result[0]
        self._robot, self._lost = result[0], ""
        self._watcher = _Watcher(self._robot, self._watched)
        self._watcher.start()
        # A client that is alive when the interpreter ends makes C++ abort, with the arm still under
        # control.
        atexit.register(self.disconnect)
        if not self._watcher.fresh(self.config.connect_timeout):
            self.disconnect()
            raise RobotError(
                f"the Franka at {self.config.host} sends no states",
                remedy="check network and firewall",
            )

    def _take_control(self) -> None:
        import franky

        config, watcher = self.config, self._watcher
        assert watcher is not None
        with watcher.paused():
            posture = franky.PostureTask(self._last.q.ravel(), config.posture_stiffness)
            try:
                tracker = franky.CartesianImpedanceTracker(
                    self._robot,
                    translational_stiffness=config.translational_stiffness,
                    rotational_stiffness=config.rotational_stiffness,
                    damping=np.repeat((config.translational_damping, config.rotational_damping), 3),
                    translational_error_clip=np.full(3, config.translational_clip),
                    rotational_error_clip=np.full(3, config.rotational_clip),
                    posture_task=posture,
                    max_delta_tau=config.max_torque_rate,
                )
                end = time.monotonic() + self.config.recover_timeout
                # "In control" begins before the request is sent: a stop would overtake it.  The
                # robot's own word counts.
                while not (
                    self._robot.is_in_control
                    and self._robot.state.robot_mode == franky.RobotMode.Move
                ):
                    self._robot.poll_motion()  # raises what went wrong
                    if time.monotonic() > end:
                        raise TimeoutError("the motion does not start")
                    time.sleep(0.001)
            except Exception as error:
                raise RobotError(
                    f"the Franka does not give control: {_first_line(error)}", remedy="see health()"
                ) from error
            self._tracker, self._engaged = tracker, True
            watcher.rest()

    def _state(self) -> Any:
        """The newest state without waiting."""
        robot, watcher = self._robot, self._watcher
        if robot is None or watcher is None:
            raise RobotError("the Franka is not connected", remedy="call connect() first")
        if self._in_control():
            try:
                self._last = robot.state
            except (
                Exception
            ) as error:  # control ended between the two lines, and the network with it
                raise RobotError(
                    f"the Franka is gone: {_first_line(error)}", remedy="call connect()"
                ) from error
        elif self._lost:
            raise RobotError(f"the Franka is gone: {self._lost}", remedy="call connect()")
        return self._last

    def _in_control(self) -> bool:
        """Whether franky's control loop runs; leaves the client to the watcher once it does not.

        From then on nothing but ``connect`` and ``recover`` may ask the client anything: it answers
        under the mutex that a read of the state holds, for a second on a dead network.
        """
        if self._engaged and not self._robot.is_in_control:
            self._engaged = False
            import franky

            try:
                self._robot.poll_motion()  # raises what ended it
            except franky.NetworkException as error:
                self._lost = _first_line(error)
            except Exception:  # noqa: S110 - reflexes and stops: the next state names them
                pass
            if self._watcher is not None:
                self._watcher.read()
        return self._engaged

    def _watched(self, state: Any, error: str) -> None:
        if error:
            self._lost = error
        else:
            self._last = state

    def _await(self, holds: Callable[[Any], bool]) -> bool:
        """Wait for a state of which something holds, at most ``recover_timeout``."""
        end = time.monotonic() + self.config.recover_timeout
        while time.monotonic() < end and self._watcher is not None and not self._lost:
            if self._watcher.fresh(0.1) and holds(self._last):
                return True
        return False


class _Watcher(threading.Thread):
    """Reads states while nobody is in control, which blocks for a millisecond each, or a second on a dead network."""

    def __init__(self, robot: Any, report: Callable[[Any, str], None]) -> None:
        super().__init__(name="franka-watcher", daemon=True)
        self._robot: Any = robot
        self._report = report
        self._reading, self._seen = threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self._closed = False
        self._reading.set()

    def read(self) -> None:
        """Read from now on."""
        self._seen.clear()
        self._reading.set()

    def rest(self) -> None:
        """Do not read, until told to."""
        self._reading.clear()

    def paused(self) -> threading.Lock:
        """A lock that keeps it from reading: the client cannot read states and start a motion at a time."""
        return self._turn

    def seen(self, seconds: float) -> bool:
        """Wait for the first state since :meth:`read`; False when none came or the connection is lost."""
        return self._seen.wait(seconds) and self.is_alive()

    def fresh(self, seconds: float) -> bool:
        """Wait for a state that arrives after this call; False when none came or the connection is lost."""
        self._seen.clear()
        return self.seen(seconds)

    def close(self) -> None:
        """End it; a read under way takes a second at most."""
        self._closed = True
        self._reading.set()
        self.join(2.0)
        self._robot = None

    def run(self) -> None:
        """Read until closed or lost."""
        while True:
            self._reading.wait()
            with self._turn:
                if self._closed:
                    return
                if not self._reading.is_set():
                    continue
                try:
                    state = self._robot.state
                except Exception as error:
                    self._report(None, _first_line(error))
                    return
                self._report(state, "")
            self._seen.set()
            time.sleep(0.0005)  # lets whoever waits for the lock have it


class _Hand:
    """The hand in two threads: one reads its opening, one carries out the newest wish.

    A wish that differs by ``gripper_step`` from the last command becomes one: opening wider is a
    move, closing is a grasp with the configured force that accepts any width.  A command that fails
    is reported and not repeated until the wish changes.
    """

    def __init__(self, config: FrankaConfig) -> None:
        self._config = config
        self.opening = 0.0
        self.error = ""
        self.ready = threading.Event()
        self._wish: float | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._gripper: Any = None
        self._threads = [
            threading.Thread(target=f, name=f"franka-hand-{f.__name__[1:]}", daemon=True)
            for f in (self._read, self._obey)
        ]

    def start(self) -> None:
        """Connect and read, in the background."""
        for thread in self._threads:
            thread.start()

    def want(self, opening: float) -> None:
        """Wish for an opening [m]; returns at once."""
        if self._wish is None or abs(opening - self._wish) > 1e-6:
            with self._changed:
                self._wish = opening
                self._changed.notify()

    def close(self) -> None:
        """End both threads; the hand keeps what it holds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(1.5)

    def _read(self) -> None:
        import franky

        try:
            gripper = franky.Gripper(self._config.host)
            self.opening = gripper.state.width
        except Exception as error:
            self.error = _first_line(error)
            self.ready.set()
            return
        self._gripper = gripper
        self.ready.set()
        while not self._closed:
            try:
                self.opening = gripper.state.width
            except Exception as error:
                self.error = f"hand: {_first_line(error)}"
                return
            time.sleep(0.004)

    def _obey(self) -> None:
        self.ready.wait()
        commanded = self.opening
        while self._gripper is not None:
            with self._changed:
                while not self._closed and not self._differs(commanded):
                    self._changed.wait()
                if self._closed:
                    return
                wish = self._wish
            assert wish is not None
            ended = self._carry_out(wish, wider=wish > commanded)
            commanded = (
                wish if ended else self.opening
            )  # a wish that came back while its command was being stopped counts again

    def _carry_out(self, wish: float, *, wider: bool) -> bool:
        """Do it; False when it was stopped because the wish changed meanwhile."""
        config, gripper = self._config, self._gripper
        stopped = False
        try:
            if wider:
                future = gripper.move_async(wish, config.gripper_speed)
            else:
                future = gripper.grasp_async(
                    wish, config.gripper_speed, config.gripper_force, _WIDE, _WIDE
                )
            while not future.wait(0.01):
                if not stopped and (self._closed or self._differs(wish)):
                    stopped = True
                    gripper.stop()  # ends the command under way
                    if self._closed:
                        return False
            future.get()
            self.error = ""
        except Exception as error:
            if not stopped:
                self.error = f"hand: {_first_line(error)}"
        return not stopped

    def _differs(self, commanded: float) -> bool:
        return self._wish is not None and abs(self._wish - commanded) >= self._config.gripper_step


def _affine(position: np.ndarray, quaternion: np.ndarray) -> Any:
    import franky

    return franky.Affine(position, quaternion)


def _flags(errors: Any) -> tuple[str, ...]:
    """Names of the error flags that are set."""
    if not any(errors.__getstate__()):
        return ()
    return tuple(
        sorted(
            name for name in dir(type(errors)) if not name.startswith("_") and getattr(errors, name)
        )
    )


def _is_idle(state: Any) -> bool:
    return state.robot_mode.name == "Idle" and not any(state.current_errors.__getstate__())


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _release(held: list[Any]) -> None:
    """Bring the arm to rest and destroy the client, of which the list has the last reference."""
    import franky

    with contextlib.suppress(Exception):  # it may be dead: then there is nothing to bring to rest
        if held[0].is_in_control:
            held[0].move(franky.TorqueStopMotion(), asynchronous=True)
            if not held[0].join_motion(3.0):
                held[0].stop()
    held.clear()


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        call()
