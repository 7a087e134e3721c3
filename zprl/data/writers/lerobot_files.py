"""The files of a LeRobot v3.0 dataset, written one episode at a time and without LeRobot.

::

    meta/info.json                                  features, counts, paths
    meta/stats.json                                 statistics over all frames
    meta/tasks.parquet                              the task's sentence
    meta/episodes/chunk-000/file-000.parquet        one row per episode: places, statistics
    data/chunk-000/file-000.parquet                 one row per frame, one row group per episode
    videos/<feature>/chunk-000/file-000.mp4         one per episode and camera, for videos

Layout, names and types follow LeRobot 0.6's ``datasets`` module (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zprl import durable
from zprl.data.writers.lerobot_columns import (
    Columns,
    Feature,
    arrow_array,
    arrow_type,
    flat,
    numpy_array,
    stats_of,
)
from zprl.data.writers.lerobot_images import LevelCounts, Pixels, png, video_facts, write_video
from zprl.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
FIRST = FILE.format(chunk_index=0, file_index=0)
DATA = f"data/{FILE}.parquet"
EPISODES = f"meta/episodes/{FILE}.parquet"
VIDEOS = f"videos/{{video_key}}/{FILE}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
"""A file of frames is closed by the episode that makes it larger than this."""

ImageStore = Literal["video", "png"]


def whole_rate(rate_hz: float, *, where: str) -> int:
    """Return frames per second as LeRobot wants them.

    Raises:
        DataError: the rate is no whole number above zero.
    """
    if not (np.isfinite(rate_hz) and rate_hz > 0 and rate_hz == int(rate_hz)):
        raise DataError(
            f"{where} has {rate_hz} steps per second",
            remedy="LeRobot datasets have whole frames per second",
        )
    return int(rate_hz)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything unasked, and anything but a dataset at all.

    Raises:
        DataError: something lies there.
    """
    if path.exists() and not (overwrite and (path / "meta/info.json").is_file()):
        remedy = (
            "it is no LeRobot dataset: choose another name"
            if overwrite
            else "choose another name, or ask to overwrite it"
        )
        raise DataError(f"{path} exists already", remedy=remedy)


# -- files -----------------------------------------------------------------------------------------


