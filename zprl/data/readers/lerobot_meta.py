"""Metadata of a LeRobot dataset (``meta/``): features, places of episodes, tasks.

The formats are v2.1 and v3.0.  Everything is checked before it is used: versions, sizes, names, and
that every path a template or a link makes stays in the folder.  Lists of episodes and tasks, which
may have any length, are read in the child of :mod:`zprl.data.readers.sandbox`; rows alone come
back.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.data.episode import QUALITIES
from zprl.data.readers import sandbox
from zprl.data.readers.hdf5_guard import RefusedError, safe_name
from zprl.data.readers.parquet_guard import footer_names, read_here
from zprl.errors import DataError

INFO = "meta/info.json"
EPISODES = "meta/episodes"
VERSIONS = ("v2.1", "v3.0")
IMAGE_TYPES = ("image", "video")
NUMBERS = re.compile(r"(float|u?int)\d+|bool")
MAX_INFO = 4 * 2**20
MAX_META = 2**28
MAX_LISTED, MAX_LINE = 2**26, 2**18
"""Bytes of a list of v2.1, and of one of its lines."""
MAX_EPISODES = 100_000
"""The largest public set, DROID, has 95,600."""
MAX_TASK = 200
"""Letters of a task that are repeated."""
MAX_ROBOT = 60
"""Letters of the robot's type that are repeated."""
MAX_SHOWN = 20
"""Letters of a wrong value that are repeated."""
MAX_FRAMES = 10**7
MAX_RATE = 10_000
PLACE = re.compile(r"\{(\w+)(?::0?(\d))?d?\}")
"""A field of a path template: a name, and a width of one digit."""
WHOLE = "check that the folder was copied whole, with links followed (`cp -rL`)"


