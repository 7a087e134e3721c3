"""The Franka Panda.

Kinematics, joint limits, masses and inertia diagonals follow franka_ros's URDF (Apache-2.0); base
mass and finger inertias are estimates (ours).  Colliders are capsules and boxes (ours).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zprl.envs.isaac.usd.shapes import Box, Capsule, Colour, Vec3, collider_box, new_stage, paint

if TYPE_CHECKING:
    from pxr import Gf

PATH = "Isaac/IsaacLab/Robots/FrankaEmika/franka_panda.usda"
"""Path at which the stock configurations look for it, below the asset root."""
CLEAR = "clear_of_table"
"""Choice of the variant set ``Colliders``: without the capsule of link 1, which reaches 1 cm into
the table's edge and rubs there, so that the first joint stops short: the tool stays 8 mm beside its
target with PhysX, 22 mm with Newton (measured 5 cm from the start)."""


class Segment(NamedTuple):
    """One arm link and the revolute joint (about z) that carries it.

    Conventions are URDF's; units are SI's, angles in rad.
    """

    name: str
    origin: Vec3
    roll: float
    mass: float
    centre_of_mass: Vec3
    inertia: Vec3
    limits: tuple[float, float]
    effort: float


_H = math.pi / 2
ARM = (
    Segment(
        "panda_link1",
        (0, 0, 0.333),
        0,
        4.970684,
        (0.003875, 0.002081, -0.04762),
        (0.70337, 0.70661, 0.009117),
        (-2.8973, 2.8973),
        87,
    ),
    Segment(
        "panda_link2",
        (0, 0, 0),
        -_H,
        0.646926,
        (-0.003141, -0.02872, 0.003495),
        (0.007962, 0.02811, 0.025995),
        (-1.7628, 1.7628),
        87,
    ),
    Segment(
        "panda_link3",
        (0, -0.316, 0),
        _H,
        3.228604,
        (0.027518, 0.039252, -0.066502),
        (0.037242, 0.036155, 0.01083),
        (-2.8973, 2.8973),
        87,
    ),
    Segment(
        "panda_link4",
        (0.0825, 0, 0),
        _H,
        3.587895,
        (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.019552, 0.028323),
        (-3.0718, -0.0698),
        87,
    ),
    Segment(
        "panda_link5",
        (-0.0825, 0.384, 0),
        -_H,
        1.225946,
        (-0.011953, 0.041065, -0.038437),
        (0.035549, 0.029474, 0.008627),
        (-2.8973, 2.8973),
        12,
    ),
    Segment(
        "panda_link6",
        (0, 0, 0),
        _H,
        1.666555,
        (0.060149, -0.014117, -0.010517),
        (0.001964, 0.004354, 0.005433),
        (-0.0175, 3.7525),
        12,
    ),
    Segment(
        "panda_link7",
        (0.088, 0, 0),
        _H,
        0.735522,
        (0.010517, -0.004252, 0.061597),
        (0.012516, 0.010027, 0.004815),
        (-2.8973, 2.8973),
        12,
    ),
)
FINGERS = (("panda_leftfinger", 0.0), ("panda_rightfinger", math.pi))
"""Finger links and the yaw [rad] of their prismatic joints, which slide along y."""

CAPSULES: dict[str, tuple[Capsule, ...]] = {
    "panda_link0": (Capsule(0.07, 0.04, (-0.02, 0, 0.09)),),
    "panda_link1": (Capsule(0.06, 0.28, (0, 0, -0.19)),),
    "panda_link2": (Capsule(0.06, 0.12, (0, 0, 0)),),
    "panda_link3": (Capsule(0.06, 0.15, (0, 0, -0.145)),),
    "panda_link4": (Capsule(0.06, 0.12, (0, 0, 0)),),
    "panda_link5": (Capsule(0.06, 0.10, (0, 0, -0.26)),),
    "panda_link6": (Capsule(0.05, 0.08, (0, 0, -0.03)),),
    "panda_link7": (Capsule(0.04, 0.06, (0, 0, 0.02)),),
}
"""Colliders of the arm: link name to capsules in the link's frame."""

