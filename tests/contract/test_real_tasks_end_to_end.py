"""The paper's four tasks on simulated robots, from demonstrations with images to a policy that left a session.

Demonstrations are recorded through the drivers, with a simulated camera; ingest and pretraining (with
the image encoder), the session and its replay are the real ones, made small: narrow networks, few
steps, short episodes.  What they learn here is nothing; that all joints fit is what is seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from pipelines import robot_session
from tests.real_demos import record
from zprl import config, presets
from zprl.data.store import EpisodeStore
from zprl.models.bundle import load_policy
from zprl.recordings.store import SessionStore
from zprl.robot.limits import MOST_RECOVERIES
from zprl.robot.task import BUILT_IN, RealTask

ROOT = Path(__file__).parents[2]
TASKS = {"place_orange": 61, "flip_egg": 62, "open_box": 63, "insert_bills": 64}
STANDING = ("insert_bills",)
"""Run every time: two arms and most cameras.  The others go the same way."""
pytestmark = pytest.mark.realtime
DEMOS, CHUNKS = 5, 3
PATIENT = {
    "state_age_s": 0.5,
    "sensor_age_s": 1.0,
    "command_age_s": 2.0,
    "heartbeat_s": {"operator": 30.0},
    "recoveries": {"count": MOST_RECOVERIES, "window_s": 600.0},
}
"""A busy machine is no fault here: what late images and chunks lead to is seen in the session's
contract."""
HANGS_S = 300.0
SMALL = {
    "policy": {
        "unet_channels": [16, 32],
        "unet_groups": 8,
        "flow_steps": 2,
        "time_embedding_dim": 16,
    },
    "vib": {"hidden": [32]},
    "images": {"channels": [16, 32], "features": 16, "spatial_blocks": 2},
    "pretrain": {
        "steps": 20,
        "batch_size": 16,
        "checkpoint_every": 20,
        "log_every": 10,
        "validation_fraction": 0.0,
    },
    "finetune_sim": {"networks": {"hidden": [32, 32]}},
    "finetune_real": {
        "train_episodes": 2,
        "evaluate_episodes": 1,
        "batch_size": 16,
        "critic_episodes": 1,
        "speed": 1.0,
    },
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in STANDING else pytest.mark.exhaustive)
        for name in TASKS
    ]
)
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RealTask:
    """A folder with params.yaml as ``zprl config use --preset <task>`` makes it, then made small; the task on simulated robots of its own."""
    name = request.param
    spec = yaml.safe_load((BUILT_IN / f"{name}.yaml").read_text())
    spec["episode_steps"] = CHUNKS * spec["chunk_steps"]
    for number, arm in enumerate(spec["arms"].values()):
        arm["config"]["host"] = f"127.0.{TASKS[name]}.{number + 1}"
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    limits = yaml.safe_load((BUILT_IN / spec["limits"]).read_text()) | PATIENT
    (tmp_path / spec["limits"]).write_text(yaml.safe_dump(limits))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    presets.use(name)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    params["finetune_real"]["task"] = str(tmp_path / f"{name}.yaml")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return RealTask.load(tmp_path / f"{name}.yaml")


def stage(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def test_from_demonstrations_to_a_policy_that_left_the_robot(project: RealTask) -> None:
    record(project, Path("data/demos.hdf5"), count=DEMOS)
    stage("pipelines.stages.ingest")
    store = EpisodeStore.open("artifacts/episodes")
    assert len(store) == DEMOS
    assert store.image_sizes == {image.key: image.size for image in project.images.values()}

    stage("pipelines.stages.pretrain")
    policy = load_policy("artifacts/base")
    assert [image.key for image in policy.spec.images] == list(store.image_sizes)

    stopping = [False]
    alarm = threading.Timer(HANGS_S, lambda: stopping.__setitem__(0, True))
    alarm.start()
    robot_session.live(config.load(), stopping=stopping)
    alarm.cancel()
    session = SessionStore.open("session")
    episodes = list(session.episodes())
    assert [e.phase for e in episodes] == ["evaluate_before", "train", "train", "evaluate_after"]
    labels = session.labels.current()
    assert all(labels[e.number] in ("success", "failure") for e in episodes)
    assert all(
        e.steps == project.episode_steps or labels[e.number] == "success" for e in episodes
    ), "a fault cut it short"
    assert episodes[-1].chunks["embedding"].shape[1] == policy.spec.policy.embedding_dim

    stage("pipelines.stages.finetune_real")
    found = json.loads(Path("metrics/real.json").read_text())
    assert found["same_as_on_robot"], "the replay came to other weights than acted"
    assert found["session_episodes"] == 2
