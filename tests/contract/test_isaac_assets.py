"""Isaac's worlds on USD files that are not ours: here a copy made like NVIDIA's robot, whose second finger follows the first one.

Isaac Lab reads the asset root when it is imported, so the world runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zprl.config import Task
from zprl.envs import make
from zprl.envs.isaac import launch
from zprl.envs.isaac.usd import compare, panda
from zprl.errors import EnvironmentProblem

pytestmark = pytest.mark.isaac
pytest.importorskip("isaaclab_ov")
ROOT = "ISAACSIM_ASSET_ROOT"

PICK = """
import json, torch
from zprl.config import Task
from zprl.envs import make

flawless = {name: {"share": 1.0, "bias": 0.0, "jitter": 0.0, "speed": 0.02} for name in ("better", "okay", "worse")}
with make(Task(assets="nvidia", episode_steps=150), num_envs=4) as env:
    obs = env.reset(5)
    operator, won = env.operator(0, flawless), torch.zeros(4, dtype=torch.bool)
    robot = env._env.scene["robot"]
    mass = float(robot.data.body_mass.torch[0, robot.body_names.index("panda_link5")])
    for _ in range(150):
        result = env.step(operator.act(obs))
        obs, won = result.obs, won | result.success
print(json.dumps({"mass": mass, "won": int(won.sum())}))
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Our assets with a heavier link 5 and a finger that a mimic joint moves."""
    from pxr import Sdf, Usd, UsdPhysics

    root = tmp_path / "theirs"
    shutil.copytree(launch.authored(), root)
    stage = Usd.Stage.Open(str(root / panda.PATH))
    for prim in list(stage.Traverse()):
        if prim.GetName() == "panda_link5":
            UsdPhysics.MassAPI(prim).GetMassAttr().Set(1.3)
        elif prim.GetName() == "panda_finger_joint2":
            prim.RemoveAPI(UsdPhysics.DriveAPI, "linear")
            prim.AddAppliedSchema("PhysxMimicJointAPI:rotY")
            prim.CreateRelationship("physxMimicJoint:rotY:referenceJoint").SetTargets(
                ["/panda/Physics/panda_finger_joint1"]
            )
            prim.CreateAttribute(
                "physxMimicJoint:rotY:referenceJointAxis", Sdf.ValueTypeNames.Token
            ).Set("rotY")
            prim.CreateAttribute("physxMimicJoint:rotY:gearing", Sdf.ValueTypeNames.Float).Set(-1.0)
    stage.Save()
    return root


def test_a_world_is_made_of_the_users_files(theirs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PICK],
        env={**os.environ, ROOT: str(theirs)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mass"] == pytest.approx(1.3)
    assert found["won"] == 4  # none if the second finger were neither driven nor led


def test_no_folder_named_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", str(launch.authored())):  # ours is not theirs
        monkeypatch.setenv(ROOT, value)
        with pytest.raises(EnvironmentProblem, match="names no folder of theirs") as caught:
            make(Task(assets="nvidia"), num_envs=1)
        assert caught.value.exit_code == 4


def test_a_robot_that_cannot_be_driven_is_refused(theirs: Path) -> None:
    from pxr import Usd

    path = theirs / panda.PATH
    compare.check_robot(path)
    stage = Usd.Stage.Open(str(path))
    stage.RemovePrim("/panda/Physics/panda_finger_joint2")
    stage.Save()
    with pytest.raises(EnvironmentProblem, match="has no panda_finger_joint2"):
        compare.check_robot(path)
    path.unlink()
    with pytest.raises(EnvironmentProblem, match="an asset is missing"):
        compare.check_robot(path)
