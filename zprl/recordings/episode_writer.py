"""Writer of one episode: row by row while it runs, then committed as a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zprl import durable
from zprl.errors import DataError
from zprl.recordings import checksummed_json, tensor_schema, write_ahead_log
from zprl.recordings.append_file import Appender, remove
from zprl.recordings.episode_record import (
    CHUNKS,
    FACTS,
    FORMAT_VERSION,
    FRAMES,
    EpisodeFacts,
    folder_path,
    open_path,
)
from zprl.recordings.episode_rows import (
    CHUNK,
    FRAME,
    LAST_FRAME,
    LAST_STATE,
    chunks_of,
    frames_of,
    observation,
)
from zprl.recordings.tensor_schema import NO_CHUNK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Name of an array to its dtype and shape."""

DISCARD = "discard the episode"
"""Remedy for rows that do not fit together."""


class EpisodeWriter:
    """Writer of the open episode.

    A row outlives this process when its method returns; :meth:`commit` makes all rows durable.

    Control steps and chunks come from two processes and may come in any order.  Which chunk was
    executed when and for how long, and whether a person took over meanwhile, follows from the
    control steps alone.

    Args:
        folder: ``episodes/``.
        number: The episode's number.
        limits_digest: SHA-256 of the limits it runs under.
        resume: Go on with the rows that a killed writer left.
    """

    def __init__(
        self, folder: Path, number: int, *, limits_digest: str, resume: bool = False
    ) -> None:
        self.number = number
        self.path = open_path(folder, number)
        self.steps = 0
        self._folder = folder
        self._limits_digest = limits_digest
        self._layout: dict[str, Layout] = {}
        self._ids: set[int] = set()

        if not resume:
            self._appender = Appender(self.path, new=True)
            return
        rows, size = write_ahead_log.read(self.path)
        self._appender = Appender(self.path)
        self._appender.cut(size)
        for row in rows:
            self._note(row)

    @property
    def complete(self) -> bool:
        """True once there are a control step, a chunk, the last observation and its embedding."""
        ended = LAST_FRAME in self._layout and LAST_STATE in self._layout
        return ended and self.steps > 0 and bool(self._ids)

    def add_frame(  # noqa: PLR0913 - the columns of a row, given by name
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
            step: Its number, counted from 0 without gaps.
            stamp: When the state was measured, robot's clock [s].
            host: When it was recorded, host's monotonic clock [s].
            obs: Policy key to (d,) float32, or to an image (uint8).
            features: (P,) raw features.
            measured: (7,) tool pose: position [m], quaternion xyzw; 7 more per further arm.
            commanded: (A,) the policy's action before the filter.
            sent: (P',) features really sent last, before this step's target.
            chunk: Id of the chunk that was played; -1 for none.
            wrench: (6,) at the tool [N, Nm]; ``None`` where the robot has no such sensor.
            intervention: Whether a person moved the arm.
            clipped: Whether the filter changed a target since the step before.

        Raises:
            DataError: not finite, another shape than before, or a step is missing.
            EnvironmentProblem: the disk is full or broken; the row was not appended.
        """
        if step != self.steps:
            raise self._error(f"control step {step} came where {self.steps} was due")
        arrays = observation(stamp, host, obs, features, measured) | {
            "commanded": np.asarray(commanded, np.float32),
            "sent": np.asarray(sent, np.float64),
            "chunk": np.asarray(chunk, np.int64),
            "intervention": np.asarray(intervention, np.bool_),
            "clipped": np.asarray(clipped, np.bool_),
        }
        if wrench is not None:
            arrays["wrench"] = np.asarray(wrench, np.float64)
        self._append(FRAME, arrays)

    def add_chunk(  # noqa: PLR0913 - the columns of a row, given by name
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
        """Append one decision; the control steps show later whether it was executed.

        Args:
            id: Number of the decision within the episode.
            version: Version of the weights.
            obs_step: Control step of the newest observation it was made from.
            obs_stamp: That observation's stamp [s].
            embedding: (D,) of the observation.
            anchor: (R,) the point the frozen policy takes.
            residual: (R,) the agent's, in [-1, 1].
            point: (R,) the point taken.
            targets: (C, A) actions of the chunk.
            mean: (Z,) of the posterior; latent space only.
            log_std: (Z,) of the posterior; latent space only.

        Raises:
            DataError: see :meth:`add_frame`; or this decision was recorded before.
        """
        if id in self._ids or id < 0:
            raise self._error(f"chunk {id} came twice")
        vectors = {
            "embedding": embedding,
            "anchor": anchor,
            "residual": residual,
            "point": point,
            "targets": targets,
            "mean": mean,
            "log_std": log_std,
        }
        whole = {"id": id, "version": version, "obs_step": obs_step}

        arrays = _as_type(np.float32, {k: v for k, v in vectors.items() if v is not None})
        arrays |= _as_type(np.int64, whole) | _as_type(np.float64, {"obs_stamp": obs_stamp})
        self._append(CHUNK, arrays)

    def finish(
        self,
        *,
        stamp: float,
        host: float,
        obs: Mapping[str, ArrayLike],
        features: ArrayLike,
        measured: ArrayLike,
    ) -> None:
        """Append the observation after the last action; arguments as in :meth:`add_frame`."""
        self._append(LAST_FRAME, observation(stamp, host, obs, features, measured))

    def finish_state(self, *, final_embedding: ArrayLike, final_anchor: ArrayLike) -> None:
        """Append the policy's embedding (D,) and anchor (R,) of the last observation."""
        vectors = {"final_embedding": final_embedding, "final_anchor": final_anchor}
        self._append(LAST_STATE, _as_type(np.float32, vectors))

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
                f"episode {self.number} is not complete:"
                " it needs a control step, a chunk and its last observation",
                remedy="discard it",
            )

        # From the file, not from memory: with or without a kill in between the result is the same.
        rows, _ = write_ahead_log.read(self.path)
        frames = frames_of(rows)
        chunks, unused = chunks_of(rows, frames, self.number)
        tensor_schema.check(frames, chunks, f"episode {self.number}")
        document: dict[str, Any] = {}

        def fill(folder: Path) -> None:
            durable.write_tensors(folder / FRAMES, frames)
            durable.write_tensors(folder / CHUNKS, chunks)
            files = {name: durable.digest(folder / name) for name in (FRAMES, CHUNKS)}
            content = self._document(facts, frames, chunks, unused, files)
            document.update(checksummed_json.write(content))
            durable.write_json(folder / FACTS, document)

        durable.write_dir(target, fill)
        self.discard()
        return str(document[checksummed_json.DIGEST])

    def discard(self) -> None:
        """Throw the rows away; harmless when they are gone."""
        self.close()
        remove(self.path)

    def close(self) -> None:
        """Close the file and leave the rows to the writer that resumes."""
        self._appender.close()

    def _error(self, problem: str) -> DataError:
        """Return the error for a row that does not fit those before it."""
        return DataError(f"episode {self.number}: {problem}", remedy=DISCARD)

    def _document(
        self,
        facts: EpisodeFacts,
        frames: dict[str, Tensor],
        chunks: dict[str, Tensor],
        unused: int,
        files: dict[str, str],
    ) -> dict[str, Any]:
        """Return the content of ``episode.json``, without its digest."""
        import torch

        for name in ("features", "sent"):
            names, width = getattr(facts, name), frames[name].shape[1]
            if names and len(names) != width:
                raise DataError(
                    f"episode {self.number}: {len(names)} names for {width} columns of '{name}'",
                    remedy="give one per column",
                )

        stamp, host = frames["stamp"], frames["host"]
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
            "intervention_share": float(frames["intervention"].to(torch.float64).mean()),
            "clip_share": float(frames["clipped"].to(torch.float64).mean()),
            "limits_digest": self._limits_digest,
            "files": files,
        }

    def _append(self, kind: str, arrays: dict[str, np.ndarray]) -> None:
        """Append a row that has the layout of those before it."""
        row = write_ahead_log.Row(kind, arrays)
        self._check(row)
        self._appender.append(write_ahead_log.encode(kind, arrays), sync=False)
        self._note(row)

    def _check(self, row: write_ahead_log.Row) -> None:
        """Refuse a row that does not fit the rows before it, or is not finite."""
        if row.kind in (LAST_FRAME, LAST_STATE) and row.kind in self._layout:
            raise DataError(f"episode {self.number} has ended already", remedy=DISCARD)

        layout = _layout(row)
        known = self._layout.get(row.kind, layout)
        odd = sorted(n for n in layout.keys() | known.keys() if layout.get(n) != known.get(n))
        if odd:
            raise self._error(f"{', '.join(odd)} changed its shape")

        for name, value in row.arrays.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise self._error(f"{name} is not finite")

    def _note(self, row: write_ahead_log.Row) -> None:
        """Remember what later rows are checked against."""
        self._layout.setdefault(row.kind, _layout(row))
        self.steps += row.kind == FRAME
        if row.kind == CHUNK:
            self._ids.add(int(row.arrays["id"]))


def _layout(row: write_ahead_log.Row) -> Layout:
    return {name: (str(value.dtype), value.shape) for name, value in row.arrays.items()}


def _as_type(dtype: type, values: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, dtype) for name, value in values.items()}
