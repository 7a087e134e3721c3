"""The pretrain stage as DVC runs it, in an empty project folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.stages import stage as stages
from pipelines.stages.pretrain import pretrain
from tests.factories import make_store, read_json
from zprl import durable
from zprl.errors import DataError, Interrupted
from zprl.models.bundle import load_policy
from zprl.offline.state import TrainState

PARAMS = {
    "policy": {"embedding_dim": 8, "encoder_hidden": [8], "mlp_hidden": [16]},
    "vib": {"latent_dim": 2, "hidden": [8]},
    "pretrain": {
        "steps": 8,
        "batch_size": 8,
        "checkpoint_every": 3,
        "log_every": 4,
        "validation_fraction": 0.3,
    },
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    make_store(stages.EPISODES, 4, length=20)
    return tmp_path


def run() -> None:
    stages.execute(
        "pretrain",
        pretrain,
        sections=("run", "policy", "vib", "pretrain"),
        inputs=(stages.EPISODES,),
    )


def outputs() -> dict[str, str]:
    return {
        path.as_posix(): durable.digest(path)
        for path in (stages.BASE, stages.PLOTS / "pretrain.csv")
    }


def test_outputs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert sorted(p.name for p in project.iterdir()) == [
        "artifacts",
        "metrics",
        "params.yaml",
        "plots",
        "runs",
    ]
    policy = load_policy(stages.BASE)
    obs = {key: torch.zeros(2, 1, dim) for key, dim in policy.spec.obs_dims.items()}
    assert policy.act(obs, policy.draw_noise(2, torch.Generator().manual_seed(0))).shape == (
        2,
        8,
        10,
    )

    facts = read_json(stages.BASE / "bundle.json")["provenance"]
    assert facts["inputs"] == {"artifacts/episodes": durable.digest(stages.EPISODES)}
    assert facts["episodes"] == {"training": 3, "validation": 1}
    stats = facts["latent_stats"]
    assert len(stats["mean_rms"]) == len(stats["posterior_std"]) == 2
    by_dim = sum(x**2 for x in stats["mean_rms"]) / 2
    assert stats["anchor_rms"] ** 2 == pytest.approx(by_dim, rel=1e-4)
    assert str(project) not in (stages.BASE / "bundle.json").read_text()

    metrics = read_json(stages.METRICS / "pretrain.json")
    assert metrics["steps"] == 8
    assert metrics["z_rms"] == stats["anchor_rms"]
    assert {
        "loss",
        "base_loss",
        "vib_loss",
        "kl",
        "reconstruction",
        "val_base_loss",
        "posterior_std",
        "wall_s",
    } <= metrics.keys()
    with (stages.PLOTS / "pretrain.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert float(rows[-1]["loss"]) == metrics["loss"]
    assert "[pretrain] step 8/8" in capsys.readouterr().out


def test_same_bytes_again_and_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    first = outputs()
    shutil.rmtree(stages.RUNS)
    shutil.rmtree(stages.BASE)

    finish = TrainState.finish_update

    def interrupted(self: TrainState) -> None:
        finish(self)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "finish_update", interrupted)
        with pytest.raises(Interrupted):
            run()
    assert not stages.BASE.exists()
    assert [p.name for p in sorted(stages.RUNS.glob("pretrain/*/gen-*"))] == [
        "gen-00000003",
        "gen-00000005",
    ]
    run()
    assert outputs() == first


def test_without_bottleneck_the_base_weights_are_the_same(project: Path) -> None:
    run()
    with_vib = durable.read_tensors(stages.BASE / "policy.safetensors")
    (project / "params.yaml").write_text(
        yaml.safe_dump({**PARAMS, "vib": {**PARAMS["vib"], "enabled": False}})
    )
    run()
    without = durable.read_tensors(stages.BASE / "policy.safetensors")
    assert {k for k in with_vib if not k.startswith("vib.")} == without.keys()
    assert all(torch.equal(with_vib[k], t) for k, t in without.items())
    assert "z_rms" not in read_json(stages.METRICS / "pretrain.json")


def test_damaged_episodes_are_named(project: Path) -> None:
    index = json.loads((stages.EPISODES / "index.json").read_text())
    index["lengths"][0] += 1
    (stages.EPISODES / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="artifacts/episodes is damaged"):
        run()
