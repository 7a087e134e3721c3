"""The double of a Franka: libfranka's protocol in front of :class:`~zprl.robot_sim.franka_scene.FrankaScene`.

Kept from the real thing: state numbers are the robot's milliseconds, a command answers the state of
its number, a robot that gets no answer goes on with the last command and stops with
``communication_constraints_violation`` after 20 in a row, collision thresholds set by the client
abort a motion with a reflex, gravity is compensated for the load that the client states.

Different: while a client is in control, the double waits up to ``patience`` (wall clock) for the
answer to each state before it counts it as missed ("lockstep"), so that physics does not depend on
how busy the machine is.  Torque control and joint position and velocity motions are served;
Cartesian motion generators and changed tool frames are refused.
"""

from __future__ import annotations

import enum
import struct
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from zprl.robot_sim.faults import Clear, Fault, Faults, Reflex
from zprl.robot_sim.franka_scene import STEP, TOOL_OFFSET, FrankaScene
from zprl.robot_sim.gripper_server import GripperServer
from zprl.robot_sim.libfranka_wire import Channel, WireMessage
from zprl.robot_sim.state_packet import FLAG_INDEX, StatePacket

PORT = 1337
LOST_IN_A_ROW = 20
"""Unanswered states after which the robot stops (libfranka's documentation)."""
_STIFFNESS = np.array([2000.0, 2000.0, 2000.0, 2000.0, 800.0, 800.0, 800.0])
_DAMPING = np.array([100.0, 100.0, 100.0, 100.0, 40.0, 40.0, 40.0])
"""Of the joint controller that holds the arm when nobody controls it [Nm/rad, Nms/rad] (ours)."""
_TCP_PERIOD = 2
"""TCP is looked at every so many steps, because a system call costs as much as a fifth of the
physics."""
_STOP_STEPS = 10
"""A stopped motion ends so many milliseconds after the stop was answered.  libfranka 0.21 reads
both answers in two threads and can lose one, and hang for ever, when they come together."""
_EXTERNAL_CONTROLLER = 2


class Command(enum.IntEnum):
    """Commands by their number in protocol 10."""

    MOVE = 1
    STOP_MOVE = 2
    SET_COLLISION_BEHAVIOR = 3
    SET_JOINT_IMPEDANCE = 4
    SET_CARTESIAN_IMPEDANCE = 5
    SET_GUIDING_MODE = 6
    SET_EE_TO_K = 7
    SET_NE_TO_EE = 8
    SET_LOAD = 9
    ERROR_RECOVERY = 10
    GET_MODEL = 11


class MoveStatus(enum.IntEnum):
    """Answers to MOVE; the last one ends the motion."""

    SUCCESS = 0
    STARTED = 1
    PREEMPTED = 2
    NOT_POSSIBLE = 5
    INVALID_ARGUMENT = 7
    REFLEX = 8
    EMERGENCY = 9


class DriveMode(enum.IntEnum):
    """The robot's mode on the wire."""

    IDLE = 1
    MOVE = 2
    REFLEX = 4
    USER_STOPPED = 5


class Drive(enum.Enum):
    """What turns commands into torques."""

    HOLD = "hold"
    TORQUE = "torque"
    POSITION = "position"
    VELOCITY = "velocity"


@dataclass
class Counters:
    """What happened since the start."""

    clients: int = 0
    motions: int = 0
    answers: int = 0
    missed: int = 0
    lost_states: int = 0
    reflexes: int = 0
    recoveries: int = 0


_COMMAND = struct.Struct("<Q7d7d16d6d2d??7d?")
"""A client's answer: state number, q, dq, pose, twist, elbow, elbow valid, motion finished,
torques, torques finished."""
_COLLISION = struct.Struct("<7d7d7d7d6d6d6d6d")


