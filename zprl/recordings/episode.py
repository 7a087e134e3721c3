"""One episode: written row by row while it is lived, committed as a folder, read ever after.

::

    episodes/open-000001.partial     rows of the open episode
    episodes/000001/                 the committed one: episode.json, frames.safetensors, chunks.safetensors

A committed episode never changes; its digest covers every byte of the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from zprl import durable
from zprl.errors import DataError
from zprl.recordings import checksummed_json, tensor_schema, write_ahead_log
from zprl.recordings.append_file import Appender, remove
from zprl.recordings.phases import PhaseKind
from zprl.recordings.tensor_schema import NO_CHUNK, OBS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    from zprl.recordings.transitions import EpisodeTransitions

FORMAT_VERSION = 1
FACTS, FRAMES, CHUNKS = "episode.json", "frames.safetensors", "chunks.safetensors"
FRAME, CHUNK, LAST_FRAME, LAST_STATE = "F", "C", "L", "S"
"""Kinds of rows."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[str, ...], Field(max_length=10_000)]


class EpisodeFacts(BaseModel):
    """What the recorder knows of an episode besides its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """``episode.json``."""

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


class EpisodeWriter:
    """The open episode.  Rows are in the kernel's hands when a method returns; :meth:`commit` makes them durable.

    Control steps and chunks come from two processes and may come in any order.  Which chunk was
    executed when and for how long, and whether a person took over meanwhile, follows from the
    control steps alone.

    Args:
        folder: ``episodes/``.
        number: The episode's number.
        limits_digest: Of the limits it is lived with.
        resume: Go on with what a killed writer left.
    """

    def __init__(
        self, folder: Path, number: int, *, limits_digest: str, resume: bool = False
    ) -> None:
        self.number, self._folder, self._limits_digest = number, folder, limits_digest
        self.path = open_path(folder, number)
        self._layout: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
        self._ids: set[int] = set()
        self.steps = 0
        if resume:
            found, size = write_ahead_log.read(self.path)
            self._appender = Appender(self.path)
            self._appender.cut(size)
            for row in found:
                self._note(row)
        else:
            self._appender = Appender(self.path, new=True)

    @property
    def complete(self) -> bool:
        """Whether there is something to commit: a control step, a chunk, the last observation and what the policy made of it."""
        return (
            self.steps > 0
            and bool(self._ids)
            and LAST_FRAME in self._layout
            and LAST_STATE in self._layout
        )

    def add_frame(
        self,
        *,
        step: int,
        stamp: float,
        host: float,
        obs: Mapping[str, ArrayLike],
        features: ArrayLike,
        measured: ArrayLike,
        commanded: ArrayLike,
        sent: ArrayLike,
        chunk: int = NO_CHUNK,
        wrench: ArrayLike | None = None,
        intervention: bool = False,
        clipped: bool = False,
    ) -> None:
        """Append one control step.

        Args:
            step: Its number; the next one, from 0.
            stamp: When the state was measured, robot's clock [s].
            host: When it was recorded, host's monotonic clock [s].
            obs: Policy key to (d,) float32, or to a picture (uint8).
            features: (P,) raw features.
            measured: (7,) tool pose: position [m], quaternion xyzw; 7 more per further arm.
            commanded: (A,) the policy's action before the filter.
            sent: (P',) features really sent.
            chunk: Id of the chunk that was played; -1 for none.
            wrench: (6,) at the tool [N, Nm]; ``None`` where the robot cannot tell.
            intervention: Whether a person moved the arm.
            clipped: Whether the filter changed the target.

        Raises:
            DataError: not finite, another shape than before, or a step is missing.
            EnvironmentProblem: the disk is full or broken; the row was not appended.
        """
        if step != self.steps:
            raise DataError(
                f"episode {self.number}: control step {step} came where {self.steps} was due",
                remedy="discard the episode",
            )
        arrays = _observed(stamp, host, obs, features, measured) | {
            "commanded": _numbers(commanded, np.float32),
            "sent": _numbers(sent, np.float64),
            "chunk": np.asarray(chunk, np.int64),
            "intervention": np.asarray(intervention, np.bool_),
            "clipped": np.asarray(clipped, np.bool_),
        }
        if wrench is not None:
            arrays["wrench"] = _numbers(wrench, np.float64)
        self._append(FRAME, arrays)

    def add_chunk(
        self,
        *,
        id: int,
        version: int,
        obs_step: int,
        obs_stamp: float,
        embedding: ArrayLike,
        anchor: ArrayLike,
        residual: ArrayLike,
        point: ArrayLike,
        targets: ArrayLike,
        mean: ArrayLike | None = None,
        log_std: ArrayLike | None = None,
    ) -> None:
        """Append one decision; whether it was executed is not known yet.

        Args:
            id: Number of the decision within the episode.
            version: Of the weights.
            obs_step: Control step of the newest observation it was made from.
            obs_stamp: That observation's stamp [s].
            embedding: (D,).
            anchor: (R,) the point the frozen policy takes.
            residual: (R,) the agent's, in [-1, 1].
            point: (R,) the point taken.
            targets: (C, A).
            mean: (Z,) of the posterior; latent interface only.
            log_std: (Z,).

        Raises:
            DataError: see :meth:`add_frame`; or this decision was recorded before.
        """
        if id in self._ids or id < 0:
            raise DataError(
                f"episode {self.number}: chunk {id} came twice", remedy="discard the episode"
            )
        vectors = {
            "embedding": embedding,
            "anchor": anchor,
            "residual": residual,
            "point": point,
            "targets": targets,
        }
        vectors |= {
            name: value
            for name, value in (("mean", mean), ("log_std", log_std))
            if value is not None
        }
        arrays = {name: _numbers(value, np.float32) for name, value in vectors.items()}
        arrays |= {
            "id": np.asarray(id, np.int64),
            "version": np.asarray(version, np.int64),
            "obs_step": np.asarray(obs_step, np.int64),
        }
        self._append(CHUNK, arrays | {"obs_stamp": _numbers(obs_stamp, np.float64)})

    def finish(
        self,
        *,
        stamp: float,
        host: float,
        obs: Mapping[str, ArrayLike],
        features: ArrayLike,
        measured: ArrayLike,
    ) -> None:
        """Append the last observation: what the last action led to.  Arguments as in :meth:`add_frame`."""
        self._append(LAST_FRAME, _observed(stamp, host, obs, features, measured))

    def finish_state(self, *, final_embedding: ArrayLike, final_anchor: ArrayLike) -> None:
        """Append what the policy makes of the last observation: embedding (D,) and anchor (R,)."""
        arrays = {"final_embedding": final_embedding, "final_anchor": final_anchor}
        self._append(
            LAST_STATE, {name: _numbers(value, np.float32) for name, value in arrays.items()}
        )

    def commit(self, facts: EpisodeFacts) -> str:
        """Make the episode a folder that nothing changes any more.

        Returns:
            Its digest.

        Raises:
            DataError: it is not complete, or what was recorded does not fit together.
            EnvironmentProblem: the disk is full or broken; nothing is lost, ``commit`` may be
                called again.
        """
        target = folder_path(self._folder, self.number)
        if target.exists():
            raise DataError(
                f"episode {self.number} is committed already",
                remedy="a committed episode is never changed; correct its label",
            )
        if not self.complete:
            raise DataError(
                f"episode {self.number} is not complete: it needs a control step, a chunk and its last observation",
                remedy="discard it",
            )
        found, _ = write_ahead_log.read(
            self.path
        )  # what is committed is what was written ahead: with or without a kill in between
        frames = _frames(found)
        chunks, unused = _chunks(found, frames, self.number)
        tensor_schema.check(frames, chunks, f"episode {self.number}")
        document: dict[str, Any] = {}

        def fill(folder: Path) -> None:
            durable.write_tensors(folder / FRAMES, frames)
            durable.write_tensors(folder / CHUNKS, chunks)
            files = {name: durable.digest(folder / name) for name in (FRAMES, CHUNKS)}
            document.update(
                checksummed_json.write(self._document(facts, frames, chunks, unused, files))
            )
            durable.write_json(folder / FACTS, document)

        durable.write_dir(target, fill)
        self.discard()
        return str(document[checksummed_json.DIGEST])

    def discard(self) -> None:
        """Throw the rows away; harmless when they are gone."""
        self.close()
        remove(self.path)

    def close(self) -> None:
        """Let go of the file and leave the rows to whoever resumes."""
        self._appender.close()

    def _document(
        self,
        facts: EpisodeFacts,
        frames: dict[str, Tensor],
        chunks: dict[str, Tensor],
        unused: int,
        files: dict[str, str],
    ) -> dict[str, Any]:
        stamp, host = frames["stamp"], frames["host"]
        for name in ("features", "sent"):
            names, width = getattr(facts, name), frames[name].shape[1]
            if names and len(names) != width:
                raise DataError(
                    f"episode {self.number}: {len(names)} names for {width} columns of '{name}'",
                    remedy="give one per column",
                )
        return {
            **facts.model_dump(mode="json"),
            "format_version": FORMAT_VERSION,
            "number": self.number,
            "steps": len(frames["chunk"]),
            "decisions": len(chunks["id"]),
            "unused_decisions": unused,
            "versions": [int(v) for v in chunks["version"].unique()],
            "robot_s": float(stamp[-1] - stamp[0]),
            "wall_s": float(host[-1] - host[0]),
            "intervention_share": float(frames["intervention"].double().mean()),
            "clip_share": float(frames["clipped"].double().mean()),
            "limits_digest": self._limits_digest,
            "files": files,
        }

    def _append(self, kind: str, arrays: dict[str, np.ndarray]) -> None:
        """Append a row that has the layout of those before it."""
        row = write_ahead_log.Row(kind, arrays)
        self._fits(row)
        self._appender.append(write_ahead_log.encode(kind, arrays), sync=False)
        self._note(row)

    def _fits(self, row: write_ahead_log.Row) -> None:
        layout = {name: (str(value.dtype), value.shape) for name, value in row.arrays.items()}
        last = row.kind in (LAST_FRAME, LAST_STATE)
        if last and row.kind in self._layout:
            raise DataError(
                f"episode {self.number} has ended already", remedy="discard the episode"
            )
        known = self._layout.get(row.kind, layout)
        if layout != known:
            odd = sorted(
                name for name in layout.keys() | known.keys() if layout.get(name) != known.get(name)
            )
            raise DataError(
                f"episode {self.number}: {', '.join(odd)} changed its shape",
                remedy="discard the episode",
            )
        for name, value in row.arrays.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise DataError(
                    f"episode {self.number}: {name} is not finite", remedy="discard the episode"
                )

    def _note(self, row: write_ahead_log.Row) -> None:
        self._layout.setdefault(
            row.kind, {name: (str(value.dtype), value.shape) for name, value in row.arrays.items()}
        )
        self.steps += row.kind == FRAME
        if row.kind == CHUNK:
            self._ids.add(int(row.arrays["id"]))


class RecordedEpisode:
    """A committed episode.  Facts are read at once, tensors when they are asked for; both are checked against their digests.

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
        if folder_path(path.parent, self.facts.number) != path or set(self.facts.files) != {
            FRAMES,
            CHUNKS,
        }:
            raise DataError(
                f"{path} holds episode {self.facts.number}", remedy="restore the folder's name"
            )

    # -- facts -------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """From 1."""
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
        """Robot seconds."""
        return self.facts.robot_s

    @property
    def wall_s(self) -> float:
        """Host seconds."""
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
        for name, wanted in self.facts.files.items():
            if durable.digest(self.path / name) != wanted:
                raise DataError(
                    f"{self.path / name} is damaged",
                    remedy="restore it from a copy (`dvc checkout`)",
                )
        frames, chunks = (
            durable.read_tensors(self.path / FRAMES),
            durable.read_tensors(self.path / CHUNKS),
        )
        tensor_schema.check(frames, chunks, str(self.path))
        if (len(frames["chunk"]), len(chunks["id"])) != (self.facts.steps, self.facts.decisions):
            raise DataError(
                f"{self.path} is not {self.facts.steps} steps long",
                remedy="restore it from a copy (`dvc checkout`)",
            )
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
        """(L,) whether the filter changed the target."""
        return self.frames["clipped"].numpy()

    @property
    def intervention(self) -> np.ndarray:
        """(L,) whether a person moved the arm."""
        return self.frames["intervention"].numpy()

    def transitions(self) -> EpisodeTransitions:
        """The decisions, as the learner takes them in."""
        from zprl.recordings.transitions import EpisodeTransitions

        names = (
            "embedding",
            "anchor",
            "point",
            "steps",
            "intervened",
            "final_embedding",
            "final_anchor",
        )
        return EpisodeTransitions(self.number, **{name: self.chunks[name] for name in names})

    @classmethod
    def of(cls, folder: Path, number: int) -> Self:
        """Episode ``number`` of ``episodes/``."""
        path = folder_path(folder, number)
        if not path.is_dir():
            raise DataError(
                f"there is no episode {number} in {folder.parent}",
                remedy="`zprl session show` lists the episodes",
            )
        return cls(path)


def folder_path(folder: Path, number: int) -> Path:
    """Of a committed episode."""
    return folder / f"{number:06d}"


def open_path(folder: Path, number: int) -> Path:
    """Of an open episode's rows."""
    return folder / f"open-{number:06d}{durable.PARTIAL}"


# -- from rows to tensors --------------------------------------------------------------------------


def _numbers(value: ArrayLike, dtype: type) -> np.ndarray:
    return np.asarray(value, dtype)


def _observed(
    stamp: float,
    host: float,
    obs: Mapping[str, ArrayLike],
    features: ArrayLike,
    measured: ArrayLike,
) -> dict[str, np.ndarray]:
    found = {name: np.asarray(value) for name, value in obs.items()}
    seen = {
        OBS + name: value if value.dtype == np.uint8 else value.astype(np.float32)
        for name, value in found.items()
    }
    rest = {"stamp": stamp, "host": host, "features": features, "measured": measured}
    return seen | {name: _numbers(value, np.float64) for name, value in rest.items()}


def _frames(found: list[write_ahead_log.Row]) -> dict[str, Tensor]:
    """Control steps, one after the other, and the last observation."""
    import torch

    steps = [row.arrays for row in found if row.kind == FRAME]
    last = next(row.arrays for row in found if row.kind == LAST_FRAME)
    odd = [
        name
        for name, value in last.items()
        if name not in steps[0] or steps[0][name].shape != value.shape
    ]
    if odd:
        raise DataError(
            f"the last observation has another {', '.join(odd)} than the steps before",
            remedy="discard the episode",
        )
    return {
        name: torch.from_numpy(
            np.stack([r[name] for r in steps] + ([last[name]] if name in last else []))
        )
        for name in steps[0]
    }


def _chunks(
    found: list[write_ahead_log.Row], frames: dict[str, Tensor], number: int
) -> tuple[dict[str, Tensor], int]:
    """The chunks that were executed, in order, with when and how long; and how many were not."""
    import torch

    recorded = {int(row.arrays["id"]): row.arrays for row in found if row.kind == CHUNK}
    played = frames["chunk"].numpy()
    executed = sorted({int(n) for n in played} - {NO_CHUNK})
    missing = [n for n in executed if n not in recorded]
    if missing or not executed:
        what = (
            f"chunk {missing[0]} was played but never recorded"
            if missing
            else "no chunk was played"
        )
        raise DataError(f"episode {number}: {what}", remedy="discard the episode")
    chunks = {
        name: torch.from_numpy(np.stack([recorded[n][name] for n in executed]))
        for name in recorded[executed[0]]
    }
    chunks["step"] = torch.tensor([int(np.flatnonzero(played == n)[0]) for n in executed])
    chunks["steps"] = torch.tensor([int((played == n).sum()) for n in executed])
    chunks["intervened"] = torch.from_numpy(
        _intervened(executed, chunks["step"].numpy(), frames["intervention"].numpy())
    )
    last = next(row.arrays for row in found if row.kind == LAST_STATE)
    return chunks | {name: torch.tensor(value) for name, value in last.items()}, len(
        recorded
    ) - len(executed)


def _intervened(executed: list[int], first: np.ndarray, intervention: np.ndarray) -> np.ndarray:
    """(M,) whether a person moved the arm between a chunk's first step and the next chunk's."""
    until = [*first[1:], len(intervention)]
    found = np.array([intervention[a:b].any() for a, b in zip(first, until, strict=True)], np.bool_)
    found[0] |= intervention[
        : first[0]
    ].any()  # before the first decision: nothing else can carry it
    return found
