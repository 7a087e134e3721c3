"""A simulated Franka: libfranka's protocol in front of a :class:`FrankaScene`.

Kept from the real thing: state numbers are the robot's milliseconds, a command answers the state of
its number, a robot that gets no answer goes on with the last command and stops with
``communication_constraints_violation`` after 20 in a row, collision thresholds set by the client
abort a motion with a reflex, gravity is compensated for the load that the client states.

Different: while a client is in control, this server waits up to ``patience`` (wall clock) for the
answer to each state before it counts it as missed ("lockstep"), so that physics does not depend on
how busy the machine is.  Torque control and joint position and velocity motions are served;
Cartesian motion generators and changed tool frames are refused.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from dataclasses import dataclass

import numpy as np

from zprl.robot_sim.faults import Clear, Fault, Faults, Reflex
from zprl.robot_sim.franka_scene import STEP, TOOL_OFFSET, FrankaScene
from zprl.robot_sim.gripper_server import GripperServer
from zprl.robot_sim.libfranka_wire import Channel, WireMessage
from zprl.robot_sim.state_packet import FLAG_INDEX, StatePacket

PORT = 1337
_PROTOCOL = 10
LOST_IN_A_ROW = 20
"""Unanswered states after which the robot stops (libfranka's documentation)."""
_STIFFNESS = np.array([2000.0, 2000.0, 2000.0, 2000.0, 800.0, 800.0, 800.0])
_DAMPING = np.array([100.0, 100.0, 100.0, 100.0, 40.0, 40.0, 40.0])
"""Of the joint controller that holds the arm when nobody controls it [Nm/rad, Nms/rad] (ours)."""
_TCP_PERIOD = 2
"""TCP is read every so many steps, because a system call costs as much as a fifth of the
physics."""
_STOP_STEPS = 10
"""A stopped motion ends so many milliseconds after the stop was answered.  libfranka 0.21 reads
both answers in two threads and can lose one, and hang for ever, when they come together."""
_EXTERNAL_CONTROLLER = 2
_OTHER_CONTROLLER = 3
"""Numbers of controllers: the client's torques, and that of an arm without a motion."""
_GENERATORS = {0: "position", 1: "velocity"}
"""Motion generators that are served, by their number in MOVE."""
_LOAD = struct.Struct("<13d")
_HEAVIEST = 5.0
"""Largest load that is compensated [kg]."""
_SUCCESS_GAIN = 0.01
"""Weight of the newest answer in the reported success rate."""
_FEELS = 0.1
"""Wrench above which thresholds are compared [N, Nm]."""
_HOLDING_GAIN = 4
"""Damping of joint velocity motions, relative to that of holding."""
_OK, _NOT_POSSIBLE, _MANUAL_RECOVERY = 0, 1, 3
"""Answers to commands other than MOVE."""


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
    """Controller that turns commands into torques."""

    HOLD = "hold"
    TORQUE = "torque"
    POSITION = "position"
    VELOCITY = "velocity"


_GENERATOR_MODES = {Drive.TORQUE: 5, Drive.POSITION: 1, Drive.VELOCITY: 2}
"""Motion generators in the state packet."""


@dataclass
class Counters:
    """Numbers of events since the start."""

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
        world: Arm and objects that are moved.
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
        self._channel = Channel(host, PORT, _PROTOCOL, wide=True)
        self._patience = patience
        self._was_connected = False

        self._mode = DriveMode.IDLE
        self._drive = Drive.HOLD
        self._motion: WireMessage | None = None
        self._answered = False
        self._missed_in_row = 0
        self._stop_at = 0

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
        """Mode of the robot."""
        return self._mode

    @property
    def connected(self) -> bool:
        """True while a client gets states."""
        return self._channel.connected

    @property
    def moving(self) -> bool:
        """True while a client is in control."""
        return self._motion is not None

    def close(self) -> None:
        """Let go of all sockets."""
        self._channel.close()
        self.gripper.close()

    def inject(self, fault: Fault) -> None:
        """Begin or end a fault."""
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
        """Take commands, one millisecond of physics, and send the state."""
        world = self.world
        faults = self.faults
        if world.steps % _TCP_PERIOD == 0:
            self._read_commands()
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

    def _read_commands(self) -> None:
        for message in self._channel.messages():
            self._handle(message)
        if self._was_connected and not self._channel.connected:
            self._end_motion(None)
        self.counters.clients += self._channel.connected and not self._was_connected
        self._was_connected = self._channel.connected

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
                self._channel.reply(message, _OK)
                if self._motion is not None:
                    self._stop_at = self.world.steps + _STOP_STEPS
            case Command.SET_COLLISION_BEHAVIOR if len(message.payload) >= _COLLISION.size:
                values = np.array(_COLLISION.unpack_from(message.payload))
                # The "nominal" thresholds; those of acceleration phases are not distinguished.
                self._torque_limits = values[14:28].reshape(2, 7)
                self._force_limits = values[40:52].reshape(2, 6)
                self._channel.reply(message, _OK)
            case Command.SET_LOAD if len(message.payload) >= _LOAD.size:
                self._set_load(_LOAD.unpack_from(message.payload))
                self._channel.reply(message, _OK)
            case (
                Command.SET_JOINT_IMPEDANCE
                | Command.SET_CARTESIAN_IMPEDANCE
                | Command.SET_GUIDING_MODE
            ):
                self._channel.reply(message, _OK)  # of controllers that are not simulated
            case Command.ERROR_RECOVERY:
                self._recover(message)
            case Command.GET_MODEL:
                from franky_sim.urdf import FR3_URDF

                self._channel.reply(message, _OK, FR3_URDF.encode("ascii"))
            case _:
                self._channel.reply(message, _NOT_POSSIBLE)

    def _set_load(self, load: tuple[float, ...]) -> None:
        self.world.set_load(min(max(load[0], 0.0), _HEAVIEST))
        self._packet.m_load[:] = load[0]
        self._packet.F_x_Cload[:] = load[1:4]
        self._packet.I_load[:] = load[4:]

    def _start_motion(self, message: WireMessage) -> None:
        if self._mode is not DriveMode.IDLE or len(message.payload) < 8:
            self._channel.reply(message, MoveStatus.NOT_POSSIBLE)
            return

        controller, generator = struct.unpack_from("<II", message.payload)
        if controller == _EXTERNAL_CONTROLLER:
            drive = Drive.TORQUE
        elif generator in _GENERATORS:
            drive = Drive(_GENERATORS[generator])
        else:
            self._channel.reply(message, MoveStatus.INVALID_ARGUMENT)
            return

        self._motion = message
        self._drive = drive
        self._mode = DriveMode.MOVE
        self._command = self._goal.copy() if drive is Drive.POSITION else np.zeros(7)
        self._answered = False
        self._missed_in_row = 0

        self._packet.last_errors = bytes(len(FLAG_INDEX))
        self._packet.motion_generator_mode = _GENERATOR_MODES[drive]
        self._packet.controller_mode = controller
        self._channel.newest()  # answers to states of an earlier motion
        self.counters.motions += 1
        self._channel.reply(message, MoveStatus.STARTED)

    def _end_motion(self, status: MoveStatus | None) -> None:
        """Hold, and send the client the reason, unless it is gone."""
        self._goal = self._command.copy() if self._drive is Drive.POSITION else self.world.q.copy()
        motion, self._motion = self._motion, None
        self._stop_at = 0

        if self._drive is not Drive.HOLD:
            self._drive = Drive.HOLD
            self._delayed.clear()
            self._packet.motion_generator_mode = 0
            self._packet.controller_mode = _OTHER_CONTROLLER
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
            self._channel.reply(message, _NOT_POSSIBLE)
        elif self.faults.refuse_recovery:
            self._channel.reply(message, _MANUAL_RECOVERY)
        else:
            self._packet.errors = bytes(len(FLAG_INDEX))
            if self._mode is DriveMode.REFLEX:
                self._mode = DriveMode.IDLE
            self.counters.recoveries += 1
            self._channel.reply(message, _OK)

    def _take_answer(self) -> None:
        """Take the client's answer to the last state.

        In lockstep it waits for the answer, once the client has begun to answer.
        """
        if self._motion is None:
            return

        # A state that was never sent cannot be answered: that fault is ours.
        muted = self.faults.loses(self.world.steps, self.world.time)
        due = self._answered and not muted
        data = self._channel.newest()
        if data is None and due and self._patience and self._channel.wait(self._patience):
            data = self._channel.newest()
        if data is None or len(data) < _COMMAND.size:
            if due:
                self._miss()
            return

        self.counters.answers += 1
        self._answered = True
        self._missed_in_row = 0
        values = _COMMAND.unpack_from(data)
        motion_finished, torques_finished = values[40], values[48]
        if motion_finished or torques_finished:
            self._end_motion(MoveStatus.SUCCESS)
            return

        parts = {Drive.TORQUE: values[41:48], Drive.POSITION: values[1:8]}
        command = np.array(parts.get(self._drive, values[8:15]))
        if np.isfinite(command).all():
            self._command = command

    def _miss(self) -> None:
        """Count a missing answer; too many in a row are a reflex."""
        self.counters.missed += 1
        self._missed_in_row += 1
        if self._missed_in_row >= LOST_IN_A_ROW:
            self._reflex(FLAG_INDEX["communication_constraints_violation"])

    def _torque(self) -> np.ndarray:
        """Return the joint torques on top of gravity compensation, (7,) [Nm]."""
        world = self.world
        if self._drive is Drive.TORQUE:
            return self._delayed_torque()
        if self._drive is Drive.VELOCITY:
            self._goal = world.q + STEP * self._command
            braking: np.ndarray = _HOLDING_GAIN * _DAMPING * (self._command - world.dq)
            return braking

        goal = self._command if self._drive is Drive.POSITION else self._goal
        holding: np.ndarray = _STIFFNESS * (goal - world.q) - _DAMPING * world.dq
        return holding

    def _delayed_torque(self) -> np.ndarray:
        delay = self.world.gap.control_delay
        if not delay:
            return self._command
        self._delayed.append(self._command)
        return self._delayed.popleft() if len(self._delayed) > delay else np.zeros(7)

    def _fill(self, torque: np.ndarray) -> None:
        """Write the packet of the present state.

        Stop by reflex where a collision threshold is passed.
        """
        packet = self._packet
        world = self.world
        q = world.q
        dq = world.dq

        # Column-major on the wire: rows here are columns of the matrix.
        pose = packet.O_T_EE.reshape(4, 4)
        pose[:3, :3] = world.rotation.T
        pose[3, :3] = world.tool
        packet.O_T_EE_d[:] = packet.O_T_EE_c[:] = packet.O_T_EE
        packet.q[:] = packet.theta[:] = q
        packet.dq[:] = packet.dtheta[:] = dq
        if self._drive is Drive.POSITION:
            packet.dq_d[:] = (self._command - packet.q_d) / STEP
            packet.q_d[:] = self._command
        else:
            packet.q_d[:] = q if self._drive is not Drive.HOLD else self._goal
            packet.dq_d[:] = 0.0 if self._drive is Drive.HOLD else dq
        elbow = (q[2], 1.0 if q[3] > 0.0 else -1.0)
        packet.elbow[:] = packet.elbow_d[:] = packet.elbow_c[:] = elbow

        packet.tau_J_d[:] = torque
        packet.tau_J[:] = torque + world.gravity_torque
        wrench = world.wrench
        packet.O_F_ext_hat_K[:] = wrench
        packet.K_F_ext_hat_K[:3] = wrench[:3] @ world.rotation
        packet.K_F_ext_hat_K[3:] = wrench[3:] @ world.rotation
        packet.robot_mode = self._mode
        packet.success_rate += _SUCCESS_GAIN * ((self._missed_in_row == 0) - packet.success_rate)
        if abs(wrench).max() > _FEELS or packet.tau_ext_hat_filtered.any():
            self._feel()

    def _feel(self) -> None:
        """Compare wrench and joint torques with the thresholds of contact and collision."""
        packet = self._packet
        size = abs(packet.K_F_ext_hat_K)
        torque = self.world.external_torque()
        packet.tau_ext_hat_filtered[:] = torque

        contact, collision = self._force_limits
        packet.cartesian_contact[:] = size > contact
        packet.cartesian_collision[:] = size > collision
        contact, collision = self._torque_limits
        packet.joint_contact[:] = abs(torque) > contact
        packet.joint_collision[:] = abs(torque) > collision

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

        # Mass [kg], centre [m] and inertia [kg m^2] of the Franka Hand.
        packet.m_ee[:] = 0.73
        packet.F_x_Cee[:] = (-0.01, 0.0, 0.03)
        packet.I_ee[:] = (0.001, 0.0, 0.0, 0.0, 0.0025, 0.0, 0.0, 0.0, 0.0017)
        return packet