@dataclass(frozen=True)
class Feature:
    """A column, or the images of a camera.

    Attributes:
        dtype: As ``info.json`` says; ``image`` and ``video`` are images.
        shape: Shape of one frame.
        names: Names of a vector's numbers, where they are a plain list.
        depth: True if images hold distances, not colours.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    depth: bool


@dataclass(frozen=True)
class Info:
    """The content of ``meta/info.json``.

    Attributes:
        root: The dataset's folder.
        version: One of :data:`VERSIONS`.
        rate_hz: Frames per second.
        robot: Its type, or empty.
        features: By full name, e.g. ``observation.state``.
        data_path: Template of Parquet files.
        video_path: Template of videos; empty where there are none.
        chunk: Episodes per folder in v2.1.
        episodes: Declared number of episodes, if there is one.
        frames: Declared number of frames, if there is one.
    """

    root: Path
    version: str
    rate_hz: float
    robot: str
    features: Mapping[str, Feature]
    data_path: str
    video_path: str
    chunk: int
    episodes: int | None
    frames: int | None

    @property
    def cameras(self) -> list[str]:
        """Full names of the features that are images of colours."""
        return [
            name
            for name, feature in self.features.items()
            if feature.dtype in IMAGE_TYPES and not feature.depth
        ]


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


def read_info(root: Path) -> Info:
    """Read ``meta/info.json``.

    Raises:
        RefusedError: D01, D02, D05, D16, D17, D18 or D20.
    """
    content = _object(INFO, inside(root, INFO, limit=MAX_INFO).read_bytes(), MAX_INFO)
    version = content.get("codebase_version")
    if version not in VERSIONS:
        remedy = (
            "convert it with LeRobot's own converters "
            "(lerobot.datasets.v30.convert_dataset_v21_to_v30 and its forerunners)"
        )
        text = f"format version {_shown(version)}, read are {' and '.join(VERSIONS)}"
        raise RefusedError("D20", text, remedy)

    rate = content.get("fps")
    if (
        isinstance(rate, bool)
        or not isinstance(rate, int | float)
        or not math.isfinite(rate)
        or not 0 < rate <= MAX_RATE
    ):
        raise RefusedError("D05", f"fps in {INFO} is {_shown(rate)}", "write the frames per second")

    features = content.get("features")
    if not isinstance(features, dict) or not all(
        isinstance(feature, dict) for feature in features.values()
    ):
        raise RefusedError("D02", f"{INFO} has no features", WHOLE)
    odd = next((name for name in features if not safe_name(name)), None)
    if odd is not None:
        raise RefusedError(
            "D18",
            f"the feature {odd[:40]!a} has no safe name",
            "rename it to at most 100 plain characters",
        )

    return Info(
        root=root,
        version=version,
        rate_hz=float(rate),
        robot=str(content.get("robot_type") or "")[:MAX_ROBOT],
        features={name: _feature(feature) for name, feature in features.items()},
        data_path=str(content.get("data_path") or ""),
        video_path=str(content.get("video_path") or ""),
        chunk=_count(content, "chunks_size", INFO, least=1) if version == "v2.1" else 1,
        episodes=_total(content, "total_episodes"),
        frames=_total(content, "total_frames"),
    )


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


def inside(root: Path, relative: str, *, limit: int | None = None) -> Path:
    """Return the regular file at ``relative``, which must not lie outside ``root``.

    Raises:
        RefusedError: D18 for a path that leaves the folder, D16 for a link that does, D02 for a
            missing file, D17 beyond ``limit`` bytes.
    """
    parts = relative.split("/")
    if not all(safe_name(part) for part in parts):
        raise RefusedError(
            "D18",
            f"the path {relative[:80]!a} is not safe",
            "write plain relative paths into meta/info.json",
        )

    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise RefusedError(
            "D16",
            f"{relative} is a link out of the dataset's folder",
            "copy the folder with links followed: `cp -rL`",
        )
    if not path.is_file():
        raise RefusedError("D02", f"{relative} is missing", WHOLE)
    if limit is not None and path.stat().st_size > limit:
        raise RefusedError(
            "D17",
            f"{relative} has {path.stat().st_size} bytes, the limit is {limit}",
            "split the dataset",
        )
    return path


def fill(template: str, **values: int | str) -> str:
    """Fill the fields of a path template: plain names and widths of one digit, no attributes.

    >>> fill("data/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", chunk_index=1, file_index=20)
    'data/chunk-001/file-020.mp4'

    Raises:
        RefusedError: D18.
    """

    def one(match: re.Match[str]) -> str:
        value = values.get(match[1])
        if value is None:
            raise RefusedError(
                "D18",
                f"the path template {template[:80]!a} has an unknown field",
                "write LeRobot's own templates",
            )
        return str(value).zfill(int(match[2] or 0))

    filled = PLACE.sub(one, template)
    if not template or set(filled) & set("{}"):
        raise RefusedError(
            "D18",
            f"the path template {template[:80]!a} is not one of LeRobot's",
            "write LeRobot's own templates",
        )
    return filled


def _shown(value: object) -> str:
    """Return the beginning of a wrong value, in quotation marks and printable."""
    return ascii(str(value)[:MAX_SHOWN])


def _total(content: Mapping[str, Any], name: str) -> int | None:
    value = content.get(name)
    return value if isinstance(value, int) else None


def _feature(entry: dict[str, Any]) -> Feature:
    """Read one entry of ``features``; what cannot be understood counts as missing."""
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        shape = []
    names = entry.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    more = [part for part in (entry.get("info"), entry.get("video_info")) if isinstance(part, dict)]
    return Feature(
        dtype=str(entry.get("dtype")),
        shape=tuple(shape),
        names=None if names is None else tuple(names),
        depth=any(part.get("is_depth_map") or part.get("video.is_depth_map") for part in more),
    )


def _rows_v21(info: Info) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``meta/episodes.jsonl`` of v2.1."""
    for row in _lines(info, "meta/episodes.jsonl"):
        index = _count(row, "episode_index", "meta/episodes.jsonl", most=MAX_EPISODES)
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
    index = _count(fields, "episode_index", EPISODES, most=MAX_EPISODES)
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
    if success is not None and not isinstance(success, bool | int | float):
        raise RefusedError(
            "D05", f"success of episode {index} is {_shown(success)}", "write true or false"
        )
    quality = fields.get("quality")
    return EpisodeMetadata(
        index=index,
        length=_count(fields, "length", EPISODES, least=1, most=MAX_FRAMES),
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
        name: _count(fields, f"{group}/{name}", EPISODES, key=name)
        for name in ("chunk_index", "file_index")
    }


def _count(
    fields: Mapping[str, Any],
    name: str,
    place: str,
    *,
    least: int = 0,
    most: int = 10**9,
    key: str | None = None,
) -> int:
    """Return a whole number from ``least`` to ``most``, or raise :class:`RefusedError` (D05)."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        text = (
            f"{key or name} in {place} is {_shown(value)}, "
            f"expected a whole number from {least} to {most}"
        )
        raise RefusedError("D05", text, WHOLE)
    return value


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
                yield _object(f"{name}, line {number}", line, MAX_LINE)


def _object(place: str, text: bytes, limit: int) -> dict[str, Any]:
    """Parse a JSON object, or raise :class:`RefusedError` (D01)."""
    try:
        value = durable.parse_json(text, place, limit=limit, allow_nan=True)
    except DataError as error:
        raise RefusedError("D01", error.message, WHOLE) from error
    if not isinstance(value, dict):
        raise RefusedError("D01", f"{place} is not a JSON object", WHOLE)
    return value
