"""What matters to physics in two folders of assets, side by side: the authored ones and, say, NVIDIA's own.

Only what a file itself says is compared, as metres, kilograms, radians: names of joints, their kind
and limits, names of links, their masses and the diagonals of their inertias.  Where a file leaves a
mass to the engine, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    """A body: mass [kg] and diagonal of its inertia [kg m^2]; ``None`` where the file leaves it to the engine."""

    mass: float | None
    inertia: tuple[float, float, float] | None


class AssetDifference(NamedTuple):
    """One difference, as texts."""

    thing: str
    what: str
    ours: str
    theirs: str


def describe(path: Path) -> tuple[dict[str, Joint], dict[str, Link]]:
    """Joints that move and links of a USD file, by name.

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
    metre, kilogram = (
        UsdGeom.GetStageMetersPerUnit(stage),
        UsdPhysics.GetStageKilogramsPerUnit(stage),
    )
    joints, links = {}, {}
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        name = prim.GetName()
        for kind, unit in (("revolute", math.pi / 180), ("prismatic", metre)):
            joint = (UsdPhysics.RevoluteJoint if kind == "revolute" else UsdPhysics.PrismaticJoint)(
                prim
            )
            if joint:
                joints[name] = Joint(
                    kind,
                    joint.GetLowerLimitAttr().Get() * unit,
                    joint.GetUpperLimitAttr().Get() * unit,
                )
        if prim.HasAPI(UsdPhysics.RigidBodyAPI):
            links[name] = _link(prim, metre, kilogram)
    return joints, links


def _link(prim: Usd.Prim, metre: float, kilogram: float) -> Link:
    from pxr import UsdPhysics

    said = UsdPhysics.MassAPI(prim)
    mass = said.GetMassAttr().Get() if said.GetMassAttr().HasAuthoredValue() else None
    inertia = (
        said.GetDiagonalInertiaAttr().Get()
        if said.GetDiagonalInertiaAttr().HasAuthoredValue()
        else None
    )
    # Zero is USD's word for "compute it".
    return Link(
        mass * kilogram if mass else None,
        tuple(float(value) * kilogram * metre**2 for value in inertia)
        if inertia and any(inertia)
        else None,
    )


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
    """What differs between the assets below two roots; a thing that the second one lacks is named, too.

    Raises:
        EnvironmentProblem: the second root has nothing of what is looked for.
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
        (joints, links), (other_joints, other_links) = (
            describe(ours / place),
            describe(theirs / place),
        )
        yield from _names(thing, "joint", joints, other_joints)
        yield from _names(thing, "link", links, other_links)
        for name in sorted(joints.keys() & other_joints.keys()):
            one, two = joints[name], other_joints[name]
            if (
                one.kind != two.kind
                or abs(one.low - two.low) > LIMIT_SLACK
                or abs(one.high - two.high) > LIMIT_SLACK
            ):
                yield AssetDifference(thing, f"limits of {name}", _limits(one), _limits(two))
        for name in sorted(links.keys() & other_links.keys()):
            one, two = links[name], other_links[name]
            if one.mass and two.mass and _apart(one.mass, two.mass):
                yield AssetDifference(
                    thing, f"mass of {name}", f"{one.mass:.4g} kg", f"{two.mass:.4g} kg"
                )
            if one.inertia and two.inertia and any(map(_apart, one.inertia, two.inertia)):
                yield AssetDifference(
                    thing,
                    f"inertia of {name}",
                    *(" ".join(f"{v:.3g}" for v in each.inertia or ()) for each in (one, two)),
                )


def _names(thing: str, kind: str, ours: dict, theirs: dict) -> Iterator[AssetDifference]:
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield AssetDifference(
            thing,
            f"{kind} {name}",
            *("there" if name in each else "missing" for each in (ours, theirs)),
        )


def _limits(joint: Joint) -> str:
    return f"{joint.kind}, {joint.low:.4f} to {joint.high:.4f}"


def _apart(one: float, two: float) -> bool:
    return abs(one - two) > SHARE_SLACK * max(abs(one), abs(two))
