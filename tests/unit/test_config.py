"""params.yaml: unknown keys, wrong types and impossible combinations are errors with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from zprl import config
from zprl.errors import ConfigError


def test_empty_is_all_defaults() -> None:
    assert config.parse(None) == config.Params()
    assert config.Params().action_residual.steering.space == "action"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"finetune_sin": {}}, "did you mean 'finetune_sim'"),
        ({"finetune_sim": {"critic": {}}}, "did you mean 'critics'"),
        ({"run": {"seed": -1}}, "run.seed"),
        ({"run": {"device": "tpu"}}, "run.device"),
        ({"policy": {"chunk_steps": 9}}, "must not exceed horizon"),
        ({"finetune_sim": {"critics": {"cont": 2}}}, "did you mean 'count'"),
        ({"action_residual": {"steering": {"spac": "x"}}}, "did you mean 'space'"),
        ({"finetune_sim": {"critics": {"count": 1}}}, "must not exceed count"),
        ({"finetune_sim": {"actor": {"log_std_min": 3.0}}}, "below log_std_max"),
        ({"finetune_sim": {"steering": {"noise_scale": 1.5}}}, "finetune_sim.steering.noise_scale"),
        (
            {"finetune_sim": {"steering": {"space": "noise", "noise_scale": 0.5}}},
            "leave the noise to chance",
        ),
    ],
)
def test_mistakes_are_named(value: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config.parse(value)


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"run": {"seed": -1, "sede": 1}, "vib": {"latent_dim": 0}})
    assert all(word in caught.value.message for word in ("run.seed", "run.sede", "vib.latent_dim"))


def test_a_mistake_in_finetune_sim_is_named_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"finetune_sim": {"steering": {"ratio": -1}}, "action_residual": {}})
    assert caught.value.message.count("ratio") == 1
    assert "action_residual" not in caught.value.message


def test_the_rival_differs_from_finetune_sim_in_what_it_states() -> None:
    stated = {
        "finetune_sim": {
            "budget": {"segments": 3},
            "steering": {"scale": 0.5, "ratio": 0.3},
            "networks": {"hidden": [8]},
        },
        "action_residual": {"steering": {"space": "action"}, "critics": {"count": 5}},
    }
    params = config.parse(stated)
    wanted = params.finetune_sim.changed(steering={"space": "action"}, critics={"count": 5})
    assert params.action_residual == wanted
    assert (wanted.budget.segments, wanted.steering.scale, wanted.networks.hidden) == (3, 0.5, (8,))
    assert config.parse(params.model_dump(mode="json")) == params


@pytest.mark.parametrize(
    "learning",
    [
        {"algorithm": "ppo", "clip": {"last": 0.2}},
        {"algorithm": "noise_aliasing", "steering": {"space": "noise", "scale": 1.5}},
    ],
)
def test_of_another_algorithm_the_rival_has_the_budget_alone(learning: dict) -> None:
    params = config.parse({"finetune_sim": learning | {"budget": {"segments": 3}}})
    assert params.finetune_sim.algorithm == learning["algorithm"]
    wanted = config.Rl(budget={"segments": 3}, steering={"space": "action"})
    assert params.action_residual == wanted
    assert config.parse(params.model_dump(mode="json")) == params


def test_writing_over_keeps_what_is_not_stated() -> None:
    target = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    config.write_over(target, {"a": {"c": [3]}, "e": {"f": 5}})
    assert target == {"a": {"b": 1, "c": [3]}, "d": 4, "e": {"f": 5}}


def test_writing_over_the_result_leaves_the_values_alone() -> None:
    values = {"e": {"f": 5}}
    target: dict = {}
    config.write_over(target, values)
    config.write_over(target, {"e": {"f": 6}})
    assert (target, values) == ({"e": {"f": 6}}, {"e": {"f": 5}})


def test_another_algorithm_leaves_the_budget_alone() -> None:
    target = {"algorithm": "sac", "budget": {"segments": 3}, "steering": {"ratio": 0.3}}
    config.write_over(target, {"algorithm": "ppo", "clip": {"last": 0.2}})
    assert target == {"algorithm": "ppo", "budget": {"segments": 3}, "clip": {"last": 0.2}}


def test_changed_is_checked() -> None:
    found = config.Rl().changed(critics={"count": 5})
    assert (found.critics.count, found.critics.tau) == (5, config.Rl().critics.tau)
    with pytest.raises(ValidationError, match="must not exceed count"):
        config.Rl().changed(critics={"count": 1})


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("run: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "bad.yaml")


def test_python_tags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("run: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(tmp_path / "evil.yaml")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        config.Params().run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("section", [None, 3, [1]])
def test_a_section_that_is_none_is_a_mistake_and_no_crash(section: object) -> None:
    with pytest.raises(ConfigError, match="finetune_sim"):
        config.parse({"finetune_sim": section})


@pytest.mark.parametrize("scale", [0, -0.5])
def test_a_residual_scale_is_positive(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"steering\.scale"):
        config.parse({"finetune_sim": {"steering": {"scale": scale}}})