BOXES: dict[str, tuple[Box, ...]] = {
    "panda_hand": (Box((0.04, 0.20, 0.06), (0, 0, 0.035)),),
    "panda_leftfinger": (
        Box((0.0175, 0.0152, 0.0185), (0, 0.0076, 0.04525)),
        Box((0.02, 0.012, 0.03), (0, 0.014, 0.018)),
    ),
    "panda_rightfinger": (
        Box((0.0175, 0.0152, 0.0185), (0, -0.0076, 0.04525)),
        Box((0.02, 0.012, 0.03), (0, -0.014, 0.018)),
    ),
}
"""Colliders of the hand: link name to boxes in the link's frame."""

SHELL: Colour = (0.84, 0.84, 0.83)
JOINT: Colour = (0.16, 0.18, 0.21)
COLOURS: dict[str, Colour] = {
    # A capsule that lies along a hinge is dark: it reads as a joint.
    **{
        name: JOINT if name in ("panda_link2", "panda_link4", "panda_link6") else SHELL
        for name in CAPSULES
    },
    "panda_hand": (0.24, 0.26, 0.30),
    "panda_leftfinger": (0.08, 0.09, 0.10),
    "panda_rightfinger": (0.08, 0.09, 0.10),
}


def author(root: Path) -> None:
    """Write the robot below the asset root."""
    _Panda(root / PATH).author()


def _quat(*, roll: float = 0.0, yaw: float = 0.0) -> Gf.Quatf:
    from pxr import Gf

    x_turn = Gf.Rotation(Gf.Vec3d(1, 0, 0), math.degrees(roll))
    return Gf.Quatf((x_turn * Gf.Rotation(Gf.Vec3d(0, 0, 1), math.degrees(yaw))).GetQuat())


