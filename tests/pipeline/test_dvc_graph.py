"""What the pipeline reads from DVC; and that dvc.yaml and the stages' own declarations agree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from dvc.lock import LockError
from dvc.repo import Repo

from pipelines import code_dependencies, dvc_graph, summary
from pipelines.stages import stage
from tests.pipeline.conftest import Project
from zprl import code_closure
from zprl.errors import ConfigError, EnvironmentProblem

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PATHS = {
    name: getattr(stage, name)
    for name in (
        "ARTIFACTS",
        "METRICS",
        "PLOTS",
        "EPISODES",
        "BASE",
        "STEERING",
        "EVALUATION",
        "PROMOTION",
        "REPORT",
    )
}


def keys(entries: list) -> list[str]:
    """Paths of a list of ``path`` or ``{path: options}``."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outputs(name: str) -> set[str]:
    return {
        path for kind in ("outs", "metrics", "plots") for path in keys(GRAPH[name].get(kind, []))
    }


def test_order_is_dvc_s_not_the_file_s(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    assert dvc_graph.stage_order() == ["first", "middle", "last"]
    assert dvc_graph.stage_order("middle") == ["first", "middle"]
    with pytest.raises(ConfigError, match="no stage is named 'lost'"):
        dvc_graph.stage_order("lost")


def test_out_of_date_follows_the_parameters(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    assert set(dvc_graph.out_of_date()) == {"first", "middle", "last"}
    assert project.dvc("repro").returncode == 0
    assert dvc_graph.out_of_date() == {}
    (project.path / "params.yaml").write_text("run:\n  seed: 1\n")
    assert set(dvc_graph.out_of_date(["first"])) == {"first"}
    assert {row["output"] for row in dvc_graph.lock_hashes()} == {
        "first.txt",
        "middle.txt",
        "last.txt",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("'data' is busy, it is being blocked by:\n  (PID 4711): dvc repro first\n", " (PID 4711)"),
        ("Unable to acquire lock. Most likely another DVC process is running", ""),
    ],
)
def test_another_run_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise LockError(text)

    monkeypatch.chdir(project.path)
    monkeypatch.setattr(Repo, "status", busy)
    with pytest.raises(EnvironmentProblem) as refused:
        dvc_graph.out_of_date()
    assert refused.value.message == f"another run is working here{named}"
    assert refused.value.remedy == "wait for it or stop it, then run again"


def test_a_broken_graph_is_a_configuration_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    (project.path / "dvc.yaml").write_text("stages: {a: {cmd: 'true', outs: [x], deps: [x]}}\n")
    with pytest.raises(ConfigError, match=r"dvc\.yaml"):
        dvc_graph.stage_order()


def test_the_project_s_own_order() -> None:
    order = dvc_graph.stage_order()
    wanted = [
        "ingest",
        "pretrain",
        "evaluate_base",
        "finetune_sim",
        "evaluate",
        "promote",
        "report",
    ]
    assert [name for name in order if name in wanted] == wanted
    assert (
        order.index("pretrain") < order.index("finetune_action_residual") < order.index("evaluate")
    )


def test_every_dependency_is_made_by_a_stage_or_kept_in_git() -> None:
    made = set().union(*(outputs(name) for name in GRAPH))
    for name, entry in GRAPH.items():
        for path in keys(entry["deps"]):
            assert path in made or path in ("data", "session") or code_dependencies.is_code(path), (
                f"{name}: {path}"
            )


def test_wall_clock_never_reaches_what_is_judged_or_shown() -> None:
    for name in ("promote", "report"):
        assert not [path for path in keys(GRAPH[name]["deps"]) if path.startswith("metrics/")]


def test_one_number_of_the_learner_concerns_only_it_and_what_follows() -> None:
    readers = {name for name, entry in GRAPH.items() if "finetune_sim" in entry.get("params", [])}
    assert readers == {"finetune_sim", "finetune_action_residual"}
    for name, entry in GRAPH.items():
        needs = set(keys(entry["deps"]))
        if name in {"ingest", "pretrain", "evaluate_base", "finetune_action_residual"}:
            assert not needs & outputs("finetune_sim"), name


def _declared(module: str) -> tuple[set[str], set[str]]:
    """Sections and inputs that a stage's module passes to ``main``; names that stand for arguments are left out."""
    tree = ast.parse((ROOT / f"pipelines/stages/{module}.py").read_text())
    call = next(
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "main"
    )
    sections = next(k.value for k in call.keywords if k.arg == "sections")
    found = {e.value for e in getattr(sections, "elts", []) if isinstance(e, ast.Constant)}
    return found, {ast.unparse(k.value) for k in call.keywords if k.arg == "inputs"}


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_declared_sections_are_dvc_s_parameters(name: str) -> None:
    module = GRAPH[name]["cmd"].split("-m pipelines.stages.")[1].split()[0]
    sections, _ = _declared(module)
    # The rival's section holds differences from finetune_sim.
    own = {"finetune_action_residual": {"finetune_sim", "action_residual"}}.get(name, {name})
    if module not in ("finetune_sim", "promote"):
        own = set()
    assert sections | own == set(GRAPH[name].get("params", []))


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_a_stage_depends_on_the_code_that_it_runs_and_on_no_other(name: str) -> None:
    listed = [path for path in keys(GRAPH[name]["deps"]) if code_dependencies.is_code(path)]
    assert listed == code_dependencies.code_of(GRAPH[name]["cmd"]), (
        "python -m pipelines.code_dependencies"
    )


def test_the_report_depends_on_its_templates_and_on_what_they_include() -> None:
    code = code_closure.closure(ROOT / "pipelines/stages/report.py")
    included = {"page.html.j2", "style.css.j2"}
    assert included == {path.name for path in code if path.suffix == ".j2"}


def test_summary_leaves_out_what_was_not_judged(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(
        '{"success_rate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "other": 1}'
    )
    rows = summary.success_rows(tmp_path)
    assert rows == [{"policy": "base", "success_rate": 0.5, "ci_low": 0.4, "ci_high": 0.6}]
    assert "| base | 0.500 | 0.400 to 0.600 | ? |" in summary.markdown([], rows, None)
