"""LeRobot datasets as LeRobot 0.6.1 (v3.0) and 0.3 (v2.1) write them (seen there), made with pyarrow, Pillow and PyAV alone.

Frame i of episode e has state (e, i, 0.5), force 10 e + i, action (i / 10, e), and images of one
grey level, ``grey(e, i)``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RATE = 10
NAMES = ["pos.0", "pos.1", "grip.0"]
SIZE = (48, 64)
"""Height and width of images."""

PATHS = {
    "v2.1": {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    },
    "v3.0": {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    },
}

Columns = dict[str, np.ndarray]
Change = Callable[[int, Columns], None]


def grey(episode: int, frame: int) -> int:
    """Level of an image; a video comes within a few levels of it."""
    return 20 + 40 * episode + 6 * frame


def write_lerobot(
    root: Path,
    version: str = "v3.0",
    *,
    lengths: Sequence[int] = (6, 7, 8),
    names: Any = NAMES,
    per_file: int = 2,
    still: bool = False,
    video: bool = False,
    columns: Change | None = None,
    about: Mapping[str, Sequence[Any]] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dataset.

    Args:
        root: Its folder.
        version: ``v2.1`` (one file per episode) or ``v3.0``.
        lengths: Of the episodes.
        names: Of the state's numbers.
        per_file: Episodes per Parquet file of v3.0; all share one video.
        still: With ``observation.images.still``, PNG in the table.
        video: With ``observation.images.video``, MP4.
        columns: Changes each episode's columns.
        about: More columns of ``meta/episodes``.
        info: Overrides entries of ``info.json``.
    """
    episodes, start = [], 0
    for number, length in enumerate(lengths):
        episodes.append(_episode(number, length, start))
        start += length
        if columns is not None:
            columns(number, episodes[-1])
    features = {
        name: _feature(value, names if name == "observation.state" else None)
        for name, value in episodes[0].items()
    }
    if still:
        features["observation.images.still"] = _camera("image")
    if video:
        features["observation.images.video"] = _camera("video")
    said = {
        "codebase_version": version,
        "robot_type": "so101",
        "total_episodes": len(lengths),
        "total_frames": start,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": RATE,
        "splits": {"train": f"0:{len(lengths)}"},
        **PATHS[version],
        "features": features,
    }
    more = {"total_videos": len(lengths) * video, "total_chunks": 1} if version == "v2.1" else {}
    _json(root / "meta/info.json", said | more | dict(info or {}))
    rows = [
        {"episode_index": number, "tasks": ["Lift the cube."], "length": length}
        for number, length in enumerate(lengths)
    ]
    for name, values in (about or {}).items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    if version == "v2.1":
        _write_v21(root, rows, episodes, still=still, video=video)
    else:
        _write_v30(root, rows, episodes, per_file=per_file, still=still, video=video)
    return root


def drop(*names: str) -> Change:
    """A change that leaves columns out."""

    def change(_: int, columns: Columns) -> None:
        for name in names:
            del columns[name]

    return change


