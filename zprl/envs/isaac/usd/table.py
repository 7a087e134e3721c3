"""Ground plane, table and cube."""

from __future__ import annotations

import math
from pathlib import Path

from zprl.envs.isaac.usd.shapes import Box, Colour, collider_box, new_stage, paint

GROUND_PATH = (
    "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
)
TABLE_PATH = "Isaac/Props/Mounts/SeattleLabTable/table_instanceable.usd"
CUBE_PATH = "Isaac/Props/Blocks/DexCube/dex_cube_instanceable.usd"
"""Paths at which the stock configurations look for them, below the asset root."""

TABLE = Box((1.2, 0.9, 1.0), (0, 0, -0.5))
"""The table about its own origin; its top face is z = 0."""
TABLE_POSE: tuple[float, ...] = (0.5, 0.0, 0.0, 0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))
"""Pose of the table in the environment's frame, position and quaternion xyzw (Isaac Lab's lift
task)."""
CUBE_EDGE = 0.048
"""Edge of the cube [m]: the task scales its asset, authored at 0.06 m, by 0.8."""
CUBE_SCALE = 0.8
LOOK = "Look"
"""The cube's variant set with its colours ``cube`` and ``lower``, so that two cubes differ in
images."""
_CUBE_MASS = 0.1
BOXES: dict[str, tuple[Box, ...]] = {"lower": (Box((CUBE_EDGE, CUBE_EDGE, CUBE_EDGE), (0, 0, 0)),)}
"""The second cube, where there are two; images know the first one by its own name."""
COLOURS: dict[str, Colour] = {
    "cube": (0.95, 0.22, 0.03),
    "lower": (0.05, 0.25, 0.80),
    "table": (0.075, 0.115, 0.165),
}
_GROUND: Colour = (0.30, 0.31, 0.33)


def author(root: Path) -> None:
    """Write the three files below the asset root."""
    _author_ground(root / GROUND_PATH)
    _author_table(root / TABLE_PATH)
    _author_cube(root / CUBE_PATH)


def _author_ground(path: Path) -> None:
    """Write the prims that Isaac Lab's ``spawn_ground_plane`` looks for.

    They are a Plane collider, an Environment mesh and a tintable shader.
    """
    from pxr import Gf, Sdf, UsdGeom, UsdPhysics, UsdShade

    stage, _ = new_stage(path, "/GroundPlane")
    UsdGeom.Xform.Define(stage, "/GroundPlane/Environment").AddScaleOp().Set(Gf.Vec3f(1))
    mesh = UsdGeom.Mesh.Define(stage, "/GroundPlane/Environment/Geometry")
    mesh.CreatePointsAttr([(-50, -50, 0), (50, -50, 0), (50, 50, 0), (-50, 50, 0)])
    mesh.CreateFaceVertexCountsAttr([4])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3])
    paint(mesh, _GROUND)
    textures = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, "varying"
    )
    textures.Set([(0, 0), (1, 0), (1, 1), (0, 1)])

    plane = UsdGeom.Plane.Define(stage, "/GroundPlane/CollisionPlane")
    plane.CreateAxisAttr("Z")
    plane.CreatePurposeAttr("guide")
    UsdPhysics.CollisionAPI.Apply(plane.GetPrim())

    UsdShade.Material.Define(stage, "/GroundPlane/Looks/theGrid")
    shader = UsdShade.Shader.Define(stage, "/GroundPlane/Looks/theGrid/Shader")
    shader.CreateIdAttr("UsdPreviewSurface")
    shader.CreateInput("diffuse_tint", Sdf.ValueTypeNames.Color3f).Set(Gf.Vec3f(0.5))
    stage.Save()


def _author_table(path: Path) -> None:
    stage, _ = new_stage(path, "/Table")
    paint(collider_box(stage, "/Table/top", TABLE), COLOURS["table"])
    stage.Save()


def _author_cube(path: Path) -> None:
    from pxr import UsdPhysics

    stage, top = new_stage(path, "/DexCube")
    UsdPhysics.RigidBodyAPI.Apply(top)
    UsdPhysics.MassAPI.Apply(top).CreateMassAttr(_CUBE_MASS)
    edge = CUBE_EDGE / CUBE_SCALE
    cube = collider_box(stage, "/DexCube/collisions", Box((edge, edge, edge), (0, 0, 0)))
    looks = top.GetVariantSets().AddVariantSet(LOOK)
    for name in ("lower", "cube"):
        looks.AddVariant(name)
        looks.SetVariantSelection(name)
        with looks.GetVariantEditContext():
            paint(cube, COLOURS[name])
    stage.Save()
