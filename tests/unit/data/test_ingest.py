"""Choosing and refusing: limits, messages, summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories import ENV_ARGS, make_episode, make_episodes
from zprl.data.ingest import Ingested, choose, read_all, require, summarise
from zprl.data.sources import find_sources
from zprl.data.validation import ValidationLimits
from zprl.data.writers.robomimic import RobomimicWriter
from zprl.errors import DataError


def write_with_bad(path: Path, bad: int, good: int) -> Path:
    """``bad`` episodes with a NaN in frame 5, then ``good`` ones."""
    with RobomimicWriter(path, ENV_ARGS) as writer:
        for seed in range(bad + good):
            episode = make_episode(seed)
            if seed < bad:
                actions = episode.actions.copy()
                actions[5:, 0] = np.nan
                episode = replace(episode, actions=actions)
            writer.write(episode)
    return path


def read(folder: Path) -> Ingested:
    return read_all(find_sources(folder), limits=ValidationLimits())


def test_files_come_sorted_from_all_folders_and_only_demos(tmp_path: Path) -> None:
    for name in ("b/z.hdf5", "a.hdf5", "b/a.hdf5", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c.hdf5").mkdir()
    assert [source.path.relative_to(tmp_path).as_posix() for source in find_sources(tmp_path)] == [
        "a.hdf5",
        "b/a.hdf5",
        "b/z.hdf5",
    ]


def test_bad_share_decides(tmp_path: Path) -> None:
    path = write_with_bad(tmp_path / "a.hdf5", 1, 3)
    result = read(tmp_path)
    assert result.quarantine == ("a/demo_0",)
    assert result.bad_fraction == 0.25
    require(result, result.good, max_bad_fraction=0.25, report="r")
    with pytest.raises(DataError) as caught:
        require(result, result.good, max_bad_fraction=0.24, report="runs/report.html")
    text = str(caught.value)
    assert "1 of 4 episodes are bad" in text
    assert (
        f"D04 {path.as_posix()}, episode a/demo_0, frame 5: "
        "actions has 35 values that are not finite" in text
    )
    assert "runs/report.html" in text
    assert caught.value.exit_code == 3


def test_only_the_first_bad_ones_are_named(tmp_path: Path) -> None:
    write_with_bad(tmp_path / "a.hdf5", 8, 1)
    result = read(tmp_path)
    with pytest.raises(DataError, match="and 3 more") as caught:
        require(result, result.good, max_bad_fraction=0.5, report="r")
    assert str(caught.value).count("D04") == 5


def test_none_left(tmp_path: Path) -> None:
    write_with_bad(tmp_path / "a.hdf5", 2, 0)
    result = read(tmp_path)
    with pytest.raises(DataError, match="no usable episode is left of 2"):
        require(result, [], max_bad_fraction=1.0, report="r")


def test_no_success_fails_the_set(tmp_path: Path) -> None:
    with RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
        writer.write(make_episode(0, success=False))
    result = read(tmp_path)
    assert result.quarantine == ()
    with pytest.raises(DataError, match="D21"):
        require(result, result.good, max_bad_fraction=1.0, report="r")


def test_choose() -> None:
    episodes = make_episodes(8)  # numbers 3 and 7 fail
    assert choose(episodes, exclude_failures=False, max_episodes=None) == episodes
    kept = choose(episodes, exclude_failures=True, max_episodes=4)
    assert [e.name for e in kept] == ["made/demo_0", "made/demo_1", "made/demo_2", "made/demo_4"]


def test_summary_by_hand() -> None:
    episodes = make_episodes(4)  # lengths 40 to 43, the last fails; better, okay, worse, better
    summary = summarise(Ingested(("f",), tuple(episodes), (), ("x",)), episodes)
    assert summary["episodes"] == 4
    assert summary["frames"] == 166
    assert summary["bad_fraction"] == 0.2
    assert summary["success_share"] == 0.75
    assert (summary["length_min"], summary["length_median"], summary["length_max"]) == (
        40,
        41.5,
        43,
    )
    assert summary["by_quality"]["better"] == {"episodes": 2, "frames": 83, "success_share": 0.5}
    assert "unknown" not in summary["by_quality"]
