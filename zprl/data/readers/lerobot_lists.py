"""Lists of a LeRobot dataset: places and labels of its episodes, and its tasks.

They may have any length, so they are read in the child of :mod:`zprl.data.readers.sandbox`; rows
alone come back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zprl.data.episode import QUALITIES
from zprl.data.readers import sandbox
from zprl.data.readers.hdf5_guard import RefusedError
from zprl.data.readers.lerobot_meta import (
    WHOLE,
    Info,
    fill,
    inside,
    json_object,
    read_info,
    shown,
    whole_number,
)
from zprl.data.readers.parquet_guard import footer_names, read_here

EPISODES = "meta/episodes"
MAX_META = 2**28
MAX_LISTED = 2**26
"""Bytes of a list of v2.1."""
MAX_LINE = 2**18
"""Bytes of one of its lines."""
MAX_EPISODES = 100_000
"""The largest public set, DROID, has 95,600."""
MAX_TASK = 200
"""Letters of a task that are repeated."""
MAX_FRAMES = 10**7


@dataclass(frozen=True, slots=True)
class EpisodeMetadata:
    """Place and labels of an episode.

    Attributes:
        index: Its number.
        length: Frames.
        success: As labelled; ``None`` without a label.
        quality: One of :data:`zprl.data.episode.QUALITIES`.
        data: Parquet file, relative to the dataset.
        videos: Per feature its file, relative to the dataset, and the second in it at which the
            episode begins.
    """

    index: int
    length: int
    success: bool | None
    quality: str
    data: str
    videos: Mapping[str, tuple[str, float]]


def read_episodes(info: Info, cameras: Sequence[str] = ()) -> tuple[list[EpisodeMetadata], bool]:
    """Return all episodes by number, and whether they have labels of success.

    Args:
        info: The dataset's ``info.json``.
        cameras: Full names of the features whose videos are looked up.

    Raises:
        RefusedError: D01, D02, D05, D16, D17 or D18.
    """
    listed, labelled = sandbox.PROBE.call(
        f"{__name__}:list_episodes",
        limit_s=sandbox.BASE_S,
        root=str(info.root.absolute()),
        cameras=list(cameras),
    )
    rows = [
        EpisodeMetadata(
            index=index,
            length=length,
            success=success,
            quality=quality,
            data=data,
            videos={name: (file, start) for name, file, start in videos},
        )
        for index, length, success, quality, data, videos in listed
    ]
    return rows, labelled


def list_episodes(root: str, cameras: Sequence[str]) -> tuple[list[list[Any]], bool]:
    """List episodes for :func:`read_episodes` as plain JSON: in the child."""
    info = read_info(Path(root))
    video_cameras = [name for name in cameras if info.features[name].dtype == "video"]
    rows: dict[int, EpisodeMetadata] = {}
    labelled = False
    listed = _rows_v21(info) if info.version == "v2.1" else _rows_v30(info, video_cameras)
    for fields in listed:
        row = _row(info, fields, video_cameras)
        labelled |= "success" in fields
        if row.index in rows:
            raise RefusedError(
                "D18",
                f"episode {row.index} is listed twice in meta/episodes",
                "remove one of the two rows",
            )
        if len(rows) == MAX_EPISODES:
            raise RefusedError(
                "D17", f"more than {MAX_EPISODES} episodes are listed", "split the dataset"
            )
        rows[row.index] = row

    if not rows:
        raise RefusedError(
            "D02",
            "the dataset lists no episodes",
            "record some, or take the folder out of the data",
        )
    return [_plain(rows[index]) for index in sorted(rows)], labelled


def read_tasks(info: Info, most: int = 3) -> list[str]:
    """Return the first sentences that say what was to be done.

    Raises:
        RefusedError: they cannot be read.
    """
    tasks = sandbox.PROBE.call(
        f"{__name__}:list_tasks",
        limit_s=sandbox.BASE_S,
        root=str(info.root.absolute()),
        most=most,
    )
    return [str(task) for task in tasks]


def list_tasks(root: str, most: int) -> list[str]:
    """List sentences for :func:`read_tasks`: in the child."""
    info = read_info(Path(root))
    if info.version == "v2.1":
        rows: Iterator[dict[str, Any]] = _lines(info, "meta/tasks.jsonl")
    else:
        path = inside(info.root, "meta/tasks.parquet", limit=MAX_META)
        names = footer_names(str(path))
        column = next(name for name in ("task", "__index_level_0__") if name in names)
        rows = (
            {"task": row[column]}
            for batch in read_here(path, [column])
            for row in batch.to_pylist()
        )
    return [str(row.get("task"))[:MAX_TASK] for row in itertools.islice(rows, most)]


def _rows_v21(info: Info) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``meta/episodes.jsonl`` of v2.1."""
    for row in _lines(info, "meta/episodes.jsonl"):
        index = whole_number(row, "episode_index", "meta/episodes.jsonl", most=MAX_EPISODES)
        yield row | {"fields": {"episode_chunk": index // info.chunk, "episode_index": index}}


def _rows_v30(info: Info, video_cameras: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``meta/episodes`` of v3.0."""
    files = sorted((info.root / "meta/episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise RefusedError("D02", "meta/episodes is missing or empty", WHOLE)
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    wanted += [
        f"videos/{name}/{part}"
        for name in video_cameras
        for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    ]

    for file in files:
        place = file.relative_to(info.root).as_posix()
        path = inside(info.root, place, limit=MAX_META)
        try:
            names = footer_names(str(path))
            columns = [*wanted, *(name for name in ("success", "quality") if name in names)]
            for batch in read_here(path, columns):
                yield from batch.select(columns).to_pylist()
        except RefusedError as error:
            raise RefusedError(error.code, f"{place}: {error}", error.remedy) from error


def _row(info: Info, fields: dict[str, Any], video_cameras: Sequence[str]) -> EpisodeMetadata:
    """Check one row of ``meta/episodes``."""
    index = whole_number(fields, "episode_index", EPISODES, most=MAX_EPISODES)
    if info.version == "v2.1":
        data = fill(info.data_path, **fields["fields"])
        videos = {
            name: (fill(info.video_path, video_key=name, **fields["fields"]), 0.0)
            for name in video_cameras
        }
    else:
        data = fill(info.data_path, **_numbers_of(fields, "data"))
        videos = {name: _video_v30(info, fields, name, index) for name in video_cameras}

    success = fields.get("success")
    if success is not None and success not in (0, 1):
        raise RefusedError(
            "D05", f"success of episode {index} is {shown(success)}", "write true or false"
        )
    quality = fields.get("quality")
    return EpisodeMetadata(
        index=index,
        length=whole_number(fields, "length", EPISODES, least=1, most=MAX_FRAMES),
        success=None if success is None else bool(success),
        quality=quality if quality in QUALITIES else "unknown",
        data=data,
        videos=videos,
    )


def _video_v30(info: Info, fields: dict[str, Any], name: str, index: int) -> tuple[str, float]:
    """Return the file of an episode's video, and the second in it at which the episode begins."""
    start = fields.get(f"videos/{name}/from_timestamp")
    end = fields.get(f"videos/{name}/to_timestamp")
    if (
        not isinstance(start, float)
        or not isinstance(end, float)
        or not 0 <= start < end < MAX_FRAMES
    ):
        text = f"episode {index} of {name} is said to last from {start} to {end} s"
        raise RefusedError("D05", text, WHOLE)
    file = fill(info.video_path, video_key=name, **_numbers_of(fields, f"videos/{name}"))
    return file, start


def _numbers_of(fields: dict[str, Any], group: str) -> dict[str, int]:
    """Return the numbers of a chunk and a file, for the path templates of v3.0."""
    return {
        name: whole_number(fields, f"{group}/{name}", EPISODES, key=name)
        for name in ("chunk_index", "file_index")
    }


def _plain(row: EpisodeMetadata) -> list[Any]:
    videos = [[name, file, start] for name, (file, start) in row.videos.items()]
    return [row.index, row.length, row.success, row.quality, row.data, videos]


def _lines(info: Info, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines, whose number is checked first."""
    path = inside(info.root, name, limit=MAX_LISTED)
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    if lines > MAX_EPISODES:
        raise RefusedError(
            "D17", f"{name} has {lines} lines, the limit is {MAX_EPISODES}", "split the dataset"
        )

    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise RefusedError(
                    "D17",
                    f"{name}, line {number} is longer than {MAX_LINE} bytes",
                    "split the dataset",
                )
            if line.strip():
                yield json_object(f"{name}, line {number}", line, MAX_LINE)
