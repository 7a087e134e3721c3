"""Sections ``evaluate``, ``transfer``, ``promote`` and ``report``."""

from __future__ import annotations

from pydantic import Field

from zprl import safe_names
from zprl.config.sections import Section


class Evaluate(Section):
    """Verdicts of all policies: the same seeds for all of them."""

    episodes: int = Field(200, ge=1, description="Episodes per policy, one per environment.")
    num_envs: int | None = Field(
        None,
        ge=1,
        description="Episodes side by side, in rounds until all are played; null for all at once.",
    )
    seed: int = Field(
        100_000,
        ge=0,
        description="Seed of start states and flow noise, apart from all training seeds.",
    )
    video_episodes: int = Field(3, ge=0, description="Episodes shown as video strips.")


class Transfer(Section):
    """Verdict of the steered policy on the other physics engine (sim-to-sim)."""

    episodes: int = Field(
        64,
        ge=1,
        description="Episodes on each engine, with evaluate.seed; Newton takes some minutes on a "
        "CPU.",
    )


class Promote(Section):
    """The gate between a candidate and the registry's champion."""

    model_name: str = Field(
        "zprl-lift-cube",
        pattern=safe_names.PATTERN,
        max_length=safe_names.MAX_NAME,
        description="Name in the MLflow model registry.",
    )
    min_episodes: int = Field(
        200, ge=1, description="Fewer evaluation episodes than this are no evidence."
    )
    max_jerk_ratio: float = Field(
        1.5, gt=0, description="The candidate's jerk may be at most so many times the incumbent's."
    )


class Report(Section):
    """The HTML page."""

    title: str = Field("Lift cube with a Franka, in Isaac", description="Heading of the page.")
