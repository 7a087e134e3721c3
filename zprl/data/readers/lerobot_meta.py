"""Metadata of a LeRobot dataset, ``meta/info.json``: formats, features, paths of files.

The formats are v2.1 and v3.0.  Everything is checked before it is used: versions, sizes, names, and
that every path a template or a link makes stays in the folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.data.readers.hdf5_guard import RefusedError, safe_name
from zprl.errors import DataError

INFO = "meta/info.json"
VERSIONS = ("v2.1", "v3.0")
IMAGE_TYPES = ("image", "video")
NUMBERS = re.compile(r"(float|u?int)\d+|bool")
MAX_INFO = 4 * 2**20
MAX_ROBOT = 60
"""Letters of the robot's type that are repeated."""
MAX_SHOWN = 20
"""Letters of a wrong value that are repeated."""
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


def read_info(root: Path) -> Info:
    """Read ``meta/info.json``.

    Raises:
        RefusedError: D01, D02, D05, D16, D17, D18 or D20.
    """
    content = json_object(INFO, inside(root, INFO, limit=MAX_INFO).read_bytes(), MAX_INFO)
    version = content.get("codebase_version")
    if version not in VERSIONS:
        remedy = (
            "convert it with LeRobot's own converters "
            "(lerobot.datasets.v30.convert_dataset_v21_to_v30 and its forerunners)"
        )
        text = f"format version {shown(version)}, read are {' and '.join(VERSIONS)}"
        raise RefusedError("D20", text, remedy)

    rate = content.get("fps")
    if (
        isinstance(rate, bool)
        or not isinstance(rate, int | float)
        or not math.isfinite(rate)
        or not 0 < rate <= MAX_RATE
    ):
        raise RefusedError("D05", f"fps in {INFO} is {shown(rate)}", "write the frames per second")

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
        chunk=whole_number(content, "chunks_size", INFO, least=1) if version == "v2.1" else 1,
        episodes=_total(content, "total_episodes"),
        frames=_total(content, "total_frames"),
    )


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


def shown(value: object) -> str:
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


def whole_number(
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
            f"{key or name} in {place} is {shown(value)}, "
            f"expected a whole number from {least} to {most}"
        )
        raise RefusedError("D05", text, WHOLE)
    return value


def json_object(place: str, text: bytes, limit: int) -> dict[str, Any]:
    """Parse a JSON object, or raise :class:`RefusedError` (D01)."""
    try:
        value = durable.parse_json(text, place, limit=limit, allow_nan=True)
    except DataError as error:
        raise RefusedError("D01", error.message, WHOLE) from error
    if not isinstance(value, dict):
        raise RefusedError("D01", f"{place} is not a JSON object", WHOLE)
    return value