class _Panda:
    """Writer of the robot: links nested below Geometry as NVIDIA has them, joints below Physics."""

    def __init__(self, path: Path) -> None:
        from pxr import UsdGeom, UsdPhysics

        self.stage, self.top = new_stage(path, "/panda")
        UsdPhysics.ArticulationRootAPI.Apply(self.top)
        UsdGeom.Scope.Define(self.stage, "/panda/Geometry")
        UsdGeom.Scope.Define(self.stage, "/panda/Physics")
        self.where: dict[str, str] = {}

    def author(self) -> None:
        base = Segment(
            "panda_link0",
            (0, 0, 0),
            0,
            2.8,
            (-0.041, 0, 0.05),
            (0.00315, 0.00388, 0.004285),
            (0, 0),
            0,
        )
        self._link(base, None, _quat())
        self._joint("Fixed", "root_joint", None, base.name, base.origin, _quat())
        wrist = self._author_arm(base.name)
        self._author_hand(wrist)
        self._author_variants()
        self.stage.Save()

    def _author_arm(self, parent: str) -> str:
        """Write the links from the base on; return the last one's name."""
        for number, part in enumerate(ARM, 1):
            turn = _quat(roll=part.roll)
            self._link(part, parent, turn)
            joint = self._joint(
                "Revolute", f"panda_joint{number}", parent, part.name, part.origin, turn
            )
            self._drive(joint, "Z", part.limits, part.effort, 400, 80, angular=True)
            parent = part.name
        return parent

    def _author_hand(self, parent: str) -> None:
        hand = Segment(
            "panda_hand",
            (0, 0, 0.107),
            0,
            0.73,
            (-0.01, 0, 0.03),
            (0.001, 0.0025, 0.0017),
            (0, 0),
            0,
        )
        turn = _quat(yaw=-math.pi / 4)
        self._link(hand, parent, turn)
        self._joint("Fixed", "panda_hand_joint", parent, hand.name, hand.origin, turn)

        for number, (name, yaw) in enumerate(FINGERS, 1):
            finger = Segment(
                name, (0, 0, 0.0584), 0, 0.015, (0, 0, 0), (1e-5, 1e-5, 1e-5), (0, 0.04), 200
            )
            self._link(finger, hand.name, _quat())
            joint_name, turn = f"panda_finger_joint{number}", _quat(yaw=yaw)
            joint = self._joint("Prismatic", joint_name, hand.name, name, finger.origin, turn, turn)
            self._drive(joint, "Y", finger.limits, finger.effort, 2000, 100, angular=False)

    def _author_variants(self) -> None:
        """Write the variants that Isaac Lab's configuration selects by name; all but ours empty."""
        for name, choices in (
            ("Physics", ("physx", "mujoco")),
            ("Colliders", ("primitives", "gripper_only", CLEAR)),
        ):
            variants = self.top.GetVariantSets().AddVariantSet(name)
            for choice in choices:
                variants.AddVariant(choice)

            if CLEAR in choices:
                variants.SetVariantSelection(CLEAR)
                capsule = f"{self.where['panda_link1']}/capsule_0"
                with variants.GetVariantEditContext():
                    self.stage.OverridePrim(capsule).SetActive(False)
            variants.SetVariantSelection(choices[0])

    def _link(self, part: Segment, parent: str | None, rotation: Gf.Quatf) -> None:
        from pxr import Gf, UsdGeom, UsdPhysics

        path = f"{self.where[parent] if parent else '/panda/Geometry'}/{part.name}"
        self.where[part.name] = path
        body = UsdGeom.Xform.Define(self.stage, path)
        body.AddTranslateOp().Set(Gf.Vec3d(*part.origin))
        body.AddOrientOp().Set(rotation)

        UsdPhysics.RigidBodyAPI.Apply(body.GetPrim())
        props = UsdPhysics.MassAPI.Apply(body.GetPrim())
        props.CreateMassAttr(part.mass)
        props.CreateCenterOfMassAttr(Gf.Vec3f(*part.centre_of_mass))
        props.CreateDiagonalInertiaAttr(Gf.Vec3f(*part.inertia))
        props.CreatePrincipalAxesAttr(Gf.Quatf(1))

        for number, shape in enumerate(CAPSULES.get(part.name, ())):
            capsule = UsdGeom.Capsule.Define(self.stage, f"{path}/capsule_{number}")
            capsule.CreateRadiusAttr(shape.radius)
            capsule.CreateHeightAttr(shape.height)
            capsule.CreateAxisAttr("Z")
            capsule.AddTranslateOp().Set(Gf.Vec3d(*shape.centre))
            UsdPhysics.CollisionAPI.Apply(capsule.GetPrim())
            paint(capsule, COLOURS[part.name])
        for number, box in enumerate(BOXES.get(part.name, ())):
            paint(collider_box(self.stage, f"{path}/box_{number}", box), COLOURS[part.name])

    def _joint(
        self,
        kind: str,
        name: str,
        parent: str | None,
        child: str,
        origin: Vec3,
        turn: Gf.Quatf,
        turn1: Gf.Quatf | None = None,
    ) -> Any:
        """Write a joint of a ``kind`` of UsdPhysics; ``turn1`` is its rotation in the child."""
        from pxr import Gf, UsdPhysics

        joint = getattr(UsdPhysics, f"{kind}Joint").Define(self.stage, f"/panda/Physics/{name}")
        if parent:
            joint.CreateBody0Rel().SetTargets([self.where[parent]])
        joint.CreateBody1Rel().SetTargets([self.where[child]])
        joint.CreateLocalPos0Attr(Gf.Vec3f(*origin))
        joint.CreateLocalRot0Attr(turn)
        joint.CreateLocalPos1Attr(Gf.Vec3f(0))
        joint.CreateLocalRot1Attr(turn1 or Gf.Quatf(1))
        return joint

    @staticmethod
    def _drive(
        joint: Any,
        axis: str,
        limits: tuple[float, float],
        effort: float,
        kp: float,
        kd: float,
        *,
        angular: bool,
    ) -> None:
        from pxr import UsdPhysics

        unit = 180.0 / math.pi if angular else 1.0  # USD writes angles in degrees
        joint.CreateAxisAttr(axis)
        joint.CreateLowerLimitAttr(limits[0] * unit)
        joint.CreateUpperLimitAttr(limits[1] * unit)
        drive = UsdPhysics.DriveAPI.Apply(joint.GetPrim(), "angular" if angular else "linear")
        drive.CreateTypeAttr("force")
        drive.CreateMaxForceAttr(effort)
        drive.CreateStiffnessAttr(kp / unit)
        drive.CreateDampingAttr(kd / unit)