class FrankaServer:
    """One arm on one loopback address; call :meth:`tick` once per millisecond of robot time.

    Args:
        world: What is moved.
        host: Address to listen at, ports 1337 (arm) and 1338 (hand).
        patience: Longest wait for the answer to a state [s, wall clock]; 0 switches lockstep off.
        seed: Of the lost packets.
    """

    def __init__(
        self, world: FrankaScene, host: str, *, patience: float = 0.02, seed: int = 0
    ) -> None:
        self.world = world
        self.faults = Faults(seed)
        self.counters = Counters()
        self.gripper = GripperServer(world, host, self.faults)
        self._channel = Channel(host, PORT, 10, wide=True)
        self._patience = patience
        self._mode = DriveMode.IDLE
        self._drive = Drive.HOLD
        self._motion: WireMessage | None = None
        self._answered = False
        self._missed_in_row = 0
        self._stop_at = 0
        self._was_connected = False
        self._goal = world.q.copy()
        self._command = np.zeros(7)
        self._delayed: deque[np.ndarray] = deque()
        self._torque_limits = np.full((2, 7), 20.0)
        self._force_limits = np.full((2, 6), 30.0)
        """Contact and collision thresholds of joints [Nm] and tool [N, Nm]; franky's defaults until
        the client sets them."""
        self._packet = self._first_packet()

    @property
    def mode(self) -> DriveMode:
        """The robot's mode."""
        return self._mode

    @property
    def connected(self) -> bool:
        """Whether a client listens."""
        return self._channel.connected

    @property
    def moving(self) -> bool:
        """Whether a client is in control."""
        return self._motion is not None

    def close(self) -> None:
        """Let go of all sockets."""
        self._channel.close()
        self.gripper.close()

    def inject(self, fault: Fault) -> None:
        """Let something go wrong."""
        if isinstance(fault, Reflex):
            self._reflex(FLAG_INDEX[fault.flag])
            return
        was_pressed = self.faults.pressed
        self.faults.switch(fault, self.world.time)
        if isinstance(fault, Clear):
            self.world.external[:] = 0.0
        if self.faults.pressed and not was_pressed:
            self._end_motion(MoveStatus.EMERGENCY)
            self._mode = DriveMode.USER_STOPPED
        elif was_pressed and not self.faults.pressed and self._mode is DriveMode.USER_STOPPED:
            self._mode = DriveMode.IDLE

    def tick(self) -> None:
        """Commands in, one millisecond of physics, state out."""
        world, faults = self.world, self.faults
        if world.steps % _TCP_PERIOD == 0:
            for message in self._channel.messages():
                self._handle(message)
            if self._was_connected and not self._channel.connected:
                self._end_motion(None)
            self.counters.clients += self._channel.connected and not self._was_connected
            self._was_connected = self._channel.connected
        self._take_answer()
        if self._stop_at and world.steps >= self._stop_at:
            self._end_motion(MoveStatus.PREEMPTED)
        torque = self._torque()
        wrench = faults.wrench(world.time)
        if wrench is not None:
            world.external[:] = wrench
        world.advance(torque)
        self._fill(torque)
        if self._channel.connected:
            if faults.loses(world.steps, world.time):
                self.counters.lost_states += 1
            else:
                self._channel.publish(world.steps, self._packet.pack())
        self.gripper.tick()

    def _handle(self, message: WireMessage) -> None:
        try:
            command = Command(message.command)
        except ValueError:
            self._channel.drop()
            return
        match command:
            case Command.MOVE:
                self._start_motion(message)
            case Command.STOP_MOVE:
                self._channel.reply(message, 0)
                if self._motion is not None:
                    self._stop_at = self.world.steps + _STOP_STEPS
            case Command.SET_COLLISION_BEHAVIOR if len(message.payload) >= _COLLISION.size:
                values = np.array(_COLLISION.unpack_from(message.payload))
                # The "nominal" thresholds; those for phases of acceleration are not told apart
                # here.
                self._torque_limits, self._force_limits = (
                    values[14:28].reshape(2, 7),
                    values[40:52].reshape(2, 6),
                )
                self._channel.reply(message, 0)
            case Command.SET_LOAD if len(message.payload) >= 104:
                load = struct.unpack_from("<13d", message.payload)
                self.world.set_load(min(max(load[0], 0.0), 5.0))
                self._packet.m_load[:], self._packet.F_x_Cload[:], self._packet.I_load[:] = (
                    load[0],
                    load[1:4],
                    load[4:],
                )
                self._channel.reply(message, 0)
            case (
                Command.SET_JOINT_IMPEDANCE
                | Command.SET_CARTESIAN_IMPEDANCE
                | Command.SET_GUIDING_MODE
            ):
                self._channel.reply(message, 0)  # of controllers that are not part of the double
            case Command.ERROR_RECOVERY:
                self._recover(message)
            case Command.GET_MODEL:
                from franky_sim.urdf import FR3_URDF

                self._channel.reply(message, 0, FR3_URDF.encode("ascii"))
            case _:
                self._channel.reply(message, 1)

    def _start_motion(self, message: WireMessage) -> None:
        if self._mode is not DriveMode.IDLE or len(message.payload) < 8:
            self._channel.reply(message, MoveStatus.NOT_POSSIBLE)
            return
        controller, generator = struct.unpack_from("<II", message.payload)
        drive = (
            Drive.TORQUE
            if controller == _EXTERNAL_CONTROLLER
            else {0: Drive.POSITION, 1: Drive.VELOCITY}.get(generator)
        )
        if drive is None:
            self._channel.reply(message, MoveStatus.INVALID_ARGUMENT)
            return
        self._motion, self._drive, self._mode = message, drive, DriveMode.MOVE
        self._command = self._goal.copy() if drive is Drive.POSITION else np.zeros(7)
        self._answered, self._missed_in_row = False, 0
        self._packet.last_errors = bytes(len(FLAG_INDEX))
        self._packet.motion_generator_mode = {
            Drive.TORQUE: 5,
            Drive.POSITION: 1,
            Drive.VELOCITY: 2,
        }[drive]
        self._packet.controller_mode = controller
        self._channel.newest()  # answers to states of an earlier motion
        self.counters.motions += 1
        self._channel.reply(message, MoveStatus.STARTED)

    def _end_motion(self, status: MoveStatus | None) -> None:
        """Hold; tell the client why its motion is over, unless there is none any more."""
        self._goal = self._command.copy() if self._drive is Drive.POSITION else self.world.q.copy()
        motion, self._motion, self._stop_at = self._motion, None, 0
        if self._drive is not Drive.HOLD:
            self._drive = Drive.HOLD
            self._delayed.clear()
            self._packet.motion_generator_mode, self._packet.controller_mode = 0, 3
        if self._mode is DriveMode.MOVE:
            self._mode = DriveMode.IDLE
        if motion is not None and status is not None:
            self._channel.reply(motion, status)

    def _reflex(self, flag: int) -> None:
        flags = bytearray(self._packet.errors)
        flags[flag] = 1
        self._packet.errors = self._packet.last_errors = bytes(flags)
        self.counters.reflexes += 1
        self._mode = DriveMode.REFLEX
        self._end_motion(MoveStatus.REFLEX)

    def _recover(self, message: WireMessage) -> None:
        if self.faults.pressed:
            self._channel.reply(message, 1)  # not possible in this mode
        elif self.faults.refuse_recovery:
            self._channel.reply(message, 3)  # manual recovery required
        else:
            self._packet.errors = bytes(len(FLAG_INDEX))
            if self._mode is DriveMode.REFLEX:
                self._mode = DriveMode.IDLE
            self.counters.recoveries += 1
            self._channel.reply(message, 0)

    def _take_answer(self) -> None:
        """Take the client's answer to the last state; wait for it in lockstep, once the client has begun to answer."""
        if self._motion is None:
            return
        muted = self.faults.loses(self.world.steps, self.world.time)
        data = self._channel.newest()
        if (
            data is None
            and self._answered
            and not muted
            and self._patience
            and self._channel.wait(self._patience)
        ):
            data = self._channel.newest()
        if data is None or len(data) < _COMMAND.size:
            if (
                self._answered and not muted
            ):  # a state that was never sent cannot be answered: that fault is ours
                self.counters.missed += 1
                self._missed_in_row += 1
                if self._missed_in_row >= LOST_IN_A_ROW:
                    self._reflex(FLAG_INDEX["communication_constraints_violation"])
            return
        self.counters.answers += 1
        self._answered, self._missed_in_row = True, 0
        values = _COMMAND.unpack_from(data)
        if values[40] or values[48]:
            self._end_motion(MoveStatus.SUCCESS)
            return
        command = np.array(
            {Drive.TORQUE: values[41:48], Drive.POSITION: values[1:8]}.get(
                self._drive, values[8:15]
            )
        )
        if np.isfinite(command).all():
            self._command = command

    def _torque(self) -> np.ndarray:
        """Joint torques on top of gravity compensation, (7,) [Nm]."""
        world = self.world
        if self._drive is Drive.TORQUE:
            if not world.gap.control_delay:
                return self._command
            self._delayed.append(self._command)
            return (
                self._delayed.popleft()
                if len(self._delayed) > world.gap.control_delay
                else np.zeros(7)
            )
        if self._drive is Drive.VELOCITY:
            self._goal = world.q + STEP * self._command
            return 4 * _DAMPING * (self._command - world.dq)
        goal = self._command if self._drive is Drive.POSITION else self._goal
        return _STIFFNESS * (goal - world.q) - _DAMPING * world.dq

    def _fill(self, torque: np.ndarray) -> None:
        """Write the packet of the present state; stop by reflex where a collision threshold is passed."""
        packet, world = self._packet, self.world
        q, dq = world.q, world.dq
        pose = packet.O_T_EE.reshape(
            4, 4
        )  # column-major on the wire: rows here are columns of the matrix
        pose[:3, :3], pose[3, :3] = world.rotation.T, world.tool
        packet.O_T_EE_d[:] = packet.O_T_EE_c[:] = packet.O_T_EE
        packet.q[:] = packet.theta[:] = q
        packet.dq[:] = packet.dtheta[:] = dq
        if self._drive is Drive.POSITION:
            packet.dq_d[:] = (self._command - packet.q_d) / STEP
            packet.q_d[:] = self._command
        else:
            packet.q_d[:] = q if self._drive is not Drive.HOLD else self._goal
            packet.dq_d[:] = 0.0 if self._drive is Drive.HOLD else dq
        packet.elbow[:] = packet.elbow_d[:] = packet.elbow_c[:] = (
            q[2],
            1.0 if q[3] > 0.0 else -1.0,
        )
        packet.tau_J_d[:] = torque
        packet.tau_J[:] = torque + world.gravity_torque
        wrench = world.wrench
        packet.O_F_ext_hat_K[:] = wrench
        packet.K_F_ext_hat_K[:3], packet.K_F_ext_hat_K[3:] = (
            wrench[:3] @ world.rotation,
            wrench[3:] @ world.rotation,
        )
        packet.robot_mode = self._mode
        packet.success_rate += 0.01 * ((self._missed_in_row == 0) - packet.success_rate)
        if abs(wrench).max() > 0.1 or packet.tau_ext_hat_filtered.any():
            self._feel()

    def _feel(self) -> None:
        packet, size = self._packet, abs(self._packet.K_F_ext_hat_K)
        torque = self.world.external_torque()
        packet.tau_ext_hat_filtered[:] = torque
        packet.cartesian_contact[:], packet.cartesian_collision[:] = (
            size > self._force_limits[0],
            size > self._force_limits[1],
        )
        packet.joint_contact[:], packet.joint_collision[:] = (
            abs(torque) > self._torque_limits[0],
            abs(torque) > self._torque_limits[1],
        )
        if self._motion is not None:
            if packet.cartesian_collision.any():
                self._reflex(FLAG_INDEX["cartesian_reflex"])
            elif packet.joint_collision.any():
                self._reflex(FLAG_INDEX["joint_reflex"])

    @staticmethod
    def _first_packet() -> StatePacket:
        packet = StatePacket()
        identity = np.eye(4).reshape(-1)
        for name in ("O_T_EE", "EE_T_K", "NE_T_EE"):
            getattr(packet, name)[:] = identity
        turned = np.eye(4)  # the hand sits on the flange turned by -45 degrees
        turned[:2, :2] = np.array([[1.0, 1.0], [-1.0, 1.0]]) * np.sqrt(0.5)
        turned[2, 3] = TOOL_OFFSET
        packet.F_T_EE[:] = packet.F_T_NE[:] = turned.T.reshape(-1)
        packet.m_ee[:], packet.F_x_Cee[:] = 0.73, (-0.01, 0.0, 0.03)
        packet.I_ee[:] = (0.001, 0.0, 0.0, 0.0, 0.0025, 0.0, 0.0, 0.0, 0.0017)
        return packet


class Pace:
    """Keeps robot time at ``speed`` times wall time; what a stall has lost is not made up for in a burst.

    Args:
        speed: 1 is real time; 0 as fast as it goes.
    """

    _BEHIND = 0.02

    def __init__(self, speed: float) -> None:
        self._period = STEP / speed if speed > 0 else 0.0
        self._next = time.perf_counter()

    def wait(self) -> None:
        """Wait until the next step is due."""
        if not self._period:
            return
        now = time.perf_counter()
        self._next = max(self._next + self._period, now - self._BEHIND)
        if self._next > now + 5e-5:  # shorter sleeps take longer than they should
            time.sleep(self._next - now)
