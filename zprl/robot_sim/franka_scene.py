"""The simulated Franka's world: an FR3 with its hand, a table top and a cube in MuJoCo.

The robot is franky-sim's, and the frame that of its base.

Lean on purpose, because one step per millisecond has to take a small part of one: visual meshes are
dropped, robot links do not collide with each other, and all arrays are views into MuJoCo's own
memory.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np

from zprl import seeding
from zprl.robot_sim.sim_gap import SimGap

HOME = (0.0, -0.569, 0.0, -2.810, 0.0, 3.037, 0.741)
"""Joint positions at which Isaac Lab's lift task starts [rad]."""
TOOL_OFFSET = 0.1034
"""Tool centre point in front of the hand's frame [m]; the same in Isaac's task and on the FR3's
wire."""
CUBE_CENTRE = (0.5, 0.0)
CUBE_SPREAD = (0.1, 0.25)
"""The cube starts at CUBE_CENTRE plus or minus this in x and y [m], as in the simulated lift
task."""
SUCCESS_HEIGHT = 0.15
SUCCESS_DISTANCE = 0.06
"""Lifted: the cube's centre is this high and this near to the tool [m], as in the simulated lift
task."""
MAX_OPENING = 0.08
FINGER_STIFFNESS = 5000.0
FINGER_DAMPING = 65.0
"""Of each finger's servo [N/m, Ns/m]: critical for the 0.21 kg that finger and drive appear to
have."""
TORQUE_LIMIT = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
STEP = 0.001
_WRENCH_TAU = 0.01
"""Time constant of the wrench estimate [s] (ours)."""
_FINGER_START = 0.02
"""Position of each finger at the start [m]."""
_GRIPPER_FORCE = 70.0
"""Force of each finger at the start [N]."""
_JOINTS = 7
_PREFIX = "robot0_"


def cube_start(seed: int, number: int, gap: SimGap) -> np.ndarray:
    """Return the cube's position (3,) [m] at the start of episode ``number``.

    It is a pure function of its arguments.
    """
    offset = seeding.numpy_generator(seed, "cube-start", number).uniform(-1.0, 1.0, 2)
    return np.array(
        [*(np.array(CUBE_CENTRE) + offset * CUBE_SPREAD), gap.table_height + gap.cube_edge / 2]
    )


def mjcf(gap: SimGap, home: tuple[float, ...] = HOME) -> str:
    """Return the scene as MJCF."""
    from franky_sim.mujoco_simulator import MujocoSimulator

    simulator = MujocoSimulator()
    simulator.add_robot(initial_q=home)
    scene = simulator.scene
    world = simulator.worldbody
    _strip(scene, world)

    option = _child(scene, "option")
    option.attrib.update({"timestep": str(STEP), "cone": "elliptic", "impratio": "10"})
    _child(_child(scene, "visual"), "quality").attrib.update({"shadowsize": "0", "offsamples": "0"})
    _add_table(world, gap)
    _add_cube(world, gap)
    return ET.tostring(scene, encoding="unicode")


def _strip(scene: ET.Element, world: ET.Element) -> None:
    """Remove what costs time: visual meshes, actuators, and collisions between links."""
    for section in ("actuator", "tendon"):  # torques and finger forces are applied directly
        scene.remove(_child(scene, section))
    world.remove(_child(world, "geom"))  # the ground plane: the table's takes its place
    for parent in list(scene.iter()):
        for geom in [g for g in parent.findall("geom") if g.get("class") == "visual"]:
            parent.remove(geom)

    used = {geom.get("mesh") for geom in scene.iter("geom")}
    asset = _child(scene, "asset")
    for mesh in [m for m in asset.findall("mesh") if m.get("name") not in used]:
        asset.remove(mesh)

    for geom in _child(world, "body").iter("geom"):
        # Touches the world (type 2) but not other links; the base stands in the table top.
        base = geom.get("name") == f"{_PREFIX}fr3_link0_collision"
        geom.set("contype", "0" if base else "1")
        geom.set("conaffinity", "0" if base else "2")


def _add_table(world: ET.Element, gap: SimGap) -> None:
    ET.SubElement(
        world,
        "geom",
        name="table",
        type="plane",
        size="0.6 0.6 0.1",
        pos=f"0.5 0 {gap.table_height}",
        rgba=".55 .5 .45 1",
        contype="2",
        conaffinity="3",
        friction="0.6 0.005 0.0001",
    )


