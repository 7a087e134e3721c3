"""Bases of all pydantic models: settings, file formats and messages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen model that refuses a key which it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FiniteModel(StrictModel):
    """A strict model that refuses infinity and NaN, too: a message or a physical quantity."""

    model_config = ConfigDict(allow_inf_nan=False)
