"""The LeRobot writer: format v3.0, all or nothing.  ``tests/peers`` has the real LeRobot."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.factories import make_episode, make_episodes
from tests.peers.made import drifting, with_images
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.lerobot_names import image_feature, observation_key, state_names
from zprl.data.readers.lerobot_keys import split_names
from zprl.data.writers import lerobot_files
from zprl.data.writers.lerobot import LeRobotWriter
from zprl.data.writers.lerobot_images import LevelCounts
from zprl.errors import DataError, EnvironmentProblem

FRAMES = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def write(path: Path, episodes: list[Episode], **options) -> Path:
    with LeRobotWriter(
        path, **{"rate_hz": 20, "task": "Lift the cube.", "robot": "franka"} | options
    ) as writer:
        assert [writer.write(episode) for episode in episodes] == list(range(len(episodes)))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of 40, 41, 42, 43 frames; the last one fails."""
    return write(tmp_path_factory.mktemp("lerobot") / "set", make_episodes(4))


# -- what is written -------------------------------------------------------------------------------


def test_every_number_is_there(dataset: Path) -> None:
    frames = pd.read_parquet(dataset / FRAMES)
    assert frames["episode_index"].tolist() == [0] * 40 + [1] * 41 + [2] * 42 + [3] * 43
    for number, episode in enumerate(make_episodes(4)):
        rows = frames[frames["episode_index"] == number]
        np.testing.assert_array_equal(
            np.stack(rows["observation.state"]), np.concatenate(list(episode.obs.values()), axis=1)
        )
        np.testing.assert_array_equal(np.stack(rows["action"]), episode.actions)
        np.testing.assert_array_equal(rows["next.reward"], episode.rewards)
        np.testing.assert_array_equal(rows["next.done"], episode.dones)
        np.testing.assert_array_equal(rows["frame_index"], np.arange(episode.length))
        np.testing.assert_allclose(rows["timestamp"], np.arange(episode.length) / 20, atol=1e-6)
    assert frames["index"].tolist() == list(range(166))
    assert np.flatnonzero(frames["next.success"]).tolist() == [39, 80, 122]


