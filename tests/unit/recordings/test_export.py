"""Sessions in LeRobot's and robomimic's formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests import session_factories as made
from tests.session_factories import Rows
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.readers.robomimic import RobomimicReader
from zprl.errors import DataError
from zprl.recordings.export.lerobot import export_lerobot
from zprl.recordings.export.robomimic import export_robomimic
from zprl.recordings.store import SessionStore

SENTENCE = "Lift the cube at least 15 cm above the table and hold it between the fingers."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SessionStore:
    """Episodes of 9, 10, 11, 12, 13 steps: failure, success, discarded, unlabelled, success."""
    path = tmp_path_factory.mktemp("export") / "session"
    return SessionStore.open(
        made.write_session(path, labels=("failure", "success", "discard", None, "success"))
    )


@pytest.fixture(scope="module")
def dataset(store: SessionStore) -> Path:
    path = store.path.with_name("lerobot")
    assert export_lerobot(store, path) == 3
    return path


# -- LeRobot ---------------------------------------------------------------------------------------


def test_lerobot_has_the_files_of_version_3(dataset: Path) -> None:
    files = {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()}
    assert files == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    }
    info = json.loads((dataset / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 50, "franka")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 32, 1)
    assert info["splits"] == {"train": "0:3"}
    assert (
        info["data_path"].format(chunk_index=0, file_index=0) == "data/chunk-000/file-000.parquet"
    )
    assert info["features"]["action"] == {"dtype": "float32", "shape": [10], "names": None}
    assert info["features"]["observation.state"]["names"] == list(made.FEATURES)
    assert info["features"]["next.done"] == {"dtype": "bool", "shape": [1], "names": None}
    assert not [name for name in info["features"] if "/" in name]  # LeRobot refuses such names


def test_lerobot_columns_have_the_declared_types_in_the_declared_order(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    schema = pq.read_schema(dataset / "data/chunk-000/file-000.parquet")
    assert schema.names == list(info["features"])
    for field in schema:
        feature = info["features"][field.name]
        plain = {"float32": "float", "int64": "int64", "bool": "bool"}[feature["dtype"]]
        width = feature["shape"][0]
        assert str(field.type) == (
            plain if width == 1 else f"fixed_size_list<element: {plain}>[{width}]"
        )


def test_lerobot_rows_are_the_sessions(dataset: Path, store: SessionStore) -> None:
    frames = pd.read_parquet(dataset / "data/chunk-000/file-000.parquet")
    assert len(frames) == 32
    assert frames["index"].tolist() == list(range(32))
    assert frames["episode_index"].tolist() == [0] * 9 + [1] * 10 + [2] * 13
    second = frames[frames["episode_index"] == 1]
    rows = Rows(2, steps=10)
    np.testing.assert_array_equal(np.stack(second["action"]), rows.actions)
    np.testing.assert_array_equal(
        np.stack(second["observation.object"]), rows.values["object"][:-1]
    )
    np.testing.assert_array_equal(
        second["observation.robot0_gripper_command"], rows.values["robot0_gripper_command"][:-1, 0]
    )
    np.testing.assert_allclose(second["timestamp"], np.arange(10) / 50, atol=1e-6)
    residuals = np.stack(
        [rows.chunk(number)["residual"] for number in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)]
    )
    np.testing.assert_array_equal(np.stack(second["residual"]), residuals)
    assert second["chunk"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert np.flatnonzero(frames["next.done"]).tolist() == [8, 18, 31]
    assert np.flatnonzero(frames["next.success"]).tolist() == [18, 31]  # the first one failed
    assert np.flatnonzero(frames["next.reward"]).tolist() == [18, 31]
    assert not frames["is_intervention"].any()


def test_lerobot_knows_where_episodes_lie(dataset: Path) -> None:
    episodes = pd.read_parquet(dataset / "meta/episodes/chunk-000/file-000.parquet")
    assert episodes["episode_index"].tolist() == [0, 1, 2]
    assert episodes["length"].tolist() == [9, 10, 13]
    assert episodes["dataset_from_index"].tolist() == [0, 9, 19]
    assert episodes["dataset_to_index"].tolist() == [9, 19, 32]
    assert episodes["session_episode"].tolist() == [1, 2, 5]
    assert [list(tasks) for tasks in episodes["tasks"]] == [[SENTENCE]] * 3

    places = [
        "data/chunk_index",
        "data/file_index",
        "meta/episodes/chunk_index",
        "meta/episodes/file_index",
    ]
    assert (episodes[places] == 0).all().all()
    assert pq.read_metadata(dataset / "data/chunk-000/file-000.parquet").num_row_groups == 3
    tasks = pd.read_parquet(dataset / "meta/tasks.parquet")
    assert (tasks.index.tolist(), tasks["task_index"].tolist()) == ([SENTENCE], [0])


def test_lerobot_statistics_are_those_of_the_frames(dataset: Path) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert stats["next.reward"]["mean"] == [pytest.approx(2 / 32)]
    assert stats["next.reward"]["std"] == [pytest.approx(np.sqrt(2 / 32 * 30 / 32))]
    assert stats["index"] | {"q01": 0} == {
        "min": [0],
        "max": [31],
        "mean": [15.5],
        "std": [pytest.approx(9.233, abs=1e-3)],
        "count": [32],
        "q01": 0,
        "q10": [pytest.approx(3.1)],
        "q50": [15.5],
        "q90": [pytest.approx(27.9)],
        "q99": [pytest.approx(30.69)],
    }
    assert len(stats["action"]["min"]) == 10
    episodes = pd.read_parquet(dataset / "meta/episodes/chunk-000/file-000.parquet")
    np.testing.assert_allclose(
        episodes["stats/action/max"][1], Rows(2, steps=10).actions.max(0), rtol=1e-6
    )
    assert list(episodes["stats/action/count"][2]) == [13]


def test_steps_without_a_chunk_have_no_residual(tmp_path: Path) -> None:
    with made.create(tmp_path / "session") as store:
        made.add_episode(store, 1, steps=9, late=2)
        store.label(1, "success", source="test", nonce="a")
        export_lerobot(store, tmp_path / "out")
    frames = pd.read_parquet(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert frames["chunk"].tolist() == [0] * 4 + [1] * 3 + [-1] * 2
    assert not np.stack(frames["latent"])[-2:].any()
    assert np.stack(frames["latent"])[:-2].any(1).all()


def test_exports_are_the_same_bytes_again(
    store: SessionStore, dataset: Path, tmp_path: Path
) -> None:
    export_lerobot(store, tmp_path / "again")
    assert durable.digest(tmp_path / "again") == durable.digest(dataset)


def test_lerobot_never_overwrites_unasked_and_nothing_but_datasets(
    store: SessionStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_lerobot(store, out)
    with pytest.raises(DataError, match="exists already"):
        export_lerobot(store, out, numbers=[1])
    assert export_lerobot(store, out, numbers=[1], overwrite=True) == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="no LeRobot dataset"):
        export_lerobot(store, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").exists()


def test_an_export_that_fails_leaves_nothing(
    store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def operation(name: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(durable, "operation", operation)
    with pytest.raises(Exception, match="no space"):
        export_lerobot(store, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_lerobot, export_robomimic])
def test_what_cannot_be_exported_is_refused(store: SessionStore, tmp_path: Path, export) -> None:
    for numbers in ([3], [4], [77]):
        with pytest.raises(DataError, match=f"episode {numbers[0]} is not labelled"):
            export(store, tmp_path / "out.hdf5", numbers=numbers)
    with (
        made.create(tmp_path / "empty") as empty,
        pytest.raises(DataError, match="no episode is labelled"),
    ):
        export(empty, tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()


# -- robomimic -------------------------------------------------------------------------------------


def test_a_session_can_be_read_as_demonstrations(store: SessionStore, tmp_path: Path) -> None:
    path = tmp_path / "session.hdf5"
    assert export_robomimic(store, path) == {"demo_0": 1, "demo_1": 2, "demo_2": 5}
    demos = list(RobomimicReader().read(path))
    assert all(isinstance(item, Episode) for item in demos), demos
    assert [(e.name, e.length, e.success) for e in demos] == [
        ("session/demo_0", 9, False),
        ("session/demo_1", 10, True),
        ("session/demo_2", 13, True),
    ]

    rows = Rows(2, steps=10)
    demo = demos[1]
    np.testing.assert_array_equal(demo.actions, rows.actions)
    assert set(demo.obs) == set(rows.values)
    for key, value in rows.values.items():
        np.testing.assert_array_equal(demo.obs[key], value[:-1])
    assert np.flatnonzero(demo.rewards).tolist() == [9]
    assert np.flatnonzero(demo.dones).tolist() == [9]
    assert not demos[0].rewards.any()


def test_robomimic_leaves_out_what_a_person_moved(tmp_path: Path) -> None:
    with made.create(tmp_path / "session") as store:
        made.add_episode(store, 1)
        rows = Rows(2, steps=8)
        writer = store.open_episode(2)
        for number in range(2):
            writer.add_chunk(**rows.chunk(number))
        for step in range(8):
            writer.add_frame(**rows.frame(step) | {"intervention": step == 5})
        writer.finish(**rows.observation(8))
        writer.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )
        writer.commit(made.facts())
        for number in (1, 2):
            store.label(number, "success", source="test", nonce=str(number))

        assert export_robomimic(store, tmp_path / "a.hdf5") == {"demo_0": 1}
        assert export_robomimic(store, tmp_path / "b.hdf5", numbers=[2]) == {"demo_0": 2}
        export_lerobot(store, tmp_path / "lerobot")
    frames = pd.read_parquet(tmp_path / "lerobot/data/chunk-000/file-000.parquet")
    assert np.flatnonzero(frames["is_intervention"]).tolist() == [15]


def test_robomimic_never_overwrites_unasked(store: SessionStore, tmp_path: Path) -> None:
    path = tmp_path / "session.hdf5"
    export_robomimic(store, path)
    with pytest.raises(DataError, match="exists already"):
        export_robomimic(store, path)
    export_robomimic(store, path, numbers=[2], overwrite=True)
    assert len(list(RobomimicReader().read(path))) == 1
