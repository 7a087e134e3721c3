"""One episode of a LeRobot dataset from its rows in the table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zprl.data.episode import Episode
from zprl.data.readers.arrow_columns import exact, numbers, stills
from zprl.data.readers.hdf5_guard import MAX_BYTES, RefusedError
from zprl.data.readers.lerobot_keys import (
    ACTION,
    DONE,
    INDEX,
    REWARD,
    SUCCESS,
    TIME,
    Parts,
    camera_of,
)
from zprl.data.readers.lerobot_lists import EpisodeMetadata
from zprl.data.readers.lerobot_meta import INFO, Info, inside
from zprl.data.readers.parquet_guard import read_batches
from zprl.data.readers.video import read_frames

if TYPE_CHECKING:
    import pyarrow as pa


class OffBeatError(RefusedError):
    """Timestamps do not fit the rate (D09).

    Args:
        frame: The first that does not.
        message: One sentence with the numbers.
    """

    def __init__(self, frame: int, message: str) -> None:
        super().__init__("D09", message, "check for lost frames; record at a steady rate")
        self.frame = frame


def split_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows of each episode of a file; an episode's rows follow one another.

    Raises:
        RefusedError: D01, D02, D17, or D05 where they do not.
    """
    import pyarrow as pa

    seen: set[int] = set()
    pending: list[pa.RecordBatch] = []
    number: int | None = None
    for batch in read_batches(path, columns):
        # An episode may begin or end anywhere in a batch.
        batch = batch.select(list(columns))
        indices = exact(pa.chunked_array([batch.column(INDEX)]), INDEX)
        edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
        for start, stop in itertools.pairwise(edges):
            if start == stop:
                continue
            if number is not None and indices[start] != number:
                yield number, pa.Table.from_batches(pending)
                pending = []
            if indices[start] != number:
                number = int(indices[start])
                if number in seen:
                    raise RefusedError(
                        "D05",
                        f"the frames of episode {number} do not follow one another",
                        "sort the rows by index",
                    )
                seen.add(number)
            pending.append(batch.slice(start, stop - start))
            if sum(part.nbytes for part in pending) > MAX_BYTES:
                raise RefusedError(
                    "D17",
                    f"episode {number} takes more than {MAX_BYTES} bytes",
                    "split long episodes",
                )
    if number is not None:
        yield number, pa.Table.from_batches(pending)


def read_episode(
    name: str, info: Info, row: EpisodeMetadata, table: pa.Table, keys: Sequence[str], parts: Parts
) -> Episode:
    """Read one episode from its rows.

    Args:
        name: Name of the episode.
        info: The dataset's metadata.
        row: The episode's row in ``meta/episodes``.
        table: Its rows.
        keys: Observations to read, in order.
        parts: Feature and place of each key of state.

    Raises:
        RefusedError: D01 to D05, D09, D16 or D17; D09 with its frame.
    """
    length = table.num_rows
    if length != row.length:
        text = f"it has {length} frames, meta/episodes says {row.length}"
        raise RefusedError("D03", text, "repair or re-record the demo")
    times = exact(table[TIME], TIME)
    _check_beat(times, info.rate_hz)

    actions = numbers(table[ACTION], ACTION)
    obs = _observations(info, row, table, keys, parts, float(times[0]))
    rewards, dones, won = (
        numbers(table[name], name)[:, 0] if name in table.column_names else None
        for name in (REWARD, DONE, SUCCESS)
    )

    # Without a label, the columns tell; without those, it counts as one (a warning says so).
    success = row.success
    if success is None:
        evidence = rewards if won is None else won
        success = True if evidence is None else bool((evidence >= 1.0).any())

    last = np.arange(length) == length - 1
    return Episode(
        name=name,
        obs=obs,
        actions=actions,
        rewards=(last * success).astype(np.float32) if rewards is None else rewards,
        dones=last if dones is None else dones > 0.5,
        success=success,
        quality=row.quality,
        rate_hz=info.rate_hz,
    )


def _observations(
    info: Info,
    row: EpisodeMetadata,
    table: pa.Table,
    keys: Sequence[str],
    parts: Parts,
    first_s: float,
) -> dict[str, np.ndarray]:
    """Read the observations of an episode whose first timestamp is ``first_s`` [s]."""
    vectors: dict[str, np.ndarray] = {}
    obs = {}
    for key in keys:
        if key not in parts:
            obs[key] = _images(info, row, table, camera_of(info, key), first_s)
            continue
        # Several keys may be parts of one vector.
        feature, where = parts[key]
        if feature not in vectors:
            vectors[feature] = _vector(info, table, feature)
        obs[key] = np.ascontiguousarray(vectors[feature][:, where])
    return obs


def _vector(info: Info, table: pa.Table, name: str) -> np.ndarray:
    """Read a feature (L, d), whose width must be the declared one."""
    value, shape = numbers(table[name], name), info.features[name].shape
    if len(shape) == 1 and value.shape[1] != shape[0]:
        raise RefusedError(
            "D05",
            f"{name} has {value.shape[1]} numbers a frame, {INFO} says {shape[0]}",
            "check that both are of one set",
        )
    return value


def _images(
    info: Info, row: EpisodeMetadata, table: pa.Table, name: str, first_s: float
) -> np.ndarray:
    """Read the images of one camera (L, H, W, 3), from the table or a video."""
    if info.features[name].dtype == "image":
        return stills(table[name], name)
    file, start_s = row.videos[name]
    try:
        return read_frames(
            inside(info.root, file),
            start_s=start_s + first_s,
            rate_hz=info.rate_hz,
            frames=table.num_rows,
        )
    except RefusedError as error:
        text = f"{file}: {error}" if file not in str(error) else str(error)
        raise RefusedError(error.code, text, error.remedy) from error


def _check_beat(times: np.ndarray, rate_hz: float) -> None:
    """Raise :class:`OffBeatError` at a frame not later than the last, or over half a frame off."""
    ideal = times[0] + np.arange(len(times)) / rate_hz
    # Stored as float32, a time is off by up to 2^-24 of itself.
    good = np.abs(times - ideal) <= 0.5 / rate_hz + 2**-23 * np.abs(times)
    good[1:] &= np.diff(times) > 0
    if not good.all():
        off = int((~good).argmax())
        place = f"{times[off]:.4f} s at frame {off}"
        text = f"timestamps do not fit {rate_hz:g} frames per second: {place}"
        raise OffBeatError(off, text)