def test_the_state_names_its_keys(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    state = info["features"]["observation.state"]
    widths = {key: value.shape[1] for key, value in make_episode().obs.items()}
    assert (state["dtype"], state["shape"]) == ("float32", [20])
    assert state["names"][2:4] == ["robot0_eef_pos.2", "robot0_eef_quat.0"]
    assert [
        (key, part.stop - part.start) for key, part in split_names(state["names"]).items()
    ] == list(widths.items())
    assert info["features"]["next.reward"] == {"dtype": "float32", "shape": [1], "names": None}
    assert (info["codebase_version"], info["fps"], info["robot_type"], info["video_path"]) == (
        "v3.0",
        20,
        "franka",
        None,
    )
    assert (info["total_episodes"], info["total_frames"]) == (4, 166)


def test_names_there_and_back() -> None:
    assert observation_key(image_feature("wrist_image")) == "wrist_image"
    assert observation_key("observation.object") == "object"
    assert [
        observation_key(name)
        for name in ("action", "next.reward", "observation.", "observation.images.")
    ] == [
        None,
        None,
        None,
        "images.",
    ]
    assert split_names(state_names({"a.b": 2, "c": 1})) == {"a.b": slice(0, 2), "c": slice(2, 3)}
    with pytest.raises(DataError, match="no names with a slash"):
        image_feature("wrist/rgb")


def test_labels_stand_in_the_episodes_rows(dataset: Path) -> None:
    rows = pd.read_parquet(dataset / EPISODES)
    assert rows["success"].tolist() == [True, True, True, False]
    assert rows["quality"].tolist() == ["better", "okay", "worse", "better"]
    assert rows["dataset_from_index"].tolist() == [0, 40, 81, 123]
    assert rows["length"].tolist() == [40, 41, 42, 43]
    assert pq.read_metadata(dataset / FRAMES).num_row_groups == 4


def test_statistics_are_those_of_all_frames(dataset: Path) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    actions = np.concatenate([episode.actions for episode in make_episodes(4)]).astype(np.float64)
    for name, value in {
        "mean": actions.mean(0),
        "std": actions.std(0),
        "q10": np.quantile(actions, 0.1, axis=0),
    }.items():
        np.testing.assert_allclose(stats["action"][name], value, atol=1e-12)
    assert stats["next.success"]["mean"] == [pytest.approx(3 / 166)]
    assert stats["action"]["count"] == [166]


def test_a_state_of_one_number_and_an_episode_without_state(tmp_path: Path) -> None:
    one = replace(make_episode(), obs={"x": make_episode().obs["robot0_eef_pos"][:, :1]})
    frames = pd.read_parquet(write(tmp_path / "one", [one]) / FRAMES)
    np.testing.assert_array_equal(frames["observation.state"], one.obs["x"][:, 0])
    none = replace(make_episode(), obs={"front": drifting(40, 16, 16)})
    assert "observation.state" not in pd.read_parquet(write(tmp_path / "none", [none]) / FRAMES)


def test_large_files_are_followed_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_files, "DATA_FILE_MB", 0)
    monkeypatch.setattr(lerobot_files, "FILES_PER_CHUNK", 3)
    path = write(tmp_path / "set", make_episodes(4))
    rows = pd.read_parquet(path / EPISODES)
    assert list(zip(rows["data/chunk_index"], rows["data/file_index"], strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
    ]
    assert pd.read_parquet(path / "data/chunk-001/file-000.parquet")[
        "episode_index"
    ].unique().tolist() == [3]
    stats = json.loads((path / "meta/stats.json").read_text())
    assert (stats["index"]["max"], stats["index"]["count"]) == ([165], [166])


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    episodes = [with_images(make_episode(length=12))]
    assert durable.digest(write(tmp_path / "a", episodes)) == durable.digest(
        write(tmp_path / "b", episodes)
    )


# -- images ----------------------------------------------------------------------------------------


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    episodes = [with_images(make_episode(seed, length=12)) for seed in (0, 1)]
    path = write(tmp_path / "set", episodes, images="png")
    info = json.loads((path / "meta/info.json").read_text())
    assert info["features"]["observation.images.front"] == {
        "dtype": "image",
        "shape": [63, 65, 3],
        "names": ["height", "width", "channels"],
    }
    frames = pd.read_parquet(path / FRAMES)
    for number, episode in enumerate(episodes):
        for key in ("front", "wrist_image"):
            cells = frames.loc[frames["episode_index"] == number, f"observation.images.{key}"]
            seen = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])
            np.testing.assert_array_equal(seen, episode.obs[key])