def _add_cube(world: ET.Element, gap: SimGap) -> None:
    half = gap.cube_edge / 2
    cube = ET.SubElement(
        world,
        "body",
        name="cube",
        pos=f"{CUBE_CENTRE[0]} {CUBE_CENTRE[1]} {gap.table_height + gap.cube_edge / 2}",
    )
    ET.SubElement(cube, "freejoint", name="cube_joint")
    # priority: the cube's own friction counts, not the larger one of the two that touch
    ET.SubElement(
        cube,
        "geom",
        name="cube",
        type="box",
        size=f"{half} {half} {half}",
        mass=str(gap.cube_mass),
        friction=f"{gap.cube_friction} 0.005 0.0001",
        condim="4",
        priority="1",
        contype="2",
        conaffinity="3",
        rgba=".8 .25 .2 1",
    )


def _child(parent: ET.Element, tag: str) -> ET.Element:
    child = parent.find(tag)
    if child is None:
        raise AssertionError(f"franky-sim's scene has no <{tag}>")
    return child


class FrankaScene:
    """Arm, hand, table and cube; one :meth:`advance` is one millisecond.

    Attributes:
        q, dq: Joint positions [rad] and velocities [rad/s], (7,), views.
        wrench: Estimated external wrench on the robot at the tool, base frame, low-pass filtered,
            without gravity of the arm (a held object's weight counts), (6,) [N, Nm].  Forces on
            hand and fingers only.
        external: (6,) [N, Nm] a wrench at the tool, base frame, that acts on the robot besides;
            zero unless it is written.
    """

    def __init__(self, gap: SimGap, home: tuple[float, ...] = HOME) -> None:
        import mujoco

        self._mujoco = mujoco
        self.gap = gap
        self.model = model = mujoco.MjModel.from_xml_string(mjcf(gap, home))
        self.data = data = mujoco.MjData(model)
        self.steps = 0
        self._view_joints()
        self._view_hand()
        self._set_physics()

        self.tool = np.zeros(3)
        self.wrench = np.zeros(6)
        self.external = np.zeros(6)
        self._jacobian = np.zeros((6, model.nv))
        self._filter = 1.0 - np.exp(-STEP / _WRENCH_TAU)

        self.q[:] = home
        self._fingers[:] = _FINGER_START
        self.opening_goal = self._opening_reference = 2 * _FINGER_START
        self.gripper_speed = gap.gripper_speed
        self.gripper_force = _GRIPPER_FORCE

        mujoco.mj_setConst(model, data)  # masses were changed; it leaves qpos as it was
        self.q[:] = home
        self._fingers[:] = _FINGER_START
        mujoco.mj_step1(model, data)
        self._find_tool()

    def _view_joints(self) -> None:
        """Make views of the coordinates of arm, fingers and cube."""
        model, data = self.model, self.data
        arm = model.joint(_PREFIX + "fr3_joint1")
        finger = model.joint(_PREFIX + "finger_joint1")
        cube = model.joint("cube_joint")

        q, v = int(arm.qposadr[0]), int(arm.dofadr[0])
        self._arm = slice(v, v + _JOINTS)
        self.q = data.qpos[q : q + _JOINTS]
        self.dq = data.qvel[self._arm]
        self._torque = data.qfrc_applied[self._arm]
        self.gravity_torque = data.qfrc_gravcomp[self._arm]

        q, v = int(finger.qposadr[0]), int(finger.dofadr[0])
        self._fingers = data.qpos[q : q + 2]
        self._finger_speeds = data.qvel[v : v + 2]
        self._finger_force = data.qfrc_applied[v : v + 2]

        q, v = int(cube.qposadr[0]), int(cube.dofadr[0])
        self._cube_qpos = data.qpos[q : q + 7]
        self._cube_qvel = data.qvel[v : v + 6]

    def _view_hand(self) -> None:
        """Make views of the hand's pose and forces."""
        model, data = self.model, self.data
        hand = self._hand = model.body(_PREFIX + "hand").id
        fingers = [model.body(_PREFIX + name).id for name in ("left_finger", "right_finger")]
        self._hand_forces = data.cfrc_ext[min(hand, *fingers) : max(hand, *fingers) + 1]
        self._root_com = data.subtree_com[int(model.body_rootid[hand])]
        self._hand_position = data.xpos[hand]
        self.rotation = data.xmat[hand].reshape(3, 3)
        self._hand_com = data.xipos[hand]
        self._push = data.xfrc_applied[hand]

    def _set_physics(self) -> None:
        """Change friction, damping and masses as the gap demands."""
        model, gap = self.model, self.gap
        model.dof_frictionloss[self._arm] *= gap.joint_friction
        model.dof_damping[self._arm] *= gap.joint_damping

        # As the robot's firmware: torque commands come on top of gravity compensation for the mass
        # that it is set to carry.
        self._cube = model.body("cube").id
        robot = [b for b in range(1, model.nbody) if b != self._cube]
        model.body_gravcomp[robot] = 1.0
        self._hand_mass = float(model.body_mass[self._hand])
        model.body_mass[self._hand] = self._hand_mass + gap.payload_error
        self.set_load(0.0)

    @property
    def time(self) -> float:
        """Time since the start [s]."""
        return self.steps * STEP

    @property
    def opening(self) -> float:
        """Distance between the fingers [m]."""
        return float(self._fingers[0] + self._fingers[1])

    @property
    def tool_quaternion(self) -> np.ndarray:
        """Tool orientation, xyzw (4,)."""
        return _xyzw(self.data.xquat[self._hand])

    @property
    def cube(self) -> np.ndarray:
        """Cube pose: position and quaternion xyzw, (7,)."""
        return np.concatenate((self._cube_qpos[:3], _xyzw(self._cube_qpos[3:])))

    @property
    def lifted(self) -> bool:
        """True while the task is solved."""
        position = self._cube_qpos[:3]
        near = np.linalg.norm(position - self.tool) < SUCCESS_DISTANCE
        return bool(position[2] > SUCCESS_HEIGHT and near)

    def set_load(self, mass: float) -> None:
        """Compensate gravity for a load at the hand [kg].

        Its offset from the hand's own centre is ignored.
        """
        real = self._hand_mass + self.gap.payload_error
        self.model.body_gravcomp[self._hand] = (self._hand_mass + mass) / real

    def place_cube(self, position: np.ndarray) -> None:
        """Put the cube at rest at a position (3,), unturned."""
        self._cube_qpos[:3] = position
        self._cube_qpos[3:] = (1, 0, 0, 0)
        self._cube_qvel[:] = 0
        self._mujoco.mj_step1(self.model, self.data)

    def set_opening(self, opening: float, speed: float, force: float) -> None:
        """Drive the fingers: opening [m], its speed [m/s], force of each finger [N]."""
        self.opening_goal = min(max(opening, 0.0), MAX_OPENING)
        self.gripper_speed = min(max(speed, 1e-3), self.gap.gripper_speed)
        self.gripper_force = min(max(force, 1.0), 140.0)
        self._opening_reference = self.opening

    def advance(self, torque: np.ndarray) -> None:
        """Take one millisecond under joint torques (7,) [Nm] on top of gravity compensation."""
        np.minimum(torque, TORQUE_LIMIT, out=self._torque)
        np.maximum(self._torque, -TORQUE_LIMIT, out=self._torque)
        self._drive_fingers()
        self._push[:3] = self.external[:3]
        self._push[3:] = self.external[3:] + _cross(self.tool - self._hand_com, self.external[:3])

        mujoco, model, data = self._mujoco, self.model, self.data
        mujoco.mj_step2(model, data)
        # Contact forces of this step, before step1 makes new contacts.
        mujoco.mj_rnePostConstraint(model, data)
        total = self._hand_forces.sum(0)
        force = total[3:]
        moment = total[:3] + _cross(self._root_com - self.tool, force)
        self.wrench[:3] += self._filter * (force - self.wrench[:3])
        self.wrench[3:] += self._filter * (moment - self.wrench[3:])

        # Kinematics of the new state, so that what is sent is not a step old.
        mujoco.mj_step1(model, data)
        self._find_tool()
        self.steps += 1

    def external_torque(self) -> np.ndarray:
        """Return the joint torques of :attr:`wrench`, (7,) [Nm]."""
        self._mujoco.mj_jac(
            self.model, self.data, self._jacobian[:3], self._jacobian[3:], self.tool, self._hand
        )
        return self.wrench @ self._jacobian[:, self._arm]

    def bodies(self) -> dict[str, list[float]]:
        """Return the pose of every body by name: position and quaternion xyzw."""
        return {
            self.model.body(i).name.removeprefix(_PREFIX): [
                *self.data.xpos[i].tolist(),
                *_xyzw(self.data.xquat[i]).tolist(),
            ]
            for i in range(1, self.model.nbody)
        }

    def _find_tool(self) -> None:
        self.tool[:] = self._hand_position + TOOL_OFFSET * self.rotation[:, 2]

    def _drive_fingers(self) -> None:
        """Move a reference with the requested speed, and a force-limited servo after it."""
        reach = self.gripper_speed * STEP
        self._opening_reference += min(
            max(self.opening_goal - self._opening_reference, -reach), reach
        )
        limit = self.gripper_force
        for i in (0, 1):
            pull = (
                FINGER_STIFFNESS * (self._opening_reference / 2 - self._fingers[i])
                - FINGER_DAMPING * self._finger_speeds[i]
            )
            self._finger_force[i] = min(max(pull, -limit), limit)


def _xyzw(wxyz: np.ndarray) -> np.ndarray:
    return np.array((wxyz[1], wxyz[2], wxyz[3], wxyz[0]))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of two (3,), in a twentieth of the time of numpy's own."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))
