"""Inputs of the operator, and the devices they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from zprl.errors import EnvironmentProblem
from zprl.session import events
from zprl.session.events import Input
from zprl.session.inputs import OperatorInput, open_device


@pytest.mark.parametrize(
    "changes",
    [
        {"episode": 0},
        {"nonce": ""},
        {"nonce": "a b"},
        {"source": "Web"},
        {"kind": "fly"},
        {"nonce": "x" * 65},
        {"more": 1},
    ],
)
def test_inputs_are_judged(changes: dict) -> None:
    with pytest.raises(ValidationError):
        OperatorInput(
            **{"kind": "success", "episode": 1, "nonce": "n1", "source": "pedal", **changes}
        )


def test_an_input_as_the_state_machine_takes_it() -> None:
    made = OperatorInput(kind="failure", episode=3, nonce="n1", source="pedal")
    assert made.as_event() == events.InputEvent(Input.FAILURE, "n1", "pedal", 3)
    assert OperatorInput.model_validate_json(made.model_dump_json()) == made


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot open") as caught:
        open_device(tmp_path / "event9")
    assert caught.value.remedy == "plug it in"
