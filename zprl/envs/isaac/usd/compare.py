"""Comparison of two folders of assets by what matters to physics: the authored and NVIDIA's own.

Only what a file itself says is compared, as metres, kilograms, radians: names of joints, their kind
and limits, names of links, their masses and the diagonals of their inertias.  Where a file leaves a
mass to the engine, nothing is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zprl.envs.isaac.usd import cabinet, panda, table
from zprl.errors import EnvironmentProblem

if TYPE_CHECKING:
    from pxr import Usd

THINGS = {
    "robot": panda.PATH,
    "table": table.TABLE_PATH,
    "cube": table.CUBE_PATH,
    "cabinet": cabinet.PATH,
}
LIMIT_SLACK = 0.005
"""Limits that differ by less are the same [rad or m]."""
SHARE_SLACK = 0.02
"""Masses and inertias that differ by a smaller share are the same."""


class Joint(NamedTuple):
    """A joint that moves: kind, and its limits [rad or m]."""

    kind: str
    low: float
    high: float


class Link(NamedTuple):
    """A body; ``None`` stands where the file leaves a value to the engine.

    Attributes:
        mass: [kg].
        inertia: Diagonal of the inertia [kg m^2].
    """

    mass: float | None
    inertia: tuple[float, float, float] | None


class AssetDifference(NamedTuple):
    """One difference, as texts."""

    thing: str
    what: str
    ours: str
    theirs: str


def describe(path: Path) -> tuple[dict[str, Joint], dict[str, Link]]:
    """Return the joints that move and the links of a USD file, by name.

    Raises:
        EnvironmentProblem: it cannot be opened.
    """
    from pxr import Tf, Usd, UsdGeom, UsdPhysics

    try:
        stage = Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        raise EnvironmentProblem(
            f"{path} is not a USD file", remedy="point at the folder that holds `Isaac/`"
        ) from error

    metre = UsdGeom.GetStageMetersPerUnit(stage)
    kilogram = UsdPhysics.GetStageKilogramsPerUnit(stage)
    kinds = (
        ("revolute", UsdPhysics.RevoluteJoint, math.pi / 180),  # USD writes angles in degrees
        ("prismatic", UsdPhysics.PrismaticJoint, metre),
    )

    joints, links = {}, {}
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        name = prim.GetName()
        for kind, schema, unit in kinds:
            if joint := schema(prim):
                low, high = joint.GetLowerLimitAttr().Get(), joint.GetUpperLimitAttr().Get()
                joints[name] = Joint(kind, low * unit, high * unit)
        if prim.HasAPI(UsdPhysics.RigidBodyAPI):
            links[name] = _link(prim, metre, kilogram)
    return joints, links


def _link(prim: Usd.Prim, metre: float, kilogram: float) -> Link:
    from pxr import UsdPhysics

    attributes = UsdPhysics.MassAPI(prim)
    mass, inertia = (
        attribute.Get() if attribute.HasAuthoredValue() else None
        for attribute in (attributes.GetMassAttr(), attributes.GetDiagonalInertiaAttr())
    )

    # Zero is USD's word for "compute it".
    mass = mass * kilogram if mass else None
    if not inertia or not any(inertia):
        return Link(mass, None)
    x, y, z = (float(value) * kilogram * metre**2 for value in inertia)
    return Link(mass, (x, y, z))


def check_robot(path: Path) -> None:
    """Refuse a robot that is not driven by the same joints or lacks a link.

    Raises:
        EnvironmentProblem: something is missing, or there is no such file.
    """
    if not path.is_file():
        raise EnvironmentProblem(
            f"an asset is missing: {path}",
            remedy="point ISAACSIM_ASSET_ROOT at the folder that holds `Isaac/`",
        )

    joints, links = describe(path)
    wanted = {
        *(f"panda_joint{i}" for i in range(1, 8)),
        "panda_finger_joint1",
        "panda_finger_joint2",
        *panda.CAPSULES,
        *panda.BOXES,
    }
    if missing := sorted(wanted - joints.keys() - links.keys()):
        raise EnvironmentProblem(
            f"{path} has no {missing[0]}", remedy="`zprl env assets ROOT` compares the two robots"
        )


def differences(ours: Path, theirs: Path) -> Iterator[AssetDifference]:
    """Yield the differences between the assets below two roots, missing things included.

    Raises:
        EnvironmentProblem: the second root has none of the assets.
    """
    if not any((theirs / place).is_file() for place in THINGS.values()):
        raise EnvironmentProblem(
            f"{theirs} has none of the assets",
            remedy=f"point at the folder that holds {panda.PATH}",
        )

    for thing, place in THINGS.items():
        if not (theirs / place).is_file():
            yield AssetDifference(thing, "file", place, "missing")
            continue

        joints, links = describe(ours / place)
        other_joints, other_links = describe(theirs / place)
        yield from _names(thing, "joint", joints.keys(), other_joints.keys())
        yield from _names(thing, "link", links.keys(), other_links.keys())
        for name in sorted(joints.keys() & other_joints.keys()):
            yield from _joint_differences(thing, name, joints[name], other_joints[name])
        for name in sorted(links.keys() & other_links.keys()):
            yield from _link_differences(thing, name, links[name], other_links[name])


def _names(thing: str, kind: str, ours: Set[str], theirs: Set[str]) -> Iterator[AssetDifference]:
    for name in sorted(ours ^ theirs):
        one, two = ("there" if name in each else "missing" for each in (ours, theirs))
        yield AssetDifference(thing, f"{kind} {name}", one, two)


def _joint_differences(thing: str, name: str, one: Joint, two: Joint) -> Iterator[AssetDifference]:
    apart = abs(one.low - two.low) > LIMIT_SLACK or abs(one.high - two.high) > LIMIT_SLACK
    if one.kind != two.kind or apart:
        yield AssetDifference(thing, f"limits of {name}", _limits(one), _limits(two))


def _link_differences(thing: str, name: str, one: Link, two: Link) -> Iterator[AssetDifference]:
    if one.mass and two.mass and _apart(one.mass, two.mass):
        masses = (f"{each:.4g} kg" for each in (one.mass, two.mass))
        yield AssetDifference(thing, f"mass of {name}", *masses)

    if one.inertia and two.inertia and any(map(_apart, one.inertia, two.inertia)):
        inertias = (" ".join(f"{v:.3g}" for v in each) for each in (one.inertia, two.inertia))
        yield AssetDifference(thing, f"inertia of {name}", *inertias)


def _limits(joint: Joint) -> str:
    return f"{joint.kind}, {joint.low:.4f} to {joint.high:.4f}"


def _apart(one: float, two: float) -> bool:
    return abs(one - two) > SHARE_SLACK * max(abs(one), abs(two))
