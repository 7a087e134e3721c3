"""Bounds that several sections share, and the base of all sections."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from zprl.strict_model import StrictModel

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


class Section(StrictModel):
    """A section of ``params.yaml``: frozen, and a key it does not know is an error."""

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, checked; those of a section below are a mapping.

        >>> from zprl.config import Rl
        >>> Rl().changed(steering={"space": "action"}).steering.space
        'action'
        """
        document = self.model_dump()
        write_over(document, values)
        return type(self).model_validate(document)


def write_over(target: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write ``values`` over ``target``, nested ones key by key.

    Where they state another algorithm than ``target``, only the budget of the old one stays.
    ``values`` themselves are copied: what is written over the result later leaves them alone.
    """
    old = target.get("algorithm", "sac")
    if values.get("algorithm", old) != old:
        for key in [key for key in target if key != "budget"]:
            del target[key]

    for key, value in values.items():
        below = target.get(key)
        if isinstance(value, Mapping) and isinstance(below, MutableMapping):
            write_over(below, value)
        elif key not in target or below != value:  # an equal value keeps its text in a file
            target[key] = copy.deepcopy(value)
