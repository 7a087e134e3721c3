"""A session as a LeRobot dataset, format v3.0, written without LeRobot.

::

    meta/info.json                                  features, counts, paths
    meta/stats.json                                 statistics over all frames
    meta/tasks.parquet                              the task's sentence
    meta/episodes/chunk-000/file-000.parquet        one row per episode: where its frames lie, its own statistics
    data/chunk-000/file-000.parquet                 one row per control step, one row group per episode

=============================  ===================================================================================
column                         content
=============================  ===================================================================================
``observation.state``          raw features of robot and senses
``observation.policy.<key>``   what the policy saw
``action``                     the policy's action, before the safety filter
``action.sent``                features really sent
``residual``, ``latent``       the agent's residual and the point taken, of the chunk that was played (0 where none was)
``chunk``                      number of that chunk, -1 for none
``is_intervention``            whether a person moved the arm
``next.reward``                1 at the last step of a success
``next.done``                  the last step
``next.success``               the last step of a success
=============================  ===================================================================================

Layout, names and types follow LeRobot 0.6's ``datasets`` module (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zprl import durable
from zprl.errors import DataError
from zprl.session.export import Judged, judged
from zprl.session.store import TASK, SessionStore
from zprl.session.task import RealTask
from zprl.session.tensors import NO_CHUNK

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
FIRST = FILE.format(chunk_index=0, file_index=0)
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)

Columns = dict[str, np.ndarray]
Names = dict[str, tuple[str, ...] | None]
Stats = dict[str, dict[str, list[float]]]


def export_lerobot(store: SessionStore, path: Path | str, *, numbers: Sequence[int] | None = None, overwrite: bool = False) -> int:
    """Write episodes as a LeRobot dataset.

    Args:
        store: The session.
        path: Folder of the dataset; it appears when it is complete.
        numbers: Of the episodes; ``None``: all that are labelled success or failure.
        overwrite: Replace an existing folder.

    Returns:
        How many episodes it holds.

    Raises:
        DataError: nothing to export, the folder exists, or the rate is no whole number (LeRobot wants one).
    """
    path = Path(path)
    if path.exists() and not (overwrite and (path / "meta/info.json").is_file()):
        remedy = "it is no LeRobot dataset: choose another name" if overwrite else "choose another name, or ask to overwrite it"
        raise DataError(f"{path} exists already", remedy=remedy)
    rate = store.header.rate_hz
    if rate != int(rate):
        raise DataError(f"{store.path} has {rate} steps per second", remedy="LeRobot datasets have whole frames per second")
    found = judged(store, numbers)
    task = RealTask.load(store.path / TASK)
    names = _names(found)
    episodes = [_columns(item, int(rate)) for item in found]
    _check_alike(store, found, episodes)
    start = np.cumsum([0, *(len(columns["index"]) for columns in episodes)])
    for number, columns in enumerate(episodes):
        columns["episode_index"] += number
        columns["index"] += start[number]
    features = _features(episodes[0], names)

    def fill(folder: Path) -> None:
        info = _info(features, int(rate), robot=_robot(task), episodes=len(episodes), frames=int(start[-1]))
        durable.write_json(folder / "meta/info.json", info)
        everything = {name: np.concatenate([columns[name] for columns in episodes]) for name in features}
        durable.write_json(folder / "meta/stats.json", _stats(everything))
        _write_tasks(folder / "meta/tasks.parquet", task.description)
        _write_episodes(folder / f"meta/episodes/{FIRST}.parquet", found, episodes, start, task.description)
        _write_frames(folder / f"data/{FIRST}.parquet", episodes, features)

    durable.write_dir(path, fill)
    return len(episodes)


# -- columns -----------------------------------------------------------------------------------------------------------


def _columns(item: Judged, rate: int) -> Columns:
    """One episode's columns, in the order of their names; indices count from 0 within the episode."""
    episode, success = item
    steps = episode.steps
    chunk, ids = episode.frames["chunk"].numpy(), episode.chunks["id"].numpy()
    none = (chunk == NO_CHUNK)[:, None]
    played = np.searchsorted(ids, np.where(none[:, 0], ids[0], chunk))
    last = np.arange(steps) == steps - 1
    columns = {
        "observation.state": episode.frames["features"][:-1].numpy().astype(np.float32),
        **{f"observation.policy.{key}": value[:-1].numpy().astype(np.float32) for key, value in episode.obs.items()},
        "action": episode.commanded,
        "action.sent": episode.frames["sent"].numpy().astype(np.float32),
        "residual": np.where(none, 0, episode.chunks["residual"].numpy()[played]).astype(np.float32),
        "latent": np.where(none, 0, episode.chunks["point"].numpy()[played]).astype(np.float32),
        "chunk": chunk,
        "is_intervention": episode.intervention,
        "next.reward": (last * success).astype(np.float32),
        "next.done": last,
        "next.success": last & success,
        "timestamp": (np.arange(steps) / rate).astype(np.float32),  # LeRobot's: the recorded stamps are in the session
        "frame_index": np.arange(steps),
        "episode_index": np.zeros(steps, np.int64),
        "index": np.arange(steps),
        "task_index": np.zeros(steps, np.int64),
    }
    return {name: _flat(columns[name]) for name in sorted(columns)}


