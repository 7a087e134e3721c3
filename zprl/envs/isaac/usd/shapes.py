"""Primitive shapes, and how a USD file with such colliders begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pxr import Usd, UsdGeom

Vec3 = tuple[float, float, float]
Colour = tuple[float, float, float]
"""Red, green and blue, linear, 0 to 1."""


class Capsule(NamedTuple):
    """A capsule along z of the link's frame.

    Attributes:
        radius: [m].
        height: Height of the cylinder between the caps [m].
        centre: [m].
    """

    radius: float
    height: float
    centre: Vec3


class Box(NamedTuple):
    """A box aligned with the link's frame: edge lengths [m], centre [m]."""

    size: Vec3
    centre: Vec3


def new_stage(path: Path, prim: str) -> tuple[Usd.Stage, Usd.Prim]:
    """Begin a file (z up, metres, kilograms) with ``prim`` as its default prim.

    Returns:
        The stage and that prim.
    """
    from pxr import Usd, UsdGeom, UsdPhysics

    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    top = UsdGeom.Xform.Define(stage, prim).GetPrim()
    stage.SetDefaultPrim(top)
    return stage, top


def paint(shape: UsdGeom.Gprim, colour: Colour) -> None:
    """Give a shape the colour that every renderer falls back on where there is no material."""
    from pxr import Gf

    shape.CreateDisplayColorAttr([Gf.Vec3f(*colour)])


def collider_box(stage: Usd.Stage, path: str, box: Box) -> UsdGeom.Gprim:
    """Write a box that things collide with."""
    from pxr import Gf, UsdGeom, UsdPhysics

    cube = UsdGeom.Cube.Define(stage, path)
    cube.CreateSizeAttr(1.0)
    cube.AddTranslateOp().Set(Gf.Vec3d(*box.centre))
    cube.AddScaleOp().Set(Gf.Vec3f(*box.size))
    UsdPhysics.CollisionAPI.Apply(cube.GetPrim())
    return cube
