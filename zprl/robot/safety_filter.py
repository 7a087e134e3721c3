"""The last thing before the wire: what may be sent to one arm.

In this order: finite, workspace and keep-outs, cone, step cap, jerk-limited following, tracking
clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zprl.robot.base import Pose, RobotError
from zprl.robot.events import Event, Level
from zprl.robot.limits import ArmLimits
from zprl.robot.rotation import Floats, unit
from zprl.robot.trajectory_follower import Line, TrajectoryFollower, Turn, add, scaled, subtract
from zprl.robot.workspace import INSET, Pointing, Workspace

REPORTED = 1e-4
"""Changes smaller than this [m, rad] are made without an event."""
MIN_NORM, MAX_NORM = 0.5, 2.0
"""Lengths between which a quaternion counts as a scaled unit quaternion."""


@dataclass(frozen=True)
class Filtered:
    """Command for one arm.

    Attributes:
        pose: Tool pose.
        gripper: Opening [m].
        events: What began with this call; a clip that lasts is reported once, when it begins.
        clipped: True where a limit changed this very call (following a target smoothly is no
            change).
    """

    pose: Pose
    gripper: float
    events: tuple[Event, ...] = ()
    clipped: bool = False


class SafetyFilter:
    """The filter of one arm.

    What comes out is finite and inside the workspace, always.  While the arm keeps up with it
    (``tracking_clip`` does not bite), speed, acceleration and jerk stay within their limits, stops
    included.  In contact the tracking clip bounds the force to the stiffness times the clip, and
    following goes on from what was really sent, so that nothing is stored up behind an obstacle.

    Args:
        limits: Of the arm.
        period: Between two calls [s].
        ticks_per_action: Calls per action of the policy; ``max_step`` is per action.
    """

    def __init__(self, limits: ArmLimits, period: float, ticks_per_action: int = 1) -> None:
        self.limits = limits
        self.period = period
        self.region = Workspace(limits)
        self.pointing = Pointing(limits.cone)
        self._line = TrajectoryFollower(period, limits.translation, Line, self._stop_inside)
        self._turn = TrajectoryFollower(period, limits.rotation, Turn, self.pointing.allows_stop)

        self._refill = 1 / ticks_per_action
        self._allowance = [1.0, 1.0]  # share of a step that may be taken now: position, orientation
        self._target: tuple[Floats, Floats] | None = None
        self._gripper = limits.gripper.high
        self._before: set[str] = set()
        self._now: dict[str, Event] = {}

    def _stop_inside(self, point: Floats, low: Floats, high: Floats, last: Floats) -> bool:
        return self.region.contains_box(add(point, low), add(point, high))

    # -- use ---------------------------------------------------------------------------------------

    def reset(self, pose: Pose, gripper: float) -> None:
        """Start at rest from the measured pose: at first, and after anybody else has moved the arm.

        A pose outside by no more than the tracking clip (the arm sags) starts from the nearest
        allowed one.

        Raises:
            RobotError: the arm is farther outside, or the pose is not finite.
        """
        measured = _read(pose)
        if measured is None or not math.isfinite(gripper):
            raise RobotError(
                "the measured pose is not finite", remedy="look at the robot's state, then recover"
            )

        position, orientation = measured
        start = self._start_position(position)
        pointed = self.pointing.nearest(orientation, INSET)
        if math.hypot(*Turn.between(pointed, orientation)) > self.limits.tracking_clip_rotation:
            raise RobotError(
                f"the tool points {self.pointing.tilt(orientation):.2f} rad off its cone's axis",
                remedy="turn it back by hand, then recover",
            )

        self._line.reset(start)
        self._turn.reset(pointed)
        self._target = (self._line.point, self._turn.point)
        self._gripper = self._width(gripper)
        self._allowance = [1.0, 1.0]
        self._before = set()
        self._now = {}

    def _start_position(self, position: Floats) -> Floats:
        """Return the measured position, or the nearest allowed one within the tracking clip."""
        nearest = self.region.nearest(position)
        if nearest is None or math.dist(nearest, position) > self.limits.tracking_clip:
            raise RobotError(
                f"the tool at {_text(position)} m is outside its workspace",
                remedy="guide it inside by hand, then recover",
            )
        return position if self.region.contains(position) else nearest

    def apply(self, target: Pose, gripper: float, measured: Pose) -> Filtered:
        """Return what to send for ``target`` when the arm is at ``measured``.

        A target that is not a finite pose is refused (``soft_stop``); the last good one is held.
        """
        held = self._held()
        goal = self._goal(target, gripper)
        if goal is not None:
            self._target = self._step(held, goal)
            self._gripper = self._width(gripper)
        return self._go_on(measured, stopping=False)

    def hold(self, measured: Pose | None = None) -> Filtered:
        """Go on to the last good target and stay there.

        There is no tracking clip where the measured pose is unknown.
        """
        return self._go_on(measured, stopping=False)

    def stop_step(self, measured: Pose | None = None) -> Filtered:
        """Take one tick of coming to rest; call it until :attr:`resting`, then :meth:`hold`."""
        return self._go_on(measured, stopping=True)

    @property
    def resting(self) -> bool:
        """True once what is sent has come to rest."""
        return self._line.resting and self._turn.resting

    # -- the steps ---------------------------------------------------------------------------------

    def _goal(self, target: Pose, gripper: float) -> tuple[Floats, Floats] | None:
        """Return the allowed goal nearest to the target, or ``None`` for one that is refused."""
        read = _read(target)
        if read is None or not math.isfinite(gripper):
            self._report(
                "not_finite",
                Level.SOFT_STOP,
                "the target is not a finite pose: refused, the last good one is held",
            )
            return None

        position, orientation = read
        nearest = self.region.nearest(position)
        if nearest is None:
            self._report(
                "keep_out",
                Level.HOLD,
                f"no allowed position near {_text(position)} m: the last good one is held",
            )
            return None

        off = math.dist(nearest, position)
        if off > REPORTED:
            inside = nearest == self.region.clamped(position, INSET)
            self._report(
                "workspace" if inside else "keep_out",
                Level.CLIP,
                f"target moved {off:.3f} m into the allowed space",
                off,
                0.0,
            )

        tilt = self.pointing.tilt(orientation)
        if tilt > self.pointing.angle + REPORTED:
            self._report(
                "cone",
                Level.CLIP,
                f"target tilted {tilt:.2f} rad: turned back into the cone",
                tilt,
                self.pointing.angle,
            )
        return nearest, self.pointing.nearest(orientation, INSET)

    def _held(self) -> tuple[Floats, Floats]:
        """Return the last good target."""
        if self._target is None:
            raise RobotError(
                "the safety filter does not know where the arm is",
                remedy="call reset with the measured pose first",
            )
        return self._target

    def _step(
        self, held: tuple[Floats, Floats], goal: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        """Return the goal, no farther from the last one than a step.

        A step is a bucket that the ticks of one action refill.
        """
        position, orientation = held
        offset = subtract(goal[0], position)
        turn = Turn.between(orientation, goal[1])

        straight = self._share(0, "step", math.hypot(*offset), self.limits.max_step, "m")
        turned = self._share(
            1, "rotation_step", math.hypot(*turn), self.limits.max_rotation_step, "rad"
        )
        return (
            goal[0] if straight == 1 else add(position, scaled(offset, straight)),
            goal[1] if turned == 1 else Turn.moved(orientation, scaled(turn, turned)),
        )

    def _share(self, part: int, kind: str, length: float, most: float, unit_name: str) -> float:
        """Return the share of a step that may be taken, and take it from the allowance."""
        room = self._allowance[part] * most
        share = min(1.0, max(room, 0.0) / length) if length > 0 else 1.0
        self._allowance[part] -= share * length / most
        if (1 - share) * length > REPORTED:
            reason = f"a step of {length:.3f} {unit_name} was cut to {room:.3f}"
            self._report(kind, Level.CLIP, reason, length, room)
        return share

    def _go_on(self, measured: Pose | None, *, stopping: bool) -> Filtered:
        self._allowance = [min(1.0, share + self._refill) for share in self._allowance]
        target = self._held()
        last = self._line.point, self._turn.point

        if stopping:
            self._line.brake()
            self._turn.brake()
            self._target = self._line.point, self._turn.point
        else:
            if not self._line.follow(target[0]):
                self._report("boundary", Level.CLIP, "braking to stay inside the workspace")
            if not self._turn.follow(target[1]):
                self._report("boundary_cone", Level.CLIP, "braking to stay inside the cone")

        self._stay_near(measured, last)
        position = self.region.clamped(self._line.point)
        orientation = self.pointing.nearest(self._turn.point)

        began = tuple(event for kind, event in self._now.items() if kind not in self._before)
        clipped = bool(self._now)
        self._before = set(self._now)
        self._now = {}
        return Filtered(
            Pose(np.array(position), np.array(orientation)), self._gripper, began, clipped
        )

    def _stay_near(self, measured: Pose | None, last: tuple[Floats, Floats]) -> None:
        """Go no farther from the measured pose than the tracking clip.

        Where that contradicts the workspace, the workspace wins.
        """
        if measured is None:
            return
        read = _read(measured)
        if read is None:
            self._report("state_not_finite", Level.SOFT_STOP, "the measured pose is not finite")
            return

        position, orientation = read
        self._bound_force(position, last[0])
        self._bound_torque(orientation, last[1])

    def _bound_force(self, position: Floats, last: Floats) -> None:
        """Send a position within the tracking clip of the measured one."""
        away = subtract(self._line.point, position)
        length = math.hypot(*away)
        most = self.limits.tracking_clip
        if not length > most:
            return

        sent = add(position, scaled(away, most / length))
        if not self.region.contains(sent):
            sent = self.region.nearest(sent) or self._line.point
        reason = f"the arm is {length:.3f} m from where it was sent: force bounded"
        self._report("tracking", Level.CLIP, reason, length, most)

        error = math.dist(sent, position)
        if error > most + REPORTED:
            reason = f"the tool at {_text(position)} m is {error:.3f} m outside"
            self._report("outside", Level.SOFT_STOP, reason, error, most)

        self._line.reset(sent, scaled(subtract(sent, last), 1 / self.period))

    def _bound_torque(self, orientation: Floats, last: Floats) -> None:
        """Send an orientation within the tracking clip of the measured one."""
        turn = Turn.between(orientation, self._turn.point)
        length = math.hypot(*turn)
        most = self.limits.tracking_clip_rotation
        if not length > most:
            return

        clipped = Turn.moved(orientation, scaled(turn, most / length))
        sent = self.pointing.nearest(clipped, INSET)
        reason = f"the tool is {length:.2f} rad from where it was sent: torque bounded"
        self._report("tracking_rotation", Level.CLIP, reason, length, most)

        error = math.hypot(*Turn.between(orientation, sent))
        if error > most + REPORTED:
            reason = f"the tool points {error:.2f} rad outside its cone"
            self._report("outside_cone", Level.SOFT_STOP, reason, error, most)

        self._turn.reset(sent, scaled(Turn.between(last, sent), 1 / self.period))

    def _width(self, gripper: float) -> float:
        allowed = self.limits.gripper
        width = min(max(gripper, allowed.low), allowed.high)
        if abs(width - gripper) > REPORTED:
            reason = f"a gripper opening of {gripper:.3f} m was clipped"
            self._report("gripper", Level.CLIP, reason, gripper, width)
        return width

    def _report(
        self,
        kind: str,
        level: Level,
        reason: str,
        value: float | None = None,
        limit: float | None = None,
    ) -> None:
        self._now[kind] = Event(kind, level, reason, value, limit)


def _read(pose: Pose) -> tuple[Floats, Floats] | None:
    """Return position and unit quaternion, or ``None`` for a pose that is not finite or none."""
    position = tuple(float(v) for v in np.asarray(pose.position, np.float64).ravel())
    quaternion = tuple(float(v) for v in np.asarray(pose.quaternion, np.float64).ravel())
    if (len(position), len(quaternion)) != (3, 4):
        return None
    if not all(map(math.isfinite, (*position, *quaternion))):
        return None
    if not MIN_NORM < math.hypot(*quaternion) < MAX_NORM:
        return None
    return position, unit(quaternion)


def _text(position: Floats) -> str:
    return "({:.3f}, {:.3f}, {:.3f})".format(*position)
