"""One run of a suite by itself: its folder, its log, what came out, and no orchestration needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import bench_cell as cells
from zprl import durable, plugins
from zprl.bench import results
from zprl.errors import ConfigError

SUITE = """
title: Small
tasks: {toy/one: {preset: laptop/metaworld}}
methods: [zprl]
seeds: [0]
"""
STAGE = """
import sys
from pathlib import Path
with open("../ran.txt", "a") as file:
    file.write(sys.argv[1] + chr(10))
if Path("../bad").exists() and sys.argv[1] == "zprl":
    print("DataError: the demonstrations are broken"); sys.exit(3)
if sys.argv[1] == "base":
    Path("artifacts/base").mkdir(parents=True, exist_ok=True)
    Path("artifacts/base/policy.safetensors").write_text("weights")
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def outcome(cell):
        who = (cell.task, cell.method, cell.seed)
        policy = durable.digest((cell.base or cell).folder / cells.POLICY)
        made = (None, policy) if cell.base is None else (policy, None)
        facts = results.RunFacts(*who, 5, 1.0, 0.1, 2.0, None, "1 x made")
        return results.FinishedRun(
            cell.key,
            *made,
            facts,
            (results.Point(*who, 0 if cell.base is None else 400, 0.9, 20, 1.0, 1.0),),
        )

    monkeypatch.setattr(plugins, "load", lambda group, name: None)
    monkeypatch.setattr(
        cells, "commands", lambda cell: [[sys.executable, "-c", STAGE, cell.folder.name]]
    )
    monkeypatch.setattr(cells, "outcome", outcome)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SUITE)
    return tmp_path / "bench/small/toy-one/seed-0"


def test_a_run_brings_the_policy_it_needs_and_nothing_runs_twice(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        cells.main(["small.yaml", "toy/one", "zprl", "0"])
        assert "toy/one · zprl · seed 0: success 0.90 over 20 episodes" in capsys.readouterr().out
    assert (suite / "ran.txt").read_text().split() == ["base", "zprl"]
    (found,) = results.read_runs(suite / "zprl/cell.json")
    assert found.facts.machine == "1 x made"
    assert found.stood_on == results.read_runs(suite / "base/cell.json")[0].policy


def test_a_failure_is_continued_and_its_last_words_are_kept(suite: Path) -> None:
    suite.mkdir(parents=True)
    (suite / "bad").touch()
    with pytest.raises(cells.StageError) as failed:
        cells.main(["small.yaml", "toy/one", "zprl", "0"])
    assert failed.value.exit_code == 3
    assert "the demonstrations are broken" in (suite / "zprl/log.txt").read_text()
    (suite / "bad").unlink()
    cells.main(["small.yaml", "toy/one", "zprl", "0"])
    assert (suite / "ran.txt").read_text().split() == ["base", "zprl", "zprl"]


def test_what_the_suite_does_not_have_is_told(suite: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such run.*\n.*--list"):
        cells.main(["small.yaml", "toy/one", "dsrl", "0"])


def test_neither_prefect_nor_dvc_nor_mlflow_is_needed() -> None:
    program = "import sys, pipelines.bench_cell; sys.exit(bool({'prefect', 'dvc', 'mlflow'} & {name.split('.')[0] for name in sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
