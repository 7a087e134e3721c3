"""Suites become cells: the right bases, keys that change with what decides, and nothing that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zprl import config, plugins, presets
from zprl.bench import suite
from zprl.bench.suite import BASE, Suite
from zprl.errors import ConfigError


@pytest.fixture(autouse=True)
def _any_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        plugins, "load", lambda group, name: None
    )  # the benchmarks' packages are not needed to plan


def made(**changes) -> Suite:
    about = {
        "title": "t",
        "tasks": {"metaworld/reach-v3": {"preset": "laptop/metaworld", "demos": 5}},
        "methods": ["zprl", "dsrl"],
        "seeds": [0, 1],
    }
    return Suite.model_validate(about | changes)


@pytest.mark.parametrize("name", suite.names())
def test_every_shipped_suite_becomes_valid_cells(name: str, tmp_path: Path) -> None:
    found = suite.load(name)
    cells = suite.cells(found, tmp_path)
    methods = [cell for cell in cells if cell.base is not None]
    assert len(methods) == len(found.tasks) * len(found.chosen()) * len(found.seeds)
    assert len({cell.folder for cell in cells}) == len(cells)
    for cell in cells:
        config.parse(cell.params)
        assert cell.params["task"]["name"] == cell.task
        assert cell.params["run"]["seed"] == cell.seed
        assert cell.base is None or cells.index(cell.base) < cells.index(cell)


@pytest.mark.parametrize("name", suite.names())
def test_no_chunk_is_cut_where_a_value_follows_a_time_out(name: str, tmp_path: Path) -> None:
    """The learner discounts every chunk by gamma^C, which is exact for whole chunks only."""
    for cell in suite.cells(suite.load(name), tmp_path):
        params = config.parse(cell.params)
        bootstraps = '"bootstrap_truncated":true' in params.finetune_sim.model_dump_json()
        if cell.base is not None and bootstraps:
            assert params.task.episode_steps % params.policy.chunk_steps == 0, cell.name


@pytest.mark.parametrize("name", suite.methods())
def test_every_method_has_its_preset_and_says_how_it_was_tuned(name: str) -> None:
    method = suite.methods()[name]
    assert method.preset in presets.names()
    assert len(method.tuning) > 3
    stated = presets.read(method.preset)["finetune_sim"]
    known = set(config.section_of(stated).model_fields)
    assert set(stated) == known - {"budget"}, "a method states all that decides it, and no budget"


def test_methods_share_a_base_unless_they_change_it(tmp_path: Path) -> None:
    wide = {
        "label": "wide",
        "preset": "method/zprl",
        "space": "latent",
        "source": "s",
        "tuning": "none",
        "params": {"vib": {"latent_dim": 16}},
    }
    cells = suite.cells(made(methods=["zprl", "dsrl", {"wide": wide}], seeds=[0]), tmp_path)
    assert [cell.folder.name for cell in cells] == ["base", "zprl", "dsrl", "base-wide", "wide"]
    assert cells[1].base is cells[2].base is cells[0]
    assert cells[4].base is cells[3]
    assert cells[4].params["vib"]["latent_dim"] == 16
    assert cells[2].params["finetune_sim"]["steering"]["space"] == "noise"
    assert cells[0].method == BASE


def test_a_key_changes_with_what_decides_and_with_nothing_else(tmp_path: Path) -> None:
    def keys(**changes) -> list[str]:
        return [cell.key for cell in suite.cells(made(seeds=[0], **changes), tmp_path)]

    base, zprl, dsrl = keys()
    assert keys() == [base, zprl, dsrl]
    assert keys(params={"report": {"title": "another"}}) == [base, zprl, dsrl]
    other = keys(params={"finetune_sim": {"budget": {"segments": 3}}})
    assert other[0] == base, "a budget does not change what the base is"
    assert other[1] != zprl
    assert all(
        new != old
        for new, old in zip(
            keys(params={"pretrain": {"steps": 7}}), [base, zprl, dsrl], strict=True
        )
    )
    assert keys(methods=["dsrl", "zprl"]) == [base, dsrl, zprl]


def test_a_suite_s_numbers_reach_the_algorithms_that_know_them(tmp_path: Path) -> None:
    cells = suite.cells(
        made(
            methods=["zprl", "dppo"],
            seeds=[0],
            params={
                "finetune_sim": {"exploration": {"warmup_chunks": 7}, "rollouts": {"steps": 9}}
            },
        ),
        tmp_path,
    )
    assert cells[1].params["finetune_sim"]["exploration"]["warmup_chunks"] == 7
    assert cells[2].params["finetune_sim"]["rollouts"]["steps"] == 9
    assert "exploration" not in cells[2].params["finetune_sim"]
    with pytest.raises(ConfigError, match="did you mean 'warmup_chunks'"):
        suite.cells(made(params={"finetune_sim": {"exploration": {"warmup_chuncks": 7}}}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["zpl"]}, "zpl"),
        ({"tasks": {"t": {"preset": "nowhere"}}}, "nowhere"),
        ({"params": {"task": {"nam": 1}}}, "nam"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(
    changes: dict, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        suite.cells(made(**changes), tmp_path)


def test_a_file_that_is_no_suite(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"title": "t"}))
    with pytest.raises(ConfigError, match="is not a suite"):
        suite.load(str(tmp_path / "s.yaml"))
    with pytest.raises(ConfigError, match="laptop"):
        suite.load("nothing")


def test_the_command_line_lists_suites() -> None:
    from typer.testing import CliRunner

    from zprl.cli import app

    done = CliRunner().invoke(app, ["bench"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == suite.names()