def test_videos_show_each_frame_at_its_time(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    episode = with_images(make_episode(length=12))
    path = write(tmp_path / "set", [episode, episode])
    rows = pd.read_parquet(path / EPISODES)
    features = json.loads((path / "meta/info.json").read_text())["features"]
    assert (
        features["observation.images.front"]["info"]["video.pix_fmt"] == "yuv444p"
    )  # 63 x 65 cannot be halved
    assert features["observation.images.wrist_image"]["info"]["video.pix_fmt"] == "yuv420p"
    for key in ("front", "wrist_image"):
        name = f"observation.images.{key}"
        assert name not in pq.read_schema(path / FRAMES).names
        assert rows[f"videos/{name}/file_index"].tolist() == [0, 1]
        assert rows[f"videos/{name}/to_timestamp"].tolist() == [0.6, 0.6]
        with av.open(str(path / f"videos/{name}/chunk-000/file-001.mp4")) as video:
            seen = list(video.decode(video=0))
        assert [frame.time for frame in seen] == pytest.approx([k / 20 for k in range(12)])
        for frame, image in zip(seen, episode.obs[key], strict=True):
            assert (
                np.abs(frame.to_ndarray(format="rgb24").astype(float) - image).mean() < 4
            )  # lossy; a frame on, blue differs by 5


def test_image_statistics_are_exact() -> None:
    draw = np.random.default_rng(0)
    parts = [draw.integers(0, 256, (n, 5, 7, 3), dtype=np.uint8) // (2, 1, 3) for n in (3, 4)]
    parts = [part.astype(np.uint8) for part in parts]
    stats = (LevelCounts.of(parts[0]) + LevelCounts.of(parts[1])).stats()
    pixels = np.concatenate(parts).reshape(-1, 3) / 255
    wanted = {
        "min": pixels.min(0),
        "max": pixels.max(0),
        "mean": pixels.mean(0),
        "std": pixels.std(0),
    }
    wanted |= {
        f"q{round(100 * q):02d}": np.quantile(pixels, q, axis=0)
        for q in (0.01, 0.1, 0.5, 0.9, 0.99)
    }
    assert stats.pop("count") == [7]
    for name, value in wanted.items():
        np.testing.assert_allclose(stats.pop(name), value.reshape(3, 1, 1), atol=1e-12)
    assert not stats


# -- what is refused -------------------------------------------------------------------------------


def _no_number(episode: Episode) -> Episode:
    actions = episode.actions.copy()
    actions[3, 2] = np.nan
    return replace(episode, actions=actions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, quality="great"), "quality 'great' is unknown"),
        (lambda e: replace(e, rate_hz=15.0), "15.0 frames per second, not 20"),
        (
            lambda e: replace(e, obs={key: e.obs[key] for key in reversed(e.obs)}),
            "other columns than the first",
        ),
        (lambda e: replace(e, actions=e.actions[:, :4]), "other columns than the first"),
        (_no_number, "action has numbers that are not finite"),
    ],
)
def test_an_episode_that_does_not_fit(
    tmp_path: Path, change: Callable[[Episode], Episode], message: str
) -> None:
    episodes = [make_episode(), change(make_episode(1))]
    with pytest.raises(DataError, match=message):
        write(tmp_path / "set", episodes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [0, -5, 12.5, float("nan"), float("inf")])
def test_rates_that_lerobot_has_not(tmp_path: Path, rate: float) -> None:
    with pytest.raises(DataError, match="steps per second"):
        LeRobotWriter(tmp_path / "set", rate_hz=rate, task="", robot="")


def test_no_episodes_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episode to write"):
        write(tmp_path / "set", [])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = write(tmp_path / "set", make_episodes(2))
    with pytest.raises(DataError, match="exists already"):
        write(path, make_episodes(1))
    write(path, make_episodes(1), overwrite=True)
    assert len(pd.read_parquet(path / EPISODES)) == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists already"):
        write(tmp_path / "thesis", make_episodes(1), overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").exists()


# -- faults ----------------------------------------------------------------------------------------


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with LeRobotWriter(tmp_path / "set", rate_hz=20, task="", robot="") as writer:
            writer.write(with_images(make_episode(length=5)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_any_operation_leaves_the_old_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "set", [make_episode()])
    before = durable.digest(path)
    episodes = [with_images(make_episode(seed, length=5)) for seed in (1, 2)]
    seen: list[str] = []
    monkeypatch.setattr(durable, "operation", lambda name, _: seen.append(name))
    write(tmp_path / "other", episodes)
    total = len(seen)
    assert total > 10, seen
    for strike in range(
        1, total + 1
    ):  # the last but one removes the old folder, and only the rename comes after it
        seen.clear()

        def operation(name: str, path: Path, strike: int = strike) -> None:
            seen.append(name)
            if len(seen) == strike:
                raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(durable, "operation", operation)
        with pytest.raises(EnvironmentProblem, match="no space"):
            write(path, episodes, overwrite=True)
        if strike < total:
            assert durable.digest(path) == before, f"operation {strike}"
        assert [p.name for p in tmp_path.iterdir() if p.name not in ("set", "other")] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.factories import make_episodes
from zprl.data.writers.lerobot import LeRobotWriter

with LeRobotWriter(sys.argv[1], rate_hz=20, task="", robot="", overwrite=True) as writer:
    for episode in make_episodes(3):
        writer.write(episode)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "set", make_episodes(1))
    before = durable.digest(path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert durable.digest(path) == before
    assert (
        len(list(tmp_path.iterdir())) == 2
    )  # what it left ends in .partial, and the next writer removes it
    write(path, make_episodes(2), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
