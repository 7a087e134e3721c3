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

TOLD = 1e-4
"""Changes smaller than this [m, rad] are made without an event."""


@dataclass(frozen=True)
class Filtered:
    """What to send.

    Attributes:
        pose: Tool pose.
        gripper: Opening [m].
        events: What began with this call; a clip that lasts is told once, when it begins.
        clipped: Whether this very call was changed by a limit (following a target smoothly is no
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
        self.limits, self.period = limits, period
        self.region, self.pointing = Workspace(limits), Pointing(limits.cone)
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
        read = _read(pose)
        if read is None or not math.isfinite(gripper):
            raise RobotError(
                "the measured pose is not finite", remedy="look at the robot's state, then recover"
            )
        position = self.region.nearest(read[0])
        orientation = self.pointing.nearest(read[1], INSET)
        if position is None or math.dist(position, read[0]) > self.limits.tracking_clip:
            raise RobotError(
                f"the tool at {_text(read[0])} m is outside its workspace",
                remedy="guide it inside by hand, then recover",
            )
        if math.hypot(*Turn.between(orientation, read[1])) > self.limits.tracking_clip_rotation:
            raise RobotError(
                f"the tool points {self.pointing.tilt(read[1]):.2f} rad off its cone's axis",
                remedy="turn it back by hand, then recover",
            )
        inside = self.region.contains(read[0])
        self._line.reset(read[0] if inside else position)
        self._turn.reset(orientation)
        self._target = (self._line.point, self._turn.point)
        self._gripper = self._width(gripper)
        self._allowance = [1.0, 1.0]
        self._before, self._now = set(), {}

    def apply(self, target: Pose, gripper: float, measured: Pose) -> Filtered:
        """What to send for ``target`` when the arm is at ``measured``.

        A target that is not a finite pose is refused (``soft_stop``); the last good one is held.
        """
        held = self._held()
        goal = self._goal(target, gripper)
        if goal is not None:
            self._target = self._step(held, goal)
            self._gripper = self._width(gripper)
        return self._go_on(measured, stopping=False)

    def hold(self, measured: Pose | None = None) -> Filtered:
        """Go on to the last good target and stay there; without a tracking clip where the measured pose is unknown."""
        return self._go_on(measured, stopping=False)

    def stop_step(self, measured: Pose | None = None) -> Filtered:
        """One tick of coming to rest; call it until :attr:`resting`, then :meth:`hold`."""
        return self._go_on(measured, stopping=True)

    @property
    def resting(self) -> bool:
        """Whether what is sent has come to rest."""
        return self._line.resting and self._turn.resting

    # -- the steps ---------------------------------------------------------------------------------

    def _goal(self, target: Pose, gripper: float) -> tuple[Floats, Floats] | None:
        """The allowed goal nearest to the target, or ``None`` for one that is refused."""
        read = _read(target)
        if read is None or not math.isfinite(gripper):
            self._tell(
                "not_finite",
                Level.SOFT_STOP,
                "the target is not a finite pose: refused, the last good one is held",
            )
            return None
        position, orientation = read
        nearest = self.region.nearest(position)
        if nearest is None:
            self._tell(
                "keep_out",
                Level.HOLD,
                f"no allowed position was found near {_text(position)} m: the last good one is held",
            )
            return None
        if (off := math.dist(nearest, position)) > TOLD:
            inside = nearest == self.region.clamped(position, INSET)
            self._tell(
                "workspace" if inside else "keep_out",
                Level.CLIP,
                f"target moved {off:.3f} m into the allowed space",
                off,
                0.0,
            )
        if (tilt := self.pointing.tilt(orientation)) > self.pointing.angle + TOLD:
            self._tell(
                "cone",
                Level.CLIP,
                f"target tilted {tilt:.2f} rad: turned back into the cone",
                tilt,
                self.pointing.angle,
            )
        return nearest, self.pointing.nearest(orientation, INSET)

    def _held(self) -> tuple[Floats, Floats]:
        """The last good target."""
        if self._target is None:
            raise RobotError(
                "the safety filter does not know where the arm is",
                remedy="call reset with the measured pose first",
            )
        return self._target

    def _step(
        self, held: tuple[Floats, Floats], goal: tuple[Floats, Floats]
    ) -> tuple[Floats, Floats]:
        """The goal, no farther from the last one than a step: a bucket that one action's ticks refill."""
        position, orientation = held
        offset, turn = subtract(goal[0], position), Turn.between(orientation, goal[1])
        shares = []
        for axis, (length, most, unit_name) in enumerate(
            (
                (math.hypot(*offset), self.limits.max_step, "m"),
                (math.hypot(*turn), self.limits.max_rotation_step, "rad"),
            )
        ):
            room = self._allowance[axis] * most
            share = min(1.0, max(room, 0.0) / length) if length > 0 else 1.0
            self._allowance[axis] -= share * length / most
            if (1 - share) * length > TOLD:
                kind = "rotation_step" if axis else "step"
                self._tell(
                    kind,
                    Level.CLIP,
                    f"a step of {length:.3f} {unit_name} was cut to {room:.3f}",
                    length,
                    room,
                )
            shares.append(share)
        return (
            goal[0] if shares[0] == 1 else add(position, scaled(offset, shares[0])),
            goal[1] if shares[1] == 1 else Turn.moved(orientation, scaled(turn, shares[1])),
        )

    def _go_on(self, measured: Pose | None, *, stopping: bool) -> Filtered:
        self._allowance = [min(1.0, share + self._refill) for share in self._allowance]
        target = self._held()
        last = self._line.point, self._turn.point
        if stopping:
            self._line.brake()
            self._turn.brake()
            self._target = self._line.point, self._turn.point
        else:
            straight, turned = self._line.follow(target[0]), self._turn.follow(target[1])
            if not straight:
                self._tell("boundary", Level.CLIP, "braking to stay inside the workspace")
            if not turned:
                self._tell("boundary_cone", Level.CLIP, "braking to stay inside the cone")
        self._stay_near(measured, last)
        position = self.region.clamped(self._line.point)
        orientation = self.pointing.nearest(self._turn.point)
        began = tuple(event for kind, event in self._now.items() if kind not in self._before)
        clipped = bool(self._now)
        self._before, self._now = set(self._now), {}
        return Filtered(
            Pose(np.array(position), np.array(orientation)), self._gripper, began, clipped
        )

    def _stay_near(self, measured: Pose | None, last: tuple[Floats, Floats]) -> None:
        """No farther from the measured pose than the tracking clip; where that contradicts the workspace, the workspace wins."""
        if measured is None:
            return
        read = _read(measured)
        if read is None:
            self._tell("state_not_finite", Level.SOFT_STOP, "the measured pose is not finite")
            return
        position, orientation = read
        away = subtract(self._line.point, position)
        if (length := math.hypot(*away)) > (most := self.limits.tracking_clip):
            wanted = add(position, scaled(away, most / length))
            sent = (
                wanted
                if self.region.contains(wanted)
                else self.region.nearest(wanted) or self._line.point
            )
            self._tell(
                "tracking",
                Level.CLIP,
                f"the arm is {length:.3f} m from where it was sent: force bounded",
                length,
                most,
            )
            if (error := math.dist(sent, position)) > most + TOLD:
                self._tell(
                    "outside",
                    Level.SOFT_STOP,
                    f"the tool at {_text(position)} m is {error:.3f} m outside",
                    error,
                    most,
                )
            self._line.reset(sent, scaled(subtract(sent, last[0]), 1 / self.period))
        turn = Turn.between(orientation, self._turn.point)
        if (length := math.hypot(*turn)) > (most := self.limits.tracking_clip_rotation):
            sent_turn = self.pointing.nearest(
                Turn.moved(orientation, scaled(turn, most / length)), INSET
            )
            self._tell(
                "tracking_rotation",
                Level.CLIP,
                f"the tool is {length:.2f} rad from where it was sent: torque bounded",
                length,
                most,
            )
            if (error := math.hypot(*Turn.between(orientation, sent_turn))) > most + TOLD:
                self._tell(
                    "outside_cone",
                    Level.SOFT_STOP,
                    f"the tool points {error:.2f} rad outside its cone",
                    error,
                    most,
                )
            self._turn.reset(sent_turn, scaled(Turn.between(last[1], sent_turn), 1 / self.period))

    def _width(self, gripper: float) -> float:
        low, high = self.limits.gripper.low, self.limits.gripper.high
        width = min(max(gripper, low), high)
        if abs(width - gripper) > TOLD:
            self._tell(
                "gripper",
                Level.CLIP,
                f"a gripper opening of {gripper:.3f} m was clipped",
                gripper,
                width,
            )
        return width

    def _tell(
        self,
        kind: str,
        level: Level,
        reason: str,
        value: float | None = None,
        limit: float | None = None,
    ) -> None:
        self._now[kind] = Event(kind, level, reason, value, limit)


def _read(pose: Pose) -> tuple[Floats, Floats] | None:
    """Position and unit quaternion, or ``None`` where they are not finite or are no rotation."""
    position = tuple(float(v) for v in np.asarray(pose.position, np.float64).ravel())
    quaternion = tuple(float(v) for v in np.asarray(pose.quaternion, np.float64).ravel())
    if (
        len(position) != 3
        or len(quaternion) != 4
        or not all(map(math.isfinite, (*position, *quaternion)))
    ):
        return None
    return (position, unit(quaternion)) if 0.5 < math.hypot(*quaternion) < 2 else None


def _text(position: Floats) -> str:
    return "({:.3f}, {:.3f}, {:.3f})".format(*position)
