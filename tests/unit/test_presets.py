"""Presets are written into params.yaml; comments and everything else stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zprl import config, presets
from zprl.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(
        "# mine\nrun:\n  seed: 5  # my seed\n\nfinetune_sim:\n  critics: 10\n  hidden: [8, 8]\n"
    )
    return path


def test_paper_is_the_published_recipe() -> None:
    values = presets.read("paper")["finetune_sim"]
    assert config.parse({"finetune_sim": values}).finetune_sim == config.Rl(**values)
    known = {key: config.Rl.model_fields[key].default for key in values}
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()} == known
    assert (values["critics"], values["target_subset"], values["updates_per_chunk"]) == (2, 2, 1.0)
    assert (values["warmup_chunks"], values["warmup_noise"], values["initial_alpha"]) == (
        2000,
        0.0,
        0.01,
    )


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_on_the_project_s_own_parameters(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    assert presets.use(name, path)
    config.load(path)
    assert presets.use(name, path) == []  # the second time there is nothing to do


def test_use_keeps_comments_and_other_values(params: Path) -> None:
    changes = {key: (old, new) for key, old, new in presets.use("paper", params)}
    text = params.read_text()
    assert changes["finetune_sim.critics"] == (10, 2)
    assert text.startswith("# mine\n")
    assert "seed: 5  # my seed" in text
    assert "hidden: [256, 256, 256]" in text
    assert yaml.safe_load(text)["run"]["seed"] == 5


def test_an_invalid_result_leaves_the_file_alone(params: Path) -> None:
    params.write_text(params.read_text() + "tsk: {}\n")
    before = params.read_bytes()
    with pytest.raises(ConfigError, match="did you mean 'task'"):
        presets.use("paper", params)
    assert params.read_bytes() == before


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        presets.read("papr")


def test_explain_covers_every_number() -> None:
    rows = list(presets.explain())
    assert len(rows) == sum(
        len(type(section).model_fields) for section in dict(config.Params()).values()
    )
    assert all(text for *_, text in rows)


def test_every_tunable_stands_in_params_yaml() -> None:
    value = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, section in dict(config.Params()).items():
        assert set(value[name]) == set(type(section).model_fields), name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1\n",
        "run: 5\n",
        "pretrain: [1]\n",
        "run: {seed: 1}\nrun: {seed: 2}\n",
        "pretrain: &a {steps: 1}\n",
    ],
)
def test_a_file_without_sections_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        presets.use("smoke", path)
    assert path.read_text() == text
