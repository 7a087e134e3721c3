"""The stage as DVC runs it, in an empty project folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from pipelines.stages import stage as stages
from pipelines.stages.ingest import DATA, DATA_REPORT, ingest
from tests.factories import ENV_ARGS, make_episode, read_json, write_demo_file
from zprl import durable
from zprl.data.store import EpisodeStore
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import DataError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    (tmp_path / "params.yaml").write_text("{}")
    return tmp_path


def run() -> None:
    stages.execute(
        "ingest", ingest, sections=("ingest", "policy"), inputs=(DATA,) if DATA.is_dir() else ()
    )


def outputs() -> dict[str, str]:
    return {
        path.as_posix(): durable.digest(path)
        for path in (stages.EPISODES, DATA_REPORT, stages.METRICS / "ingest.json")
    }


def test_good_data(project: Path) -> None:
    write_demo_file(project / "data/demos/a.hdf5", 8)
    run()
    store = EpisodeStore.open(stages.EPISODES)
    assert len(store) == 8
    assert list(store.obs) == [
        "robot0_eef_pos",
        "robot0_gripper_qpos",
        "robot0_gripper_command",
        "object",
    ]
    assert store.normalizer.num_features == 8
    metrics = read_json(stages.METRICS / "ingest.json")
    assert (metrics["episodes"], metrics["bad"], metrics["success_share"]) == (8, 0, 0.75)
    first = outputs()
    run()
    assert outputs() == first, "equal input, equal bytes"


def test_params_choose_episodes(project: Path) -> None:
    write_demo_file(project / "data/demos/a.hdf5", 8)
    (project / "params.yaml").write_text(
        yaml.safe_dump(
            {"ingest": {"exclude_failures": True, "max_episodes": 4, "obs_keys": ["object"]}}
        )
    )
    run()
    store = EpisodeStore.open(stages.EPISODES)
    assert store.names == ("a/demo_0", "a/demo_1", "a/demo_2", "a/demo_4")
    assert store.obs_dims == {"object": 10}


def test_a_recipe_in_params_decides_what_is_stored(project: Path) -> None:
    write_demo_file(project / "data/demos/a.hdf5", 8)
    recipe = {
        "leave_out": ["a/demo_[0-3]"],
        "cut": {"a/demo_4": [5, 30]},
        "success": {"*/demo_7": True},
        "weights": {"better": 2.0},
    }
    (project / "params.yaml").write_text(yaml.safe_dump({"ingest": {"recipe": recipe}}))
    before = durable.digest(project / "data")
    run()
    store = EpisodeStore.open(stages.EPISODES)
    assert store.names == ("a/demo_4", "a/demo_5", "a/demo_6", "a/demo_7")
    assert store.lengths.tolist() == [25, 45, 46, 47]
    assert store.success.tolist() == [True] * 4
    assert store.weights.tolist() == [
        2.0 if quality == "better" else 1.0 for quality in store.quality
    ]
    assert "D24" in (DATA_REPORT / "report.html").read_text()
    assert durable.digest(project / "data") == before


def test_bad_data_fail_after_the_report_is_written(project: Path) -> None:
    with RobomimicWriter(project / "data/demos/a.hdf5", ENV_ARGS) as writer:
        for seed in range(3):
            writer.write(make_episode(seed))
        writer.write(make_episode(3, 5))
    before = durable.digest(project / "data")
    with pytest.raises(DataError, match=r"D12 data/demos/a\.hdf5, episode a/demo_3") as caught:
        run()
    (report,) = (project / "runs" / "ingest").glob("*/data_report")
    assert read_json(report / "findings.json")["quarantine"] == ["a/demo_3"]
    assert (report / "report.html").relative_to(project).as_posix() in str(caught.value)
    assert not stages.EPISODES.exists()
    assert not (stages.METRICS / "ingest.json").exists()
    assert durable.digest(project / "data") == before, (
        "quarantine is a list; the files stay as they are"
    )


@pytest.mark.parametrize("folder", [True, False])
def test_no_data_says_dvc_pull(project: Path, folder: bool) -> None:
    if folder:
        (project / "data").mkdir()
    with pytest.raises(DataError, match="dvc pull"):
        run()


def test_module_exits_with_the_contracts_code(project: Path) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "pipelines.stages.ingest"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "dvc pull" in done.stderr
    assert "Traceback" not in done.stderr
