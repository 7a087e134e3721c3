"""Authored assets against others: here the same ones, changed at known places."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from zprl.envs.isaac import assets
from zprl.envs.isaac.usd import compare, panda, table
from zprl.errors import EnvironmentProblem

pytest.importorskip("pxr")


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    ours = assets.ensure(tmp_path / "cache")
    shutil.copytree(ours, tmp_path / "theirs")
    return ours, tmp_path / "theirs"


def test_the_robot_is_read_as_it_was_written(roots: tuple[Path, Path]) -> None:
    joints, links = compare.describe(roots[0] / panda.PATH)
    assert set(joints) == {
        *(f"panda_joint{i}" for i in range(1, 8)),
        "panda_finger_joint1",
        "panda_finger_joint2",
    }
    for number, part in enumerate(panda.ARM, 1):
        joint, link = joints[f"panda_joint{number}"], links[part.name]
        assert joint.kind == "revolute"
        assert (joint.low, joint.high) == pytest.approx(part.limits, abs=1e-5)
        assert (link.mass, link.inertia) == (pytest.approx(part.mass), pytest.approx(part.inertia))
    assert joints["panda_finger_joint1"] == ("prismatic", 0.0, pytest.approx(0.04))
    assert len(links) == 1 + 7 + 1 + 2


def test_equal_assets_do_not_differ(roots: tuple[Path, Path]) -> None:
    assert list(compare.differences(*roots)) == []


def test_what_was_changed_is_found_and_nothing_else(roots: tuple[Path, Path]) -> None:
    from pxr import Gf, Usd, UsdGeom, UsdPhysics

    stage = Usd.Stage.Open(str(roots[1] / panda.PATH))
    for prim in list(stage.Traverse()):
        if prim.GetName() == "panda_joint4":
            UsdPhysics.RevoluteJoint(prim).GetUpperLimitAttr().Set(math.degrees(-0.05))
        elif prim.GetName() == "panda_link5":
            UsdPhysics.MassAPI(prim).GetMassAttr().Set(1.3)
        elif prim.GetName() == "panda_hand":
            UsdPhysics.MassAPI(prim).GetDiagonalInertiaAttr().Set(Gf.Vec3f(0.002, 0.0025, 0.0017))
        elif prim.GetName() == "panda_link6":
            UsdPhysics.MassAPI(prim).GetMassAttr().Set(1.67)  # 0.2 %: rounding
    stage.RemovePrim("/panda/Physics/panda_finger_joint2")
    stage.Save()
    cube = Usd.Stage.Open(str(roots[1] / table.CUBE_PATH))
    UsdGeom.SetStageMetersPerUnit(cube, 0.01)
    UsdPhysics.SetStageKilogramsPerUnit(cube, 0.001)
    for prim in cube.Traverse():
        if prim.HasAPI(UsdPhysics.MassAPI):
            UsdPhysics.MassAPI(prim).GetMassAttr().Set(100.0)  # grams now: the same cube
    cube.Save()
    (roots[1] / table.TABLE_PATH).unlink()
    found = {
        (each.thing, each.what): (each.ours, each.theirs) for each in compare.differences(*roots)
    }
    assert found == {
        ("robot", "joint panda_finger_joint2"): ("there", "missing"),
        ("robot", "limits of panda_joint4"): (
            "revolute, -3.0718 to -0.0698",
            "revolute, -3.0718 to -0.0500",
        ),
        ("robot", "mass of panda_link5"): ("1.226 kg", "1.3 kg"),
        ("robot", "inertia of panda_hand"): ("0.001 0.0025 0.0017", "0.002 0.0025 0.0017"),
        ("table", "file"): (table.TABLE_PATH, "missing"),
    }


def test_a_folder_of_something_else_is_refused(roots: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="has none of the assets"):
        list(compare.differences(roots[0], tmp_path))
    (roots[1] / panda.PATH).write_text("no USD")
    with pytest.raises(EnvironmentProblem, match="is not a USD file"):
        list(compare.differences(*roots))
