"""A low cabinet with a drawer that slides out towards the robot, and a fin on its front to pull.

The cabinet's frame stands on the floor of the box, in the middle of its front: x points into the
cabinet, z up.  Sizes are ours: the fin fits a Panda's open hand from above, and the drawer comes
out as far as the arm can draw it with the tool down.
"""

from __future__ import annotations

import math
from pathlib import Path

from zprl.envs.isaac.usd.shapes import Box, Colour, collider_box, new_stage, paint

PATH = "zprl/cabinet.usd"
"""Path of the file below the asset root."""
TRAVEL = 0.24
"""Farthest opening of the drawer [m]."""
_WIDTH, _DEPTH, _HEIGHT, _WALL = 0.36, 0.26, 0.20, 0.015

FIN = Box((0.08, 0.02, 0.06), (-0.04, 0.0, 0.11))
"""The handle: thin along y, so that a hand from above grips it with fingers that close along y."""
HANDLE = (-0.055, 0.0, 0.11)
"""Point at which the handle is gripped, in the drawer's frame [m] (the cabinet's while the drawer
is shut)."""
BOXES: dict[str, tuple[Box, ...]] = {
    "cabinet_frame": (
        Box((_DEPTH, _WIDTH, _WALL), (_DEPTH / 2, 0, _HEIGHT - _WALL / 2)),
        Box((_DEPTH, _WIDTH, _WALL), (_DEPTH / 2, 0, _WALL / 2)),
        Box((_DEPTH, _WALL, _HEIGHT), (_DEPTH / 2, (_WIDTH - _WALL) / 2, _HEIGHT / 2)),
        Box((_DEPTH, _WALL, _HEIGHT), (_DEPTH / 2, (_WALL - _WIDTH) / 2, _HEIGHT / 2)),
        Box((_WALL, _WIDTH, _HEIGHT), (_DEPTH - _WALL / 2, 0, _HEIGHT / 2)),
    ),
    "cabinet_drawer": (
        Box((_WALL, _WIDTH - 0.05, _HEIGHT - 0.05), (_WALL / 2, 0, _HEIGHT / 2)),
        Box((_DEPTH - 0.03, _WIDTH - 0.05, _WALL), ((_DEPTH - 0.03) / 2, 0, 0.035)),
        FIN,
    ),
}
"""Colliders: link name to boxes in the link's frame; the two frames coincide while the drawer is
shut."""
COLOURS: dict[str, Colour] = {
    "cabinet_frame": (0.45, 0.30, 0.16),
    "cabinet_drawer": (0.62, 0.45, 0.27),
}
_MASSES = {"cabinet_frame": 5.0, "cabinet_drawer": 0.8}


def author(root: Path) -> None:
    """Write the cabinet below the asset root.

    Its joint ``drawer_joint`` is 0 when shut and positive when open.
    """
    from pxr import Gf, UsdGeom, UsdPhysics

    stage, top = new_stage(root / PATH, "/cabinet")
    UsdPhysics.ArticulationRootAPI.Apply(top)
    for link, boxes in BOXES.items():
        body = UsdGeom.Xform.Define(stage, f"/cabinet/{link}").GetPrim()
        UsdPhysics.RigidBodyAPI.Apply(body)
        UsdPhysics.MassAPI.Apply(body).CreateMassAttr(_MASSES[link])
        for number, box in enumerate(boxes):
            paint(collider_box(stage, f"/cabinet/{link}/box_{number}", box), COLOURS[link])

    fixed = UsdPhysics.FixedJoint.Define(stage, "/cabinet/root_joint")
    fixed.CreateBody1Rel().SetTargets(["/cabinet/cabinet_frame"])
    slide = UsdPhysics.PrismaticJoint.Define(stage, "/cabinet/drawer_joint")
    slide.CreateBody0Rel().SetTargets(["/cabinet/cabinet_frame"])
    slide.CreateBody1Rel().SetTargets(["/cabinet/cabinet_drawer"])

    # Half a turn about z on both sides: the joint's x axis points out of the cabinet.
    turn = Gf.Quatf(math.cos(math.pi / 2), Gf.Vec3f(0, 0, math.sin(math.pi / 2)))
    for joint in (fixed, slide):
        joint.CreateLocalPos0Attr(Gf.Vec3f(0))
        joint.CreateLocalPos1Attr(Gf.Vec3f(0))
        joint.CreateLocalRot0Attr(turn if joint is slide else Gf.Quatf(1))
        joint.CreateLocalRot1Attr(turn if joint is slide else Gf.Quatf(1))

    slide.CreateAxisAttr("X")
    slide.CreateLowerLimitAttr(0.0)
    slide.CreateUpperLimitAttr(TRAVEL)
    drive = UsdPhysics.DriveAPI.Apply(slide.GetPrim(), "linear")
    drive.CreateTypeAttr("force")
    drive.CreateStiffnessAttr(0.0)
    drive.CreateDampingAttr(5.0)
    stage.Save()
