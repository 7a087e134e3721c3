"""The facts of an episode, and the names of its files.

::

    episodes/open-000001.partial     rows of the open episode
    episodes/000001/                 the committed one:
        episode.json
        frames.safetensors
        chunks.safetensors

A committed episode never changes; its digest covers every byte of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from zprl import durable
from zprl.recordings.phases import PhaseKind
from zprl.strict_model import StrictModel

FORMAT_VERSION = 1
FACTS, FRAMES, CHUNKS = "episode.json", "frames.safetensors", "chunks.safetensors"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], Field(max_length=10_000)]


def folder_path(folder: Path, number: int) -> Path:
    """Return the folder of a committed episode within ``episodes/``."""
    return folder / f"{number:06d}"


def open_path(folder: Path, number: int) -> Path:
    """Return the file of an open episode's rows within ``episodes/``."""
    return folder / f"open-{number:06d}{durable.PARTIAL}"


class EpisodeFacts(StrictModel):
    """Facts that the recorder gives of an episode besides its rows."""

    phase: PhaseKind
    start_number: int = Field(
        ge=0, description="Number of the start position within its kind of phase."
    )
    seed: int = Field(ge=0)
    explore: bool = Field(description="Whether the policy explored.")
    stop_reason: str = Field(max_length=1000, description="success, failure, time_out, fault: ...")
    features: Names = Field((), description="Names of the columns of `features`, where known.")
    sent: Names = Field((), description="Names of the columns of `sent`, where known.")
    events: tuple[dict[str, JsonValue], ...] = Field((), max_length=100_000)
    timing: dict[str, float] = Field(
        default_factory=dict, description="Intervals between the driver's ticks."
    )
    weights: dict[int, str] = Field(
        default_factory=dict, description="Version of the weights to their digest."
    )


class EpisodeRecord(EpisodeFacts):
    """Content of ``episode.json``: the recorder's facts, and those counted from the rows."""

    format_version: int = Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)
    number: int = Field(ge=1)
    steps: int = Field(ge=1, description="Control steps, L.")
    decisions: int = Field(ge=1, description="Chunks of which at least one step was executed, M.")
    unused_decisions: int = Field(
        ge=0, description="Chunks that came too late to be played: not stored."
    )
    versions: tuple[int, ...] = Field(description="Versions of the weights that acted, ascending.")
    robot_s: Seconds = Field(
        description="From the first observation to the last on the robot's clock."
    )
    wall_s: Seconds = Field(description="The same on the host's clock.")
    intervention_share: Share = Field(
        description="Share of control steps at which a person moved the arm."
    )
    clip_share: Share = Field(
        description="Share of control steps whose target the safety filter changed."
    )
    limits_digest: str
    files: dict[str, str] = Field(description="SHA-256 of the tensor files.")
    digest: str