def _flat(value: np.ndarray) -> np.ndarray:
    """LeRobot stores vectors of one number as numbers."""
    return value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value


def _names(found: Sequence[Judged]) -> Names:
    facts = found[0][0].facts
    return {"observation.state": facts.features or None, "action.sent": facts.sent or None}


def _check_alike(store: SessionStore, found: Sequence[Judged], episodes: Sequence[Columns]) -> None:
    first = {name: (value.dtype, value.shape[1:]) for name, value in episodes[0].items()}
    for (episode, _), columns in zip(found, episodes, strict=True):
        if {name: (value.dtype, value.shape[1:]) for name, value in columns.items()} != first:
            raise DataError(f"{store.path}: episode {episode.number} has other columns than the first", remedy="export them apart")


def _features(columns: Columns, names: Names) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": str(value.dtype), "shape": list(value.shape[1:]) or [1], "names": _as_list(names.get(name))}
        for name, value in columns.items()
    }


def _as_list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _robot(task: RealTask) -> str:
    return "+".join(arm.driver for arm in task.arms.values())


# -- files -------------------------------------------------------------------------------------------------------------


def _info(features: Mapping[str, Any], rate: int, *, robot: str, episodes: int, frames: int) -> dict[str, Any]:
    return {
        "codebase_version": VERSION,
        "robot_type": robot,
        "fps": rate,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "splits": {"train": f"0:{episodes}"},
        "data_path": f"data/{FILE}.parquet",
        "video_path": None,
        "features": features,
    }


def _stats(columns: Mapping[str, np.ndarray]) -> Stats:
    """Per column: extremes, mean, deviation, count and quantiles, each a list of the column's width."""
    found: Stats = {}
    for name, value in columns.items():
        rows = value.astype(np.float64).reshape(len(value), -1)
        numbers = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0), "count": np.array([len(rows)])}
        numbers |= {f"q{round(100 * q):02d}": np.quantile(rows, q, axis=0) for q in QUANTILES}
        found[name] = {key: number.tolist() for key, number in numbers.items()}
    return found


def _write_tasks(path: Path, sentence: str) -> None:
    import pandas as pd

    index = pd.Index([sentence], name="task", dtype=object)
    _write_parquet(path, lambda target: pd.DataFrame({"task_index": [0]}, index=index).to_parquet(target))


def _write_episodes(path: Path, found: Sequence[Judged], episodes: Sequence[Columns], start: np.ndarray, sentence: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for index, ((episode, _), columns) in enumerate(zip(found, episodes, strict=True)):
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [sentence],
            "length": episode.steps,
            "dataset_from_index": int(start[index]),
            "dataset_to_index": int(start[index + 1]),
            "data/chunk_index": 0,
            "data/file_index": 0,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "session_episode": episode.number,
            "session_phase": str(episode.phase),
        }
        stats = _stats(columns)
        rows.append(row | {f"stats/{name}/{key}": value for name, numbers in stats.items() for key, value in numbers.items()})
    _write_parquet(path, lambda target: pq.write_table(pa.Table.from_pylist(rows), target))


def _write_frames(path: Path, episodes: Sequence[Columns], features: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _type(feature)) for name, feature in features.items()])

    def write(target: Path) -> None:
        with pq.ParquetWriter(target, schema) as writer:
            for columns in episodes:
                arrays = [_array(columns[name], field.type) for name, field in zip(columns, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

    _write_parquet(path, write)


def _type(feature: Mapping[str, Any]) -> pa.DataType:
    import pyarrow as pa

    kind = pa.bool_() if feature["dtype"] == "bool" else pa.type_for_alias(feature["dtype"])
    return kind if feature["shape"] == [1] else pa.list_(kind, feature["shape"][0])


def _array(value: np.ndarray, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if value.ndim == 1:
        return pa.array(value, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(value).reshape(-1), kind.value_type), type=kind)


def _write_parquet(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library write into the partial folder; the folder's rename makes it appear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.operation("write", path)
    write(path)
