"""The stage ``promote``: the same bytes when run again, refusals as results, the registry behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.stages import promote, stage
from zprl.errors import DataError, EnvironmentProblem
from zprl.registry.publish import champion
from zprl.tracking import SWITCH_VARIABLE, mlflow_tracker

MODEL = "zprl-lift-cube"
BASE = {
    "task": "t",
    "seed": 1,
    "episodes": 200,
    "jerk_rms": 1.0,
    "success_rate": 0.6,
    "ci_low": 0.53,
    "ci_high": 0.67,
}
GOOD = {**BASE, "success_rate": 0.97, "ci_low": 0.93, "ci_high": 0.99}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with its schema, to copy: making one takes seconds."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        mlflow_tracker.connect().search_experiments()
    return path


@pytest.fixture
def here(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in (SWITCH_VARIABLE, "ZPRL_PARENT_RUN", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "params.yaml").write_text("run: {seed: 0}\n")
    put("base", BASE)
    put("finetune_sim", GOOD)
    for folder in promote.SIMULATION.folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bundle.json").write_text("{}")
    return tmp_path


def put(policy: str, facts: dict) -> None:
    folder = stage.EVALUATION / policy
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(facts))


def run() -> dict:
    stage.execute(
        "promote", promote.promote, sections=("promote",), inputs=promote.SIMULATION.inputs
    )
    return json.loads(stage.PROMOTION.read_text())


def test_accepted_published_and_the_same_bytes_again(here: Path) -> None:
    first = run()
    assert first["accept"]
    assert first["incumbent"]["name"] == "base"
    bytes_before = stage.PROMOTION.read_bytes()
    assert run() == first
    assert stage.PROMOTION.read_bytes() == bytes_before
    found = champion(mlflow_tracker.connect(), MODEL)
    assert found is not None
    assert found.version == "1"
    assert str(here) not in bytes_before.decode()


def test_the_next_candidate_meets_the_champion(here: Path) -> None:
    run()
    (promote.SIMULATION.folders["steering"] / "bundle.json").write_text('{"other": 1}')
    second = run()
    assert not second["accept"]
    assert second["incumbent"]["name"] == "champion"
    assert champion(mlflow_tracker.connect(), MODEL).version == "1"


def test_a_refusal_is_a_result(here: Path) -> None:
    put("finetune_sim", {**GOOD, "jerk_rms": 5.0})
    decision = run()
    assert not decision["accept"]
    assert "smooth" in decision["reasons"][0]
    assert champion(mlflow_tracker.connect(), MODEL) is None


def test_without_tracking_nothing_is_published(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH_VARIABLE, "off")
    assert run()["accept"]
    assert champion(mlflow_tracker.connect(), MODEL) is None


def test_a_registry_that_is_away_stops_the_promotion(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EnvironmentProblem, match="registry"):
        run()


def test_a_missing_evaluation_is_named(here: Path) -> None:
    (stage.EVALUATION / "base/evaluation.json").unlink()
    with pytest.raises(DataError, match=r"evaluation\.json"):
        run()
