"""The simulated Franka Hand: libfranka's gripper protocol in front of the world's fingers."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from zprl.robot_sim.faults import Faults
from zprl.robot_sim.franka_scene import MAX_OPENING, FrankaScene
from zprl.robot_sim.libfranka_wire import Channel, WireMessage

PORT = 1338
_PROTOCOL = 3
_PERIOD = 10
"""Steps between looks at the wire and states sent [ms]."""
_SETTLED = 1e-5
_SETTLED_LOOKS = 6
"""A motion is over when the opening changed by less than this [m] in so many looks in a row."""
_MOVE_FORCE = 40.0
"""Force of a motion that is no grasp [N]."""
_HOMING_SPEED = 0.05
"""[m/s]"""
_MOVE_TOLERANCE = 0.005
"""Distance from the requested opening at which a motion has arrived [m]."""
_TEMPERATURE = 20
"""[degrees Celsius]"""
_STATE = struct.Struct("<dd?H")


class GripperCommand(enum.IntEnum):
    """Commands by their number."""

    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class Status(enum.IntEnum):
    """Answers: FAIL makes the client raise, UNSUCCESSFUL makes it return False."""

    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


@dataclass
class _Motion:
    """A command under way: openings to reach one after the other, and those that count."""

    message: WireMessage
    goals: list[float]
    speed: float
    force: float
    lowest: float
    highest: float
    start: float
    grasps: bool = False


class GripperServer:
    """Port 1338 of the arm's address; :meth:`tick` once per millisecond of robot time."""

    def __init__(self, world: FrankaScene, host: str, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._channel = Channel(host, PORT, _PROTOCOL, wide=False)
        self._motion: _Motion | None = None
        self._moving = False
        self._still = 0
        self._last = world.opening
        self._grasping = False
        self.commands = 0
        """Motions requested since the start."""

    def close(self) -> None:
        """Let go of all sockets."""
        self._channel.close()

    def tick(self) -> None:
        """Read commands, go on with a motion, send a state."""
        if self._world.steps % _PERIOD:
            return
        for message in self._channel.messages():
            self._handle(message)
        if self._motion is not None:
            self._go_on(self._motion)
        self._last = self._world.opening
        if self._channel.connected:
            state = _STATE.pack(self._last, MAX_OPENING, self._grasping, _TEMPERATURE)
            self._channel.publish(self._world.steps, state)

    def _handle(self, message: WireMessage) -> None:
        world = self._world
        try:
            motion = self._read_motion(GripperCommand(message.command), message)
        except (ValueError, struct.error):
            self._channel.drop()
            return

        self._finish(Status.ABORTED)
        if motion is None:  # stop
            world.set_opening(world.opening, _HOMING_SPEED, _MOVE_FORCE)
            self._channel.reply(message, Status.SUCCESS)
            return
        self.commands += 1
        self._grasping = False
        self._motion = motion
        self._moving = False

    def _read_motion(self, command: GripperCommand, message: WireMessage) -> _Motion | None:
        """Return the motion that a command demands; ``None`` for the command to stop."""
        world = self._world
        start = world.time + world.gap.gripper_delay + self._faults.gripper.delay
        match command:
            case GripperCommand.HOMING:
                goals = [MAX_OPENING, world.opening]
                return _Motion(message, goals, _HOMING_SPEED, _MOVE_FORCE, 0.0, MAX_OPENING, start)
            case GripperCommand.MOVE:
                width, speed = struct.unpack_from("<dd", message.payload)
                low, high = width - _MOVE_TOLERANCE, width + _MOVE_TOLERANCE
                return _Motion(message, [width], speed, _MOVE_FORCE, low, high, start)
            case GripperCommand.GRASP:
                # Fingers close until they feel the force, wherever that is; the width only judges
                # the result.
                width, inner, outer, speed, force = struct.unpack_from("<5d", message.payload)
                low, high = width - inner, width + outer
                return _Motion(message, [0.0], speed, force, low, high, start, grasps=True)
            case GripperCommand.STOP:
                return None

    def _go_on(self, motion: _Motion) -> None:
        world = self._world
        if not self._moving:
            if world.time >= motion.start:
                self._begin(motion)
            return

        # Settled: the opening has not changed for some looks.
        self._still = self._still + 1 if abs(world.opening - self._last) < _SETTLED else 0
        if self._still < _SETTLED_LOOKS:
            return

        motion.goals.pop(0)
        if motion.goals:
            self._moving = False
            return
        arrived = motion.lowest <= world.opening <= motion.highest
        self._grasping = motion.grasps and arrived
        self._finish(Status.SUCCESS if arrived else Status.UNSUCCESSFUL)

    def _begin(self, motion: _Motion) -> None:
        if self._faults.gripper.fail:
            self._finish(Status.FAIL)
            return
        self._world.set_opening(motion.goals[0], motion.speed, motion.force)
        self._moving = True
        self._still = 0

    def _finish(self, status: Status) -> None:
        if self._motion is not None:
            self._channel.reply(self._motion.message, status)
            self._motion = None
