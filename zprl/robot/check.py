"""The public checker of robot drivers: run it on your own driver before a session uses it.

``check_robot(factory)`` plays short scripts and raises :class:`RobotRuleError` with the name of the
first rule that does not hold.  It holds the pose in which it finds the arm and opens and closes the
hand once; against hardware, keep the fingers free and a hand at the stop.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial

from zprl.errors import DataError, ZprlError
from zprl.robot.base import (
    GRIPPER,
    POSE,
    POSITION,
    QUATERNION,
    Mode,
    Robot,
    RobotError,
    StopLevel,
    Values,
)

Factory = Callable[[], Robot]

RULES = {
    "features": "features are floats, known unconnected: the pose and gripper.pos as actions, "
    "and at least these as observations",
    "limits": "limits are positive and finite, known unconnected",
    "unconnected": "unconnected, health is DISCONNECTED, observing and acting raise a RobotError, "
    "stop and disconnect do nothing",
    "connect": "after connect the robot is connected and its health is ok",
    "no-realtime": "connect leaves the calling thread in SCHED_OTHER: its scheduling policy is "
    "inherited by all that it starts",
    "obs-keys": "get_observation has exactly the keys of observation_features",
    "finite": "observations are finite",
    "quaternion": "ee.q* has unit length",
    "clock": "now() and state_stamp() advance and never go back, and a state is never from the "
    "future",
    "fast": "get_observation, send_action, now and health return within a tick, also while the "
    "hand moves",
    "returns-sent": "send_action returns all action features, and a harmless target unchanged",
    "refuses-nan": "NaN and infinity are refused with a RobotError, and the robot stays connected",
    "refuses-missing": "an action that lacks a feature is refused with a ZprlError",
    "hold": "streaming the pose of the start keeps the tool within HOLD_TOLERANCE of it",
    "gripper": "the hand follows gripper.pos within GRIPPER_S",
    "stop-hold": "stop(HOLD), also twice, leaves the robot in control",
    "stop": "stop(SOFT) and stop(HARD), also twice, end control within STOP_S; then actions are "
    "refused and states still come",
    "recover": "recover() after a stop takes control again",
    "disconnect": "disconnect() ends the connection and may be called twice",
    "reconnect": "connect() works again after disconnect()",
}
"""Rule name to what it demands."""

HOLD_TOLERANCE = 0.01
"""Largest drift of the tool [m] (ours)."""
GRIPPER_S = 5.0
"""Longest time in which the hand follows [s of the robot's clock]."""
STOP_S = 3.0
"""Longest time in which a stop ends control [s of the host's clock]."""
_PATIENCE = 20.0
"""Seconds of the host's clock after which a robot's clock is taken for dead."""
_POLL_S = 0.0005
"""Time between two looks at the robot's clock [s]."""
_STOP_POLL_S = 0.001
"""Time between two looks whether a stop has ended control [s]."""
_UNIT_TOLERANCE = 1e-3
"""Distance from 1 that the length of a quaternion may have."""
_SENT_TOLERANCE = 1e-6
"""Largest change of a harmless target."""
_OPEN, _CLOSE = 0.9, 0.4
"""Shares of the widest opening to which the hand is moved."""
_OPENING_TOLERANCE = 0.01
"""Largest difference from the requested opening [m]."""
_LATE = 100
"""One call in so many may be late: the host has other things to do."""


class RobotRuleError(DataError):
    """A driver breaks a rule of the contract; ``rule`` is its name in :data:`RULES`."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        super().__init__(f"rule '{rule}' is broken: {detail}", remedy=RULES[rule])


def check_robot(factory: Factory, *, prefix: str = "", tick: float = 0.02, steps: int = 25) -> None:
    """Check every rule of :data:`RULES`.

    Args:
        factory: Returns an unconnected driver; called once.
        prefix: Of the arm to check, for composed robots.
        tick: Period of the script [s of the robot's clock], and the longest that a call may take [s
            of the host's].
        steps: Ticks of each script.

    Raises:
        RobotRuleError: with the name of the first rule that does not hold.
    """
    robot = factory()
    _check_unconnected(robot, prefix)

    try:
        _check_connected(_Script(robot, prefix, tick, steps))

        robot.disconnect()
        robot.disconnect()
        _require(
            not robot.is_connected and robot.health().mode is Mode.DISCONNECTED,
            "disconnect",
            f"health is {robot.health()}",
        )

        try:
            robot.connect()
            robot.get_observation()
        except ZprlError as error:
            raise RobotRuleError("reconnect", f"it raised {error.message}") from error
        _require(robot.is_connected, "reconnect", "is_connected is False")
    finally:
        robot.disconnect()


def _require(holds: bool, rule: str, detail: str) -> None:  # noqa: FBT001 - never a literal
    if not holds:
        raise RobotRuleError(rule, detail)


def _raises(call: Callable[[], object], kind: type[Exception], rule: str, name: str) -> None:
    try:
        call()
    except kind:
        return
    except Exception as error:  # any other exception is unclear to a user: a broken rule
        raise RobotRuleError(rule, f"{name} raised {error!r}") from error
    raise RobotRuleError(rule, f"{name} was accepted")


def _check_unconnected(robot: Robot, prefix: str) -> None:
    pose = {prefix + key for key in (*POSE, GRIPPER)}
    observations = robot.observation_features
    actions = robot.action_features
    of_arm = {key for key in actions if key.startswith(prefix)}
    _require(of_arm == pose, "features", f"action features are {sorted(of_arm)}")
    _require(
        pose <= set(observations),
        "features",
        f"observation features lack {sorted(pose - set(observations))}",
    )
    kinds = {*observations.values(), *actions.values()}
    _require(kinds == {float}, "features", f"types are {kinds}")

    limits = robot.limits
    sizes = (limits.speed, limits.acceleration, limits.jerk, limits.gripper_width, limits.reach)
    _require(
        all(math.isfinite(size) and size > 0 for size in sizes), "limits", f"they are {limits}"
    )

    _require(
        not robot.is_connected and robot.health().mode is Mode.DISCONNECTED,
        "unconnected",
        f"health is {robot.health()}",
    )
    _raises(robot.get_observation, RobotError, "unconnected", "get_observation()")
    _raises(
        lambda: robot.send_action(_hold_action(dict.fromkeys(actions, 0.0))),
        RobotError,
        "unconnected",
        "send_action()",
    )
    for level in StopLevel:
        robot.stop(level)
    robot.disconnect()


def _hold_action(values: Values) -> Values:
    """Return the given values with the identity as orientation."""
    action = dict(values)
    for key in action:
        if key.endswith(QUATERNION):
            action[key] = 1.0 if key.endswith(QUATERNION[3]) else 0.0
    return action


class _Script:
    """A connected robot, driven tick by tick on its own clock, with every call timed."""

    def __init__(self, robot: Robot, prefix: str, tick: float, steps: int) -> None:
        self.robot = robot
        self.prefix = prefix
        self.tick = tick
        self.steps = steps
        self.times: list[tuple[float, str]] = []
        self.stamp = self.clock = -math.inf

    def timed(self, name: str, call: Callable[[], object]) -> object:
        """Call, and record the time it took."""
        start = time.perf_counter()
        result = call()
        self.times.append((time.perf_counter() - start, name))
        return result

    def observe(self) -> Values:
        """Return an observation that keeps the rules about observations."""
        values = self.timed("get_observation", self.robot.get_observation)
        assert isinstance(values, dict)

        wanted = set(self.robot.observation_features)
        _require(
            set(values) == wanted, "obs-keys", f"they differ by {sorted(set(values) ^ wanted)}"
        )
        broken = [key for key, value in values.items() if not math.isfinite(value)]
        _require(not broken, "finite", f"{broken} are not")
        norm = math.hypot(*(values[self.prefix + key] for key in QUATERNION))
        _require(abs(norm - 1.0) < _UNIT_TOLERANCE, "quaternion", f"its length is {norm:.4f}")
        return values

    def act(self, action: Values) -> Values:
        """Send an action, timed."""
        sent = self.timed("send_action", lambda: self.robot.send_action(action))
        assert isinstance(sent, dict)
        return sent

    def wait(self) -> None:
        """Wait for one tick of the robot's clock, which must behave."""
        end = self.robot.now() + self.tick
        give_up = time.monotonic() + _PATIENCE
        while True:
            stamp = self.robot.state_stamp()
            now = self.timed("now", self.robot.now)
            assert isinstance(now, float)

            _require(
                now >= self.clock and stamp >= self.stamp,
                "clock",
                f"it went from {self.clock} to {now}, stamps {self.stamp} to {stamp}",
            )
            _require(stamp <= now, "clock", f"a state of {stamp} at {now}")
            self.clock = now
            self.stamp = stamp

            if now >= end:
                return
            _require(time.monotonic() < give_up, "clock", f"it stands at {now}")
            time.sleep(_POLL_S)

    def check_times(self) -> None:
        """Refuse more than one late call in a hundred."""
        late = sorted((t, name) for t, name in self.times if t > self.tick)
        if len(late) > max(1, len(self.times) // _LATE):
            seconds, name = late[-1]
            share = f"{len(late)} of {len(self.times)} calls were late"
            raise RobotRuleError("fast", f"{share}; {name} took {1000 * seconds:.1f} ms")
        self.times.clear()


def _check_connected(script: _Script) -> None:
    robot = script.robot
    robot.connect()
    _require(
        robot.is_connected and robot.health().ok,
        "connect",
        f"is_connected {robot.is_connected}, {robot.health()}",
    )
    policy = os.sched_getscheduler(0)
    _require(policy == os.SCHED_OTHER, "no-realtime", f"the policy is {policy}")

    start = script.observe()
    hold = {key: start[key] for key in robot.action_features}
    _check_holding(script, start, hold)
    _check_refusals(script, hold)
    _check_gripper(script, hold)
    script.check_times()

    for _ in range(2):
        robot.stop(StopLevel.HOLD)
    _require(robot.is_connected, "stop-hold", "is_connected is False")
    for level in (StopLevel.SOFT, StopLevel.HARD):
        _check_stop(script, level, hold)
        _require(
            robot.recover() and robot.is_connected,
            "recover",
            f"after {level.name}: {robot.health()}",
        )
        _check_near(script.observe(), start, script.prefix)


def _check_holding(script: _Script, start: Values, hold: Values) -> None:
    """Stream the pose of the start: it is returned, the tool stays, and the clock advances."""
    robot = script.robot
    stamp = robot.state_stamp()
    for _ in range(script.steps):
        script.wait()
        _check_sent(hold, script.act(hold), robot)
        script.timed("health", robot.health)
        _check_near(script.observe(), start, script.prefix)
    _require(robot.state_stamp() > stamp, "clock", "state_stamp() does not advance")


def _check_sent(action: Values, sent: Values, robot: Robot) -> None:
    missing = set(robot.action_features) ^ set(sent)
    _require(not missing, "returns-sent", f"keys differ by {sorted(missing)}")
    wrong = [key for key, value in action.items() if not abs(sent[key] - value) < _SENT_TOLERANCE]
    _require(not wrong, "returns-sent", f"{wrong} came back changed")


def _check_near(values: Values, start: Values, prefix: str) -> None:
    moved = math.dist(
        [values[prefix + key] for key in POSITION], [start[prefix + key] for key in POSITION]
    )
    _require(moved <= HOLD_TOLERANCE, "hold", f"the tool moved {1000 * moved:.1f} mm")


def _check_refusals(script: _Script, hold: Values) -> None:
    robot = script.robot
    first = script.prefix + POSE[0]
    for value in (math.nan, math.inf):
        for key in (first, script.prefix + GRIPPER):
            _raises(
                partial(robot.send_action, hold | {key: value}),
                RobotError,
                "refuses-nan",
                f"{key} = {value}",
            )
    _require(robot.is_connected, "refuses-nan", "the connection was given up")
    short = {key: value for key, value in hold.items() if key != first}
    _raises(
        lambda: robot.send_action(short), ZprlError, "refuses-missing", f"an action without {first}"
    )


def _check_gripper(script: _Script, hold: Values) -> None:
    """Open wide and close a little, while the arm holds and the clock goes on."""
    robot = script.robot
    key = script.prefix + GRIPPER
    for share in (_OPEN, _CLOSE):
        wanted = share * robot.limits.gripper_width
        end = robot.now() + GRIPPER_S
        while True:
            opening = script.observe()[key]
            # A hand that closes until it feels something passes by the requested opening.
            if share == _CLOSE and opening <= wanted + _OPENING_TOLERANCE:
                break
            if share == _OPEN and opening >= wanted - _OPENING_TOLERANCE:
                break
            _require(
                robot.now() < end, "gripper", f"{wanted:.3f} m requested, {opening:.3f} m measured"
            )
            script.wait()
            script.act(hold | {key: wanted})


def _check_stop(script: _Script, level: StopLevel, hold: Values) -> None:
    robot = script.robot
    for _ in range(2):
        robot.stop(level)
    end = time.monotonic() + STOP_S
    while robot.is_connected:
        _require(time.monotonic() < end, "stop", f"{level.name} does not end control")
        time.sleep(_STOP_POLL_S)
    _raises(lambda: robot.send_action(hold), RobotError, "stop", f"an action after {level.name}")
    script.observe()
    script.wait()
