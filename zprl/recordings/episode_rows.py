"""Rows of an open episode: how they are made, and the tensors that become of them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zprl.errors import DataError
from zprl.recordings.tensor_schema import NO_CHUNK, OBS
from zprl.recordings.write_ahead_log import Row

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

FRAME, CHUNK, LAST_FRAME, LAST_STATE = "F", "C", "L", "S"
"""Kinds of rows."""


def observation(
    stamp: float,
    host: float,
    obs: Mapping[str, ArrayLike],
    features: ArrayLike,
    measured: ArrayLike,
) -> dict[str, np.ndarray]:
    """Return the arrays of one observation; arguments as in ``EpisodeWriter.add_frame``."""
    given = {OBS + name: np.asarray(value) for name, value in obs.items()}
    seen = {
        name: value if value.dtype == np.uint8 else value.astype(np.float32)
        for name, value in given.items()
    }
    rest = {"stamp": stamp, "host": host, "features": features, "measured": measured}
    return seen | {name: np.asarray(value, np.float64) for name, value in rest.items()}


def frames_of(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Stack the control steps, and behind them the last observation.

    Returns:
        Tensors (L, ...), those of observations (L + 1, ...).

    Raises:
        DataError: the last observation is unlike the others.
    """
    import torch

    steps = [row.arrays for row in rows if row.kind == FRAME]
    first = steps[0]
    last = next(row.arrays for row in rows if row.kind == LAST_FRAME)
    odd = [n for n, value in last.items() if n not in first or first[n].shape != value.shape]
    if odd:
        raise DataError(
            f"the last observation has another {', '.join(odd)} than the steps before",
            remedy="discard the episode",
        )

    def stacked(name: str) -> Tensor:
        values = [step[name] for step in steps]
        return torch.from_numpy(np.stack([*values, last[name]] if name in last else values))

    return {name: stacked(name) for name in first}


def chunks_of(
    rows: Sequence[Row], frames: Mapping[str, Tensor], number: int
) -> tuple[dict[str, Tensor], int]:
    """Stack the chunks that were executed, in the order in which they were played.

    Args:
        rows: All rows of the episode.
        frames: Its control steps (:func:`frames_of`); they say which chunk was played when.
        number: The episode's number, for errors.

    Returns:
        Tensors (M, ...), and how many chunks were not executed.

    Raises:
        DataError: no chunk was played, or one that was not recorded.
    """
    import torch

    recorded = {int(row.arrays["id"]): row.arrays for row in rows if row.kind == CHUNK}
    played = frames["chunk"].numpy()
    executed = sorted({int(n) for n in played} - {NO_CHUNK})
    _check_recorded(executed, recorded, number)

    chunks = {
        name: torch.from_numpy(np.stack([recorded[n][name] for n in executed]))
        for name in recorded[executed[0]]
    }
    chunks["step"] = torch.tensor([int(np.flatnonzero(played == n)[0]) for n in executed])
    chunks["steps"] = torch.tensor([int((played == n).sum()) for n in executed])
    chunks["intervened"] = torch.from_numpy(
        _intervened(chunks["step"].numpy(), frames["intervention"].numpy())
    )

    last = next(row.arrays for row in rows if row.kind == LAST_STATE)
    chunks |= {name: torch.tensor(value) for name, value in last.items()}
    return chunks, len(recorded) - len(executed)


def _check_recorded(executed: Sequence[int], recorded: Container[int], number: int) -> None:
    missing = [n for n in executed if n not in recorded]
    if missing:
        problem = f"chunk {missing[0]} was played but never recorded"
    elif not executed:
        problem = "no chunk was played"
    else:
        return
    raise DataError(f"episode {number}: {problem}", remedy="discard the episode")


def _intervened(first: np.ndarray, intervention: np.ndarray) -> np.ndarray:
    """Return (M,): a person moved the arm between a chunk's first step and the next chunk's.

    Args:
        first: (M,) first control step of each chunk.
        intervention: (L,) bool.
    """
    until = [*first[1:], len(intervention)]
    moved = [intervention[a:b].any() for a, b in zip(first, until, strict=True)]
    intervened = np.array(moved, np.bool_)
    # No decision stands before the first one: it carries what a person moved until then.
    intervened[0] |= intervention[: first[0]].any()
    return intervened
