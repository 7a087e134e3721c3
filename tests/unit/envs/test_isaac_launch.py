from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zprl.envs.isaac import assets, launch
from zprl.envs.isaac.usd import panda
from zprl.errors import EnvironmentProblem

pytestmark = pytest.mark.isaac
warp = pytest.importorskip("warp")
pytest.importorskip("pxr")


def test_isaac_lab_still_asks_for_pinned_memory():
    import importlib.util

    spec = importlib.util.find_spec("isaaclab_ov")
    assert spec is not None
    folder = Path(spec.submodule_search_locations[0])
    asking = [path for path in folder.rglob("*.py") if "pinned=True" in path.read_text()]
    assert asking, (
        "isaaclab_ov no longer asks for pinned memory: remove launch.allow_unpinned_memory and its callers"
    )


@pytest.mark.skipif(warp.is_cuda_available(), reason="with CUDA, Warp can pin and is left alone")
def test_pinned_memory_is_answered_with_ordinary_memory_and_patching_twice_changes_nothing():
    assert launch.allow_unpinned_memory()
    once = [getattr(warp, name) for name in launch._ALLOCATORS]
    assert launch.allow_unpinned_memory()
    assert [getattr(warp, name) for name in launch._ALLOCATORS] == once
    assert warp.zeros(3, dtype=warp.float32, device="cpu", pinned=True).numpy().tolist() == [
        0,
        0,
        0,
    ]


def test_shapes_are_cooked_without_a_cache_and_patching_twice_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    ovphysx = pytest.importorskip("ovphysx")
    real = ovphysx.config.PhysXConfig
    monkeypatch.setattr(ovphysx, "PhysXConfig", real)
    launch.cook_without_cache()
    once = ovphysx.PhysXConfig
    launch.cook_without_cache()
    assert ovphysx.PhysXConfig is once
    made = once(num_threads=8, carbonite_overrides={"/physics/updateToUsd": False})
    off = {"/physics/cooking/ujitsoCollisionCooking": False, "/UJITSO/enabled": False}
    assert made == real(num_threads=8, carbonite_overrides={"/physics/updateToUsd": False, **off})


def test_with_cuda_warp_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warp, "is_cuda_available", lambda: True)
    before = warp.zeros
    assert not launch.allow_unpinned_memory()
    assert warp.zeros is before


def test_command_line_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["zprl", "demos", "record"])
    with pytest.raises(RuntimeError), launch.bare_argv():
        assert sys.argv == ["zprl"]
        raise RuntimeError
    assert sys.argv == ["zprl", "demos", "record"]


def test_chatter_is_hidden_but_not_when_it_ends_badly(capfd: pytest.CaptureFixture[str]):
    with launch.quiet():
        os.write(1, b"native chatter\n")
        print("python chatter")
        print("python complaint", file=sys.stderr)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError), launch.quiet():
        os.write(2, b"native cause\n")
        raise RuntimeError
    out, err = capfd.readouterr()
    assert out == ""
    assert "native cause" in err


def test_assets_are_authored_once_and_a_lost_race_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = assets.ensure(tmp_path)
    stamp = {path: path.stat().st_mtime_ns for path in root.rglob("*.usda")}
    assert len(stamp) == 2  # ground and robot are .usda, the other things .usd
    assert assets.ensure(tmp_path) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.usda")} == stamp

    rival = tmp_path / "rival"

    def author_and_lose(folder: Path) -> None:
        (folder / "mine").mkdir(parents=True)
        (rival / root.name / "theirs").mkdir(parents=True)

    monkeypatch.setattr(assets, "author", author_and_lose)
    won = assets.ensure(rival)
    assert (won / "theirs").is_dir()
    assert [path.name for path in rival.iterdir()] == [root.name]


def test_panda_has_the_published_kinematics(tmp_path: Path):
    from pxr import Gf, Usd, UsdGeom, UsdPhysics

    assets.author(tmp_path)
    stage = Usd.Stage.Open(str(tmp_path / panda.PATH))
    prims = list(stage.Traverse())
    bodies = [prim for prim in prims if prim.HasAPI(UsdPhysics.RigidBodyAPI)]
    driven = [
        prim
        for prim in prims
        if prim.IsA(UsdPhysics.RevoluteJoint) or prim.IsA(UsdPhysics.PrismaticJoint)
    ]
    assert (len(bodies), len(driven)) == (11, 9)
    hand = next(prim for prim in bodies if prim.GetName() == "panda_hand")
    place = UsdGeom.XformCache().GetLocalToWorldTransform(hand).ExtractTranslation()
    # All joints at zero: x = 0.088, z = 0.333 + 0.316 + 0.384 - 0.107
    assert Gf.IsClose(place, Gf.Vec3d(0.088, 0, 0.926), 1e-6)
    shapes = sum(len(s) for s in (*panda.CAPSULES.values(), *panda.BOXES.values()))
    assert sum(prim.HasAPI(UsdPhysics.CollisionAPI) for prim in prims) == shapes


def test_assets_other_than_those_isaac_lab_was_imported_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = str(launch.authored())
    monkeypatch.setitem(
        sys.modules, "isaaclab.utils.assets", SimpleNamespace(NUCLEUS_ASSET_ROOT_DIR=ours)
    )
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="imported with other assets"):
        launch.prepare("nvidia")
    assert str(launch.prepare()) == ours


WITHOUT = """
import sys
from zprl.config import Task
from zprl.envs import make
from zprl.errors import ZprlError

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Gone())
for missing, physics in (("warp", "ovphysx"), ("pxr", "ovphysx"), ("isaaclab", "ovphysx"), ("isaaclab_tasks", "ovphysx"),
                         ("isaaclab_ov", "ovphysx"), ("ovphysx", "ovphysx"), ("newton", "newton")):
    try:
        make(Task(physics=physics), num_envs=1)
    except ZprlError as error:
        print(missing, error.exit_code, error.message, error.remedy, sep="|")
"""


def test_each_module_that_is_missing_is_named_in_one_sentence():
    """One after the other, from the first that is imported to the last: a module that was imported before cannot be missed."""
    launch.authored()  # which needs pxr by itself
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=300, check=False
    )
    found = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[0] for line in found] == [
        "warp",
        "pxr",
        "isaaclab",
        "isaaclab_tasks",
        "isaaclab_ov",
        "ovphysx",
        "newton",
    ], done.stderr
    for missing, code, message, remedy in found:
        assert code == "4"
        assert f"needs the module '{missing}" in message, message
        assert "zprl[isaac]" in remedy
