"""From demonstrations to a champion and back, through the real stages and a real MLflow store; training in simulation is played."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.stages import promote, stage
from pipelines.stages.ingest import DATA, DATA_REPORT, ingest
from pipelines.stages.pretrain import pretrain
from tests.factories import write_demo_file
from zprl import cli, durable
from zprl.data.episode_sources import SOURCES, EpisodeSources
from zprl.tracking import SWITCH_VARIABLE, mlflow_tracker

PARAMS = {
    "policy": {"embedding_dim": 8, "encoder_hidden": [8], "mlp_hidden": [16]},
    "vib": {"latent_dim": 2, "hidden": [8]},
    "pretrain": {
        "steps": 4,
        "batch_size": 8,
        "checkpoint_every": 3,
        "log_every": 4,
        "validation_fraction": 0.3,
    },
}
FACTS = {
    "task": "t",
    "seed": 1,
    "episodes": 200,
    "jerk_rms": 1.0,
    "success_rate": 0.6,
    "ci_low": 0.53,
    "ci_high": 0.67,
}
LATENT = stage.STEERING / "finetune_sim"


def steer(now: stage.Stage) -> None:
    """In place of reinforcement learning: the bundle that it would write."""
    document = {
        "kind": "steering",
        "base_digest": durable.digest(stage.BASE),
        "provenance": {"task": "t", "seed": 0},
    }
    durable.write_json(LATENT / "bundle.json", document)
    now.made(LATENT)


def run_stages() -> None:
    stage.execute("ingest", ingest, sections=("ingest", "policy"), inputs=(DATA,))
    stage.execute(
        "pretrain",
        pretrain,
        sections=("run", "policy", "vib", "pretrain"),
        inputs=(stage.EPISODES,),
    )
    stage.execute("finetune_sim", steer, sections=("run",), inputs=(stage.BASE, stage.EPISODES))
    stage.execute(
        "promote", promote.promote, sections=("promote",), inputs=promote.SIMULATION.inputs
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline ran once; some seconds."""
    path = tmp_path_factory.mktemp("lineage") / "project"
    with pytest.MonkeyPatch.context() as patch:
        path.mkdir()
        patch.chdir(path)
        for name in (
            SWITCH_VARIABLE,
            "ZPRL_PARENT_RUN",
            "MLFLOW_EXPERIMENT_NAME",
            "MLFLOW_TRACKING_URI",
            "DVC_STAGE",
        ):
            patch.delenv(name, raising=False)
        write_demo_file(path / "data/demos/a.hdf5", 8)
        durable.write_text("data.dvc", "outs:\n- md5: 0123.dir\n  path: data\n")
        durable.write_text("params.yaml", yaml.safe_dump(PARAMS))
        for name, rate in (("base", 0.6), ("finetune_sim", 0.97)):
            facts = {
                **FACTS,
                **({"success_rate": rate, "ci_low": 0.93, "ci_high": 0.99} if rate > 0.9 else {}),
            }
            durable.write_json(stage.EVALUATION / name / "evaluation.json", facts)
        run_stages()
    return path


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    for name in (SWITCH_VARIABLE, "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return made


def lineage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    code: int = 0,
) -> str:
    monkeypatch.setattr(sys, "argv", ["zprl", "lineage", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    assert int(stop.value.code or 0) == code, printed.err
    return printed.err if code else printed.out


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def answer(*arguments: str) -> dict:
        return json.loads(lineage(monkeypatch, capsys, *arguments, "--json"))

    return answer


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *arguments, code: lineage(monkeypatch, capsys, *arguments, code=code)


def chain(node: dict) -> list[str]:
    """Names along the first branches."""
    return [node["name"], *(chain(node["below"][0]) if node.get("below") else [])]


BACK = [
    "artifacts/steering/finetune_sim",
    "artifacts/base",
    "artifacts/episodes",
    "data/demos/a.hdf5",
    "a/demo_0",
]


@pytest.mark.parametrize(
    "target",
    [
        "artifacts/steering/finetune_sim",
        "zprl-lift-cube@champion",
        "zprl-lift-cube/1",
        "models:/zprl-lift-cube/1",
    ],
)
def test_a_policy_back_to_the_bytes(target: str, ask) -> None:
    found = ask(target)
    assert chain(found)[1:] == BACK
    episodes = found["below"][0]["below"][0]["below"][0]
    assert episodes["data"] == {"sha256": durable.digest("data"), "dvc_md5": "0123.dir"}
    assert episodes["made_by"]["params"]["ingest.max_bad_fraction"] == "0.05"
    (file,) = episodes["below"]
    assert (file["sha256"], file["here"]) == (durable.digest("data/demos/a.hdf5"), "same bytes")
    origins = EpisodeSources.read(DATA_REPORT / SOURCES)
    assert [(e["name"], e["content"]) for e in file["below"]] == [
        (e.name, e.content) for e in origins.episodes
    ]
    assert len(file["below"]) == 8


def test_a_run_back(ask) -> None:
    client = mlflow_tracker.connect()
    (run,) = client.search_runs(
        [mlflow_tracker.experiment_id(client)], "attributes.run_name = 'pretrain'"
    )
    found = ask(run.info.run_id)
    assert found["outputs"] == {"artifacts/base": durable.digest(stage.BASE)}
    assert chain(found)[1:] == BACK[2:]


def test_a_downloaded_policy_is_known_by_its_bytes(ask, tmp_path: Path) -> None:
    client = mlflow_tracker.connect()
    version = client.get_model_version_by_alias("zprl-lift-cube", "champion")
    copy = Path(client.download_artifacts(version.run_id, "policy", str(tmp_path)))
    found = ask(str(copy))
    assert found["registered"] == ["zprl-lift-cube version 1 (champion)"]
    assert chain(found)[1:] == [f"{copy}/steering", *BACK[1:]]


@pytest.mark.parametrize("target", ["a/demo_3", "data/demos/a.hdf5", "data"])
def test_demonstrations_forward_to_the_champion(target: str, ask) -> None:
    found = ask(target)
    assert chain(found)[1:] == [
        "ingest",
        "pretrain",
        "finetune_sim",
        "promote",
        "zprl-lift-cube version 1 (champion)",
    ]
    assert len(found["below"][0]["episodes"]) == (1 if target == "a/demo_3" else 8)


def test_the_same_episodes_in_another_file_are_known_by_their_content(ask, tmp_path: Path) -> None:
    write_demo_file(tmp_path / "packed_again.hdf5", 2)  # the first two of the eight
    found = ask(str(tmp_path / "packed_again.hdf5"))
    assert [e["name"] for e in found["below"][0]["episodes"]] == ["a/demo_0", "a/demo_1"]


def test_changed_bytes_are_told(ask, here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "data", tmp_path / "kept")
    try:
        write_demo_file(here / "data/demos/other.hdf5", 1, seed=50)
        (here / "data/demos/other.hdf5").replace(here / "data/demos/a.hdf5")
        assert ask("artifacts/episodes")["below"][0]["below"][0]["here"] == "other bytes"
        shutil.rmtree(here / "data")
        assert ask("artifacts/episodes")["below"][0]["below"][0]["here"] == "not here"
        assert chain(ask("data/demos/a.hdf5"))[1] == "ingest", (
            "what is gone is still known by its path"
        )
    finally:
        shutil.rmtree(here / "data", ignore_errors=True)
        shutil.copytree(tmp_path / "kept", here / "data")


def test_without_a_store_what_lies_here_is_asked(
    ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = ask("artifacts/steering/finetune_sim", "--local")
    assert found["store"] == "what lies here (--local)"
    assert chain(found)[1:] == BACK
    assert "run" in found["below"][0]["made_by"]
    assert chain(ask("a/demo_3", "--local"))[1:] == ["ingest", "pretrain", "finetune"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    assert "there is no tracking store" in ask("artifacts/base")["store"]
    assert not (tmp_path / "none.db").exists()


def test_the_tree_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = lineage(monkeypatch, capsys, "zprl-lift-cube@champion", "--episodes", "2")
    assert "zprl-lift-cube version 1 (champion)" in text
    assert "same bytes here" in text
    assert "and 6 more episodes" in text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("a/demo_99", "nothing is known of 'a/demo_99'"),
        ("0" * 32, "has no run"),
        ("zprl-lift-cube@best", "there is zprl-lift-cube version 1 (champion)"),
        ("nothing", "nothing is known"),
    ],
)
def test_what_is_not_known_is_said(refuse, target: str, words: str) -> None:
    text = refuse(target, code=3)
    assert words in text
    assert "remedy" in text


def test_a_damaged_bundle_is_bad_data(refuse, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("[]")
    assert "does not describe a bundle" in refuse(str(tmp_path), code=3)


def test_a_store_that_is_away_is_an_environment_problem(
    refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = refuse("artifacts/base", code=4)
    assert "--local" in text
    assert "secret" not in text
