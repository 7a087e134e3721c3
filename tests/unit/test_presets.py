"""Presets are written into params.yaml; comments and everything else stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from zprl import config, presets
from zprl.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(
        "# mine\nrun:\n  seed: 5  # my seed\n\nfinetune_sim:\n  critics: {count: 10}\n  networks:\n    hidden: [8, 8]\n"
    )
    return path


def test_paper_is_the_published_recipe() -> None:
    values = presets.read("paper")["finetune_sim"]
    assert values == config.Rl().model_dump(mode="json", exclude={"budget"})
    assert (values["critics"]["count"], values["critics"]["target_subset"]) == (2, 2)
    assert values["updates"]["per_chunk"] == 1.0
    assert values["exploration"]["warmup_chunks"] == 2000
    assert values["exploration"]["warmup_noise"] == 0.0
    assert values["entropy"]["initial_alpha"] == 0.01


def test_a_preset_states_differences_from_the_one_that_it_extends() -> None:
    zprl = presets.read("method/zprl")["finetune_sim"]
    two = presets.read("method/zprl_two")["finetune_sim"]
    differing = {
        f"{section}.{key}"
        for section, values in zprl.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if two[section][key] != value
    }
    assert differing == {"critics.count", "updates.per_chunk", "exploration.warmup_chunks"}
    assert set(two) == set(zprl)


def test_another_method_leaves_nothing_of_the_old_one_but_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    before = config.load(path)
    presets.use("method/reinflow", path)
    presets.use("paper", path)
    after = config.load(path)
    assert after.finetune_sim == config.Rl(budget=before.finetune_sim.budget)


def test_keys_that_the_new_method_does_not_have_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    changes = {key: (old, new) for key, old, new in presets.use("method/reinflow", path)}
    assert changes["finetune_sim.critics.tau"] == (0.01, None)
    assert changes["finetune_sim.chain.noise"] == (None, "learned")


def test_a_method_leaves_the_budget_of_the_preset_that_it_extends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task.yaml").write_text("finetune_sim: {budget: {segments: 3}}\n")
    (tmp_path / "method.yaml").write_text("extends: task\nfinetune_sim: {algorithm: ppo}\n")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert presets.read("method")["finetune_sim"]["budget"] == {"segments": 3}


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
    assert changes["finetune_sim.critics.count"] == (10, 2)
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
    params = config.Params().model_dump(exclude={"action_residual"})
    ppo = config.PolicyGradient(algorithm="ppo")
    of_ppo = {
        f"finetune_sim.{key}" for key in _keys(ppo.model_dump(exclude={"algorithm", "budget"}), ppo)
    }
    assert {key for key, *_ in rows} == {
        "action_residual",
        *_keys(params, config.Params()),
        *of_ppo,
    }
    assert all(text for *_, text in rows)


def _keys(values: dict, model: BaseModel, prefix: str = "") -> set[str]:
    """Dotted keys of a model's values; those of a field with a text of its own count as one."""
    found = set()
    for key, value in values.items():
        below = getattr(model, key)
        if isinstance(below, BaseModel) and not type(model).model_fields[key].description:
            found |= _keys(value, below, f"{prefix}{key}.")
        else:
            found.add(f"{prefix}{key}")
    return found


def test_every_tunable_stands_in_params_yaml() -> None:
    value = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert value.pop("action_residual") == config.ACTION_RESIDUAL
    whole = config.Params().model_dump(exclude={"action_residual"})
    assert _keys(value, config.Params()) == _keys(whole, config.Params())


def test_params_yaml_fits_two_screens() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 100


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
