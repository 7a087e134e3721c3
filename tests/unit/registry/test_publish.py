"""Publication against a real SQLite registry: the alias moves last, a kill before it loses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.registry.test_gate import BASE, GOOD
from zprl.config import Promote
from zprl.errors import EnvironmentProblem
from zprl.registry import publish
from zprl.registry.card import model_card
from zprl.registry.gate import decide
from zprl.tracking import mlflow_tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the module: making its schema takes seconds."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    return mlflow_tracker.connect()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    for name in ("base", "steering"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text(f'{{"{name}": 1}}')
    return {name: tmp_path / name for name in ("base", "steering")}


def put(client, name, folders, candidate, incumbent) -> str:
    run = client.create_run(mlflow_tracker.experiment_id(client))
    return publish.publish(
        client,
        name,
        run_id=run.info.run_id,
        candidate=candidate,
        incumbent=incumbent,
        folders=folders,
        card="# card",
        tags={"a": 1},
    )


def test_first_second_and_same(client, folders: dict[str, Path]) -> None:
    assert publish.champion(client, "first") is None
    assert put(client, "first", folders, GOOD, BASE) == "1"
    found = publish.champion(client, "first")
    assert found is not None
    assert (found.facts, found.incumbent) == (GOOD, BASE)
    assert put(client, "first", folders, GOOD, BASE) == "1"  # is champion already
    better = replace(GOOD, digest="d" * 64, success_rate=0.99, ci_low=0.98, ci_high=1.0)
    assert put(client, "first", folders, better, GOOD) == "2"
    assert str(client.get_model_version_by_alias("first", "previous").version) == "1"
    copy = client.get_model_version("first", "2")
    assert copy.tags["a"] == "1"
    assert copy.tags["zprl.complete"] == "true"
    assert {file.path for file in client.list_artifacts(copy.run_id, "policy")} == {
        "policy/base",
        "policy/steering",
        "policy/CARD.md",
    }


def test_a_kill_before_the_alias_moves_keeps_the_old_champion(
    client, folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "killed", folders, GOOD, BASE)
    better = replace(GOOD, digest="e" * 64)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            put(client, "killed", folders, better, GOOD)
    assert publish.champion(client, "killed").version == "1"
    assert (
        put(client, "killed", folders, better, GOOD) == "2"
    )  # the complete version is used, not uploaded again
    assert publish.champion(client, "killed").version == "2"


def test_a_champion_that_changes_meanwhile_stops_the_promotion(
    client, folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "race", folders, GOOD, BASE)
    seen = iter([publish.champion(client, "race"), None])
    monkeypatch.setattr(publish, "champion", lambda *_: next(seen))
    with pytest.raises(EnvironmentProblem, match="changed during the promotion"):
        put(client, "race", folders, replace(GOOD, digest="f" * 64), GOOD)


def test_a_damaged_upload_is_noticed(client, folders, monkeypatch: pytest.MonkeyPatch) -> None:
    real = client.download_artifacts

    def damaged(*arguments: str) -> str:
        copy = real(*arguments)
        next(Path(copy).iterdir()).write_text("other")
        return copy

    monkeypatch.setattr(client, "download_artifacts", damaged)
    with pytest.raises(EnvironmentProblem, match="came back changed"):
        put(client, "damaged", folders, GOOD, BASE)
    assert publish.champion(client, "damaged") is None


def test_the_card_says_how_good_and_from_what() -> None:
    decision = decide(GOOD, BASE, Promote())
    card = model_card(
        "cube",
        candidate=GOOD,
        incumbent=BASE,
        decision=decision,
        provenance={"git commit": "abc"},
        inputs={"x": "12"},
    )
    assert "| latent | 0.970 | 0.930 to 0.990 | 200 |" in card
    assert "**accepted**" in card
    assert "`abc`" in card
