"""A committed episode, as it is read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import ValidationError

from zprl import durable
from zprl.errors import DataError
from zprl.recordings import checksummed_json, tensor_schema
from zprl.recordings.episode_record import CHUNKS, FACTS, FRAMES, EpisodeRecord, folder_path
from zprl.recordings.phases import PhaseKind
from zprl.recordings.tensor_schema import OBS

if TYPE_CHECKING:
    from torch import Tensor

    from zprl.recordings.transitions import EpisodeTransitions

RESTORE = "restore it from a copy (`dvc checkout`)"
"""Remedy for damaged files."""


class RecordedEpisode:
    """A committed episode: facts are read at once, tensors when they are asked for.

    Both are checked against their digests.

    Args:
        path: ``episodes/000001``.

    Raises:
        DataError: the folder is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        document = checksummed_json.read(path / FACTS)
        try:
            self.facts = EpisodeRecord.model_validate(document)
        except ValidationError as error:
            raise DataError(
                f"{path / FACTS} does not describe an episode: {error.errors()[0]['loc']}",
                remedy="update zprl, or restore the file",
            ) from error

        in_place = folder_path(path.parent, self.facts.number) == path
        if not in_place or set(self.facts.files) != {FRAMES, CHUNKS}:
            raise DataError(
                f"{path} holds episode {self.facts.number}", remedy="restore the folder's name"
            )

    # -- facts -------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Number in the session, from 1."""
        return self.facts.number

    @property
    def phase(self) -> PhaseKind:
        """Kind of the phase it belongs to."""
        return self.facts.phase

    @property
    def start_number(self) -> int:
        """Number of its start position within its kind of phase."""
        return self.facts.start_number

    @property
    def steps(self) -> int:
        """Control steps, L."""
        return self.facts.steps

    @property
    def robot_s(self) -> float:
        """Duration on the robot's clock [s]."""
        return self.facts.robot_s

    @property
    def wall_s(self) -> float:
        """Duration on the host's clock [s]."""
        return self.facts.wall_s

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions of the weights that acted."""
        return self.facts.versions

    @property
    def digest(self) -> str:
        """SHA-256 that covers every byte."""
        return self.facts.digest

    # -- tensors -----------------------------------------------------------------------------------

    @cached_property
    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        for name, expected in self.facts.files.items():
            if durable.digest(self.path / name) != expected:
                raise DataError(f"{self.path / name} is damaged", remedy=RESTORE)

        frames = durable.read_tensors(self.path / FRAMES)
        chunks = durable.read_tensors(self.path / CHUNKS)
        tensor_schema.check(frames, chunks, str(self.path))
        if (len(frames["chunk"]), len(chunks["id"])) != (self.facts.steps, self.facts.decisions):
            raise DataError(f"{self.path} is not {self.facts.steps} steps long", remedy=RESTORE)
        return frames, chunks

    @property
    def frames(self) -> dict[str, Tensor]:
        """Tensors per control step; see :mod:`zprl.recordings.tensor_schema`."""
        return self._tensors[0]

    @property
    def chunks(self) -> dict[str, Tensor]:
        """Tensors per decision."""
        return self._tensors[1]

    @property
    def obs(self) -> dict[str, Tensor]:
        """Policy key to (L + 1, d), the last observation included."""
        return {
            name.removeprefix(OBS): value
            for name, value in self.frames.items()
            if name.startswith(OBS)
        }

    @property
    def stamps(self) -> np.ndarray:
        """(L + 1,) robot's clock [s]."""
        return self.frames["stamp"].numpy()

    @property
    def measured(self) -> np.ndarray:
        """(L + 1, 7 per arm) tool poses."""
        return self.frames["measured"].numpy()

    @property
    def positions(self) -> np.ndarray:
        """(L + 1, 3) tool positions of the first arm [m]."""
        return self.measured[:, :3]

    @property
    def wrench(self) -> np.ndarray | None:
        """(L, 6 per arm) [N, Nm], or ``None``."""
        return self.frames["wrench"].numpy() if "wrench" in self.frames else None

    @property
    def commanded(self) -> np.ndarray:
        """(L, A) the policy's actions, before the filter."""
        return self.frames["commanded"].numpy()

    @property
    def clipped(self) -> np.ndarray:
        """(L,) bool: the safety filter changed the target."""
        return self.frames["clipped"].numpy()

    @property
    def intervention(self) -> np.ndarray:
        """(L,) bool: a person moved the arm."""
        return self.frames["intervention"].numpy()

    def transitions(self) -> EpisodeTransitions:
        """Return the decisions, as the learner takes them in."""
        from zprl.recordings.transitions import EpisodeTransitions

        chunks = self.chunks
        return EpisodeTransitions(
            number=self.number,
            embedding=chunks["embedding"],
            anchor=chunks["anchor"],
            point=chunks["point"],
            steps=chunks["steps"],
            intervened=chunks["intervened"],
            final_embedding=chunks["final_embedding"],
            final_anchor=chunks["final_anchor"],
        )

    @classmethod
    def of(cls, folder: Path, number: int) -> Self:
        """Return episode ``number`` of ``episodes/``.

        Raises:
            DataError: there is no such episode, or it is damaged.
        """
        path = folder_path(folder, number)
        if not path.is_dir():
            raise DataError(
                f"there is no episode {number} in {folder.parent}",
                remedy="`zprl session show` lists the episodes",
            )
        return cls(path)