class LeRobotFiles:
    """Fills an empty folder; memory holds one episode and, at the end, one column.

    Args:
        folder: Empty; the caller gives it its final name when all is written.
        rate: Frames per second.
        robot: Kind of robot, for ``info.json``.
        task: The task's sentence; all episodes have the same.
        images: Storage of images, see :mod:`zprl.data.writers.lerobot_images`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate: int,
        robot: str,
        task: str,
        images: ImageStore = "video",
    ) -> None:
        self.features: dict[str, Feature] = {}
        self.episodes = 0
        self.frames = 0

        self._folder = folder
        self._rate = rate
        self._robot = robot
        self._task = task
        self._images = images

        self._counts: dict[str, LevelCounts] = {}
        self._rows: list[pa.Table] = []
        self._schema: pa.Schema | None = None
        self._file = -1
        self._sink: pa.NativeFile | None = None
        self._writer: Any = None

    def add(
        self,
        columns: Columns,
        *,
        names: Mapping[str, Sequence[str]] | None = None,
        images: Mapping[str, Pixels] | None = None,
        about: Mapping[str, Any] | None = None,
        where: str,
    ) -> None:
        """Write an episode.

        Args:
            columns: All features but images and LeRobot's own (``timestamp`` and the indices).
            names: Of the dimensions of some features.
            images: Feature to (L, H, W, 3) uint8.
            about: Further columns of its row in ``meta/episodes``.
            where: Name of the episode in messages.

        Raises:
            DataError: it is empty, a number is not finite, or the features are not those of the
                first episode.
        """
        images = images or {}
        columns = self._complete(columns)
        length = len(columns["index"])
        _check_columns(columns, where)
        features = self._features_of(columns, images, names or {})
        if self.features and features != self.features:
            raise DataError(f"{where} has other columns than the first", remedy="export them apart")
        self.features = features

        place = self._write_frames(columns, images) | self._write_videos(images, length)
        stats = stats_of(columns)
        for name, value in images.items():
            counts = LevelCounts.of(value)
            stats[name] = counts.stats()
            self._counts[name] = self._counts[name] + counts if name in self._counts else counts

        self._remember(length, {**place, **(about or {})}, stats)
        self.episodes += 1
        self.frames += length

    def finish(self) -> None:
        """Write the files about all episodes.

        Raises:
            DataError: there is none.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.episodes:
            raise DataError(
                "there is no episode to write", remedy="a LeRobot dataset has at least one"
            )

        self.close()
        path = _made(self._folder / EPISODES.format(chunk_index=0, file_index=0))
        pq.write_table(pa.concat_tables(self._rows), path)
        _write_tasks(self._folder / "meta/tasks.parquet", self._task)

        stats = {name: counts.stats() for name, counts in self._counts.items()}
        for name in self.features:
            if name not in self._counts:
                stats |= stats_of({name: self._column(name)})
        durable.write_json(self._folder / "meta/stats.json", stats)
        durable.write_json(self._folder / "meta/info.json", self._info())

    def close(self) -> None:
        """Close the open files."""
        with ExitStack() as stack:
            for file in (self._sink, self._writer):  # the last is closed first
                if file is not None:
                    stack.callback(file.close)
        self._sink = None
        self._writer = None

    def _complete(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the columns with LeRobot's own, in the order of their names."""
        length = len(next(iter(columns.values())))
        steps = np.arange(length)
        own: dict[str, np.ndarray] = {
            "timestamp": (steps / self._rate).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, self.episodes),
            "index": steps + self.frames,
            "task_index": np.zeros(length, np.int64),
        }
        whole: dict[str, np.ndarray] = {**columns, **own}
        return {name: flat(whole[name]) for name in sorted(whole)}

    def _features_of(
        self, columns: Columns, images: Mapping[str, Pixels], names: Mapping[str, Sequence[str]]
    ) -> dict[str, Feature]:
        """Describe the features as ``info.json`` does."""
        features: dict[str, Feature] = {}
        for name, value in columns.items():
            features[name] = {
                "dtype": str(value.dtype),
                "shape": list(value.shape[1:]) or [1],
                "names": list(names[name]) if name in names else None,
            }

        for name, value in images.items():
            feature = {"shape": list(value.shape[1:]), "names": ["height", "width", "channels"]}
            if self._images == "video":
                facts = video_facts(value, self._rate)
                features[name] = {"dtype": "video", **feature, "info": facts}
            else:
                features[name] = {"dtype": "image", **feature}
        return dict(sorted(features.items()))

    def _write_frames(self, columns: Columns, images: Mapping[str, Pixels]) -> dict[str, Any]:
        """Write an episode's rows and return their place."""
        import pyarrow as pa

        if self._writer is None:
            self._open_file()
        assert self._schema is not None
        arrays = [
            png(images[field.name])
            if field.name in images
            else arrow_array(columns[field.name], field.type)
            for field in self._schema
        ]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))

        if self._sink is not None and self._sink.tell() > DATA_FILE_MB * 10**6:
            self.close()
        return {f"data/{key}": value for key, value in _place(self._file).items()}

    def _open_file(self) -> None:
        """Begin the next file of frames."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._schema is None:
            self._schema = pa.schema(
                [
                    (name, arrow_type(feature))
                    for name, feature in self.features.items()
                    if feature["dtype"] != "video"
                ]
            )
        self._file += 1
        path = _made(self._folder / DATA.format(**_place(self._file)))
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(self._sink, self._schema)

    def _write_videos(self, images: Mapping[str, Pixels], length: int) -> dict[str, Any]:
        """Write an episode's videos, where images become videos, and return their places."""
        if self._images != "video":
            return {}

        place = _place(self.episodes)
        facts: dict[str, Any] = {}
        for name, value in images.items():
            path = _made(self._folder / VIDEOS.format(video_key=name, **place))
            write_video(path, value, self._rate)
            facts |= {f"videos/{name}/{key}": number for key, number in place.items()}
            facts[f"videos/{name}/from_timestamp"] = 0.0
            facts[f"videos/{name}/to_timestamp"] = length / self._rate
        return facts

    def _remember(self, length: int, facts: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
        """Keep an episode's row of ``meta/episodes``."""
        import pyarrow as pa

        row = {
            "episode_index": self.episodes,
            "tasks": [self._task],
            "length": length,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            **facts,
        }
        row |= {
            f"stats/{name}/{key}": value
            for name, numbers in stats.items()
            for key, value in numbers.items()
        }
        self._rows.append(pa.Table.from_pylist([row]))

    def _column(self, name: str) -> np.ndarray:
        """Read a column of all episodes again from the finished files."""
        import pyarrow.parquet as pq

        return np.concatenate(
            [numpy_array(pq.read_table(path, columns=[name])[name]) for path in self._data_files()]
        )

    def _data_files(self) -> Iterator[Path]:
        return (self._folder / DATA.format(**_place(number)) for number in range(self._file + 1))

    def _info(self) -> dict[str, Any]:
        has_videos = any(feature["dtype"] == "video" for feature in self.features.values())
        return {
            "codebase_version": VERSION,
            "robot_type": self._robot,
            "fps": self._rate,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": 200,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA,
            "video_path": VIDEOS if has_videos else None,
            "features": self.features,
        }


def _check_columns(columns: Columns, where: str) -> None:
    if not len(columns["index"]):
        raise DataError(f"{where} has no frames", remedy="leave it out")
    for name, value in columns.items():
        if not np.isfinite(value).all():
            raise DataError(
                f"{where}: {name} has numbers that are not finite",
                remedy="leave the episode out, or repair it",
            )


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def _made(path: Path) -> Path:
    """Make the folder of a file that a library is about to write, and return the file's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.operation("write", path)
    return path


def _write_tasks(path: Path, sentence: str) -> None:
    import pandas as pd

    index = pd.Index([sentence], name="task", dtype=object)
    pd.DataFrame({"task_index": [0]}, index=index).to_parquet(_made(path))