def write_video(
    path: Path, levels: Sequence[int], *, size: tuple[int, int] = SIZE, rate: int = RATE
) -> None:
    """An MP4 of H.264 with images of one grey level each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"g": "2", "crf": "12", "bf": "0", "threads": "1"}
        )
        stream.height, stream.width, stream.pix_fmt = (*size, "yuv420p")
        for level in levels:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), format="rgb24")
                )
            )
        container.mux(stream.encode())


def png(level: int, size: tuple[int, int] = SIZE) -> bytes:
    """One encoded image."""
    data = io.BytesIO()
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(data, "PNG")
    return data.getvalue()


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _episode(number: int, length: int, start: int) -> Columns:
    frames = np.arange(length)
    last = frames == length - 1
    return {
        "observation.state": np.stack(
            [np.full(length, number), frames, np.full(length, 0.5)], 1
        ).astype(np.float32),
        "observation.force": (10 * number + frames).astype(np.float32),
        "action": np.stack([frames / 10, np.full(length, number)], 1).astype(np.float32),
        "next.reward": (last & (number != 1)).astype(np.float32),
        "next.done": last,
        "timestamp": (frames / RATE).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, number),
        "index": start + frames,
        "task_index": np.zeros(length, np.int64),
    }


def _feature(value: np.ndarray, names: Any) -> dict[str, Any]:
    return {"dtype": str(value.dtype), "shape": list(value.shape[1:]) or [1], "names": names}


def _camera(dtype: str) -> dict[str, Any]:
    codec = {
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": RATE,
        "has_audio": False,
    }
    more = {"info": codec} if dtype == "video" else {}
    return {"dtype": dtype, "shape": [*SIZE, 3], "names": ["height", "width", "channels"]} | more


def _table(columns: Columns, *, fixed: bool, still: bool) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    for name, value in columns.items():
        if value.ndim == 1:
            arrays[name] = pa.array(value)
        else:
            kind = pa.from_numpy_dtype(value.dtype)
            arrays[name] = pa.array(
                list(value), pa.list_(kind, value.shape[1]) if fixed else pa.list_(kind)
            )
    if still:
        number, frames = int(columns["episode_index"][0]), len(columns["index"])
        images = [
            {"bytes": png(grey(number, frame)), "path": f"frame-{frame:06d}.png"}
            for frame in range(frames)
        ]
        arrays["observation.images.still"] = pa.array(
            images, pa.struct({"bytes": pa.binary(), "path": pa.string()})
        )
    return pa.table(arrays)


def _write_v21(
    root: Path,
    rows: Sequence[dict[str, Any]],
    episodes: Sequence[Columns],
    *,
    still: bool,
    video: bool,
) -> None:
    for number, columns in enumerate(episodes):
        fields = {"episode_chunk": 0, "episode_index": number}
        write_table(
            root / PATHS["v2.1"]["data_path"].format(**fields),
            _table(columns, fixed=False, still=still),
        )
        if video:
            path = root / PATHS["v2.1"]["video_path"].format(
                video_key="observation.images.video", **fields
            )
            write_video(path, [grey(number, frame) for frame in range(len(columns["index"]))])
    _lines(root / "meta/episodes.jsonl", rows)
    _lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "Lift the cube."}])
    _lines(
        root / "meta/episodes_stats.jsonl",
        [{"episode_index": row["episode_index"], "stats": {}} for row in rows],
    )


def _write_v30(
    root: Path,
    rows: Sequence[dict[str, Any]],
    episodes: Sequence[Columns],
    *,
    per_file: int,
    still: bool,
    video: bool,
) -> None:
    levels: list[int] = []
    start = 0
    for row in rows:
        number, length = row["episode_index"], row["length"]
        row |= {"data/chunk_index": 0, "data/file_index": number // per_file}
        row |= {"dataset_from_index": start, "dataset_to_index": start + length}
        if video:
            prefix = "videos/observation.images.video"
            row |= {f"{prefix}/chunk_index": 0, f"{prefix}/file_index": 0}
            row |= {
                f"{prefix}/from_timestamp": start / RATE,
                f"{prefix}/to_timestamp": (start + length) / RATE,
            }
            levels += [grey(number, frame) for frame in range(length)]
        row |= {"stats/action/min": [0.0, 0.0], "stats/action/max": [1.0, 2.0]}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        start += length
    for file in range(-(-len(episodes) // per_file)):
        path = root / PATHS["v3.0"]["data_path"].format(chunk_index=0, file_index=file)
        some = [
            _table(columns, fixed=True, still=still)
            for columns in episodes[file * per_file : (file + 1) * per_file]
        ]
        write_table(path, pa.concat_tables(some))
    if video:
        write_video(root / "videos/observation.images.video/chunk-000/file-000.mp4", levels)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(list(rows)))
    write_table(
        root / "meta/tasks.parquet",
        pa.table({"task_index": [0], "task": pa.array(["Lift the cube."], pa.large_string())}),
    )
    _json(root / "meta/stats.json", {})


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4))


def _lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
