"""params.yaml: unknown keys, wrong types and impossible combinations are errors with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from zprl import config
from zprl.errors import ConfigError


def test_empty_is_all_defaults() -> None:
    assert config.parse(None) == config.Params()
    assert config.Params().action_residual.interface == "action"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"finetune_sin": {}}, "did you mean 'finetune_sim'"),
        ({"finetune_sim": {"critic": 2}}, "did you mean 'critics'"),
        ({"run": {"seed": -1}}, "run.seed"),
        ({"run": {"device": "tpu"}}, "run.device"),
        ({"policy": {"chunk_steps": 9}}, "must not exceed horizon"),
        ({"finetune_sim": {"critics": 1}}, "must not exceed critics"),
        ({"finetune_sim": {"log_std_min": 3.0}}, "below log_std_max"),
        ({"finetune_sim": {"noise_scale": 1.5}}, "finetune_sim.noise_scale"),
        ({"finetune_sim": {"interface": "noise", "noise_scale": 0.5}}, "leave the noise to chance"),
    ],
)
def test_mistakes_are_named(value: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config.parse(value)


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"run": {"seed": -1, "sede": 1}, "vib": {"latent_dim": 0}})
    assert all(word in caught.value.message for word in ("run.seed", "run.sede", "vib.latent_dim"))


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
