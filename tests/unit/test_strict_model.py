"""The bases of all models: frozen, without unknown keys, and finite where it matters."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ConfigDict, ValidationError

from zprl.strict_model import FiniteModel, StrictModel

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "zprl").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


class Plain(StrictModel):
    """A strict model with one number."""

    number: float = 1.0


class Message(FiniteModel):
    """A finite model that ignores other keys."""

    model_config = ConfigDict(extra="ignore")

    number: float = 1.0


def test_a_strict_model_is_frozen_and_knows_its_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Plain().number = 2.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Plain.model_validate({"nmber": 2.0})
    assert Plain(number=float("inf")).number == float("inf")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_finite_model_refuses_what_is_not_finite(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Message(number=number)


def test_what_a_model_states_itself_is_added_to_its_base() -> None:
    assert Message.model_validate({"number": 2.0, "other": 1}) == Message(number=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        Message().number = 2.0  # type: ignore[misc]


def test_every_model_has_a_strict_base() -> None:
    own = ROOT / "zprl" / "strict_model.py"
    assert [path for path in SOURCES if path != own and "(BaseModel)" in path.read_text()] == []
