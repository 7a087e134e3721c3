"""Bounds that several sections share, and the base of all sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

MAX_WIDTH, MAX_LAYERS = 2**16, 16
"""Of a network: more was never useful here, and a stranger's bundle states them before anything
else is known of it."""

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]

Steps = Annotated[int, Field(ge=1, le=10_000)]


def _widths(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a layer that is none, or too wide."""
    if not all(1 <= width <= MAX_WIDTH for width in layers):
        raise ValueError(f"layers are 1 to {MAX_WIDTH} wide")
    return layers


Layers = Annotated[tuple[int, ...], Field(max_length=MAX_LAYERS), AfterValidator(_widths)]


class Section(BaseModel):
    """A section of ``params.yaml``: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
