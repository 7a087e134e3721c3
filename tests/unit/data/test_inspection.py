"""Statistics by hand; samples read no more than they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories import make_episode, write_demo_file
from tests.fixed_reader import Fixed, source
from zprl.data.episode import Episode
from zprl.data.inspection.dataset_card import card
from zprl.data.inspection.inspection import inspect
from zprl.data.inspection.outliers import Outlier, find_outliers, motion, scores
from zprl.data.running_statistics import RunningStatistics
from zprl.data.sources import Source, find_sources
from zprl.data.validation import ValidationLimits

LIMITS = ValidationLimits()


def straight(
    name: str, *, length: int = 20, step: float = 0.01, start: float = 0.0, **facts
) -> Episode:
    """The end effector moves ``step`` along x per frame."""
    track = np.zeros((length, 3), np.float32)
    track[:, 0] = start + step * np.arange(length)
    last = np.zeros(length, np.float32)
    return Episode(
        name, {"eef_pos": track}, track[:, :2] + 1, last, last > 0, **{"success": True, **facts}
    )


@pytest.mark.parametrize("cuts", [[], [1], [3, 4], [10, 20, 30]])
def test_moments_do_not_depend_on_the_pieces(cuts: list[int]) -> None:
    rows = np.random.default_rng(0).normal(
        1e4, 1e-2, (40, 3)
    )  # a mean a million times the deviation: sums of squares would cancel
    moments = RunningStatistics(3)
    for piece in np.split(rows, cuts):
        moments.add(piece)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, rows.std(0), rtol=1e-6)
    np.testing.assert_array_equal(moments.low, rows.min(0))
    np.testing.assert_array_equal(moments.high, rows.max(0))


def test_modified_z_score_by_hand() -> None:
    # Median 3, absolute deviations 2 1 0 1 97, their median 1: 0.6745 (x - 3).
    np.testing.assert_allclose(scores([1, 2, 3, 4, 100]), [-1.349, -0.6745, 0, 0.6745, 65.4265])
    # More than half are equal: mean absolute deviation 10 / 5 = 2, so 10 / (1.253314 * 2).
    np.testing.assert_allclose(scores([5, 5, 5, 5, 15]), [0, 0, 0, 0, 10 / (1.253314 * 2)])
    assert scores([2, 2, 2]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_modified_z_score_has_the_numbers_of_its_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(sigma=2, size=rng.integers(8, 40)).tolist()
    away = np.array(values) - np.median(values)
    expected = away / (np.median(np.abs(away)) / 0.6745)
    assert scores(values).tolist() == expected.tolist()


def test_motion_by_hand() -> None:
    track = np.zeros((5, 3), np.float32)
    track[:, 2] = [0, 1, 8, 27, 64]  # t³: its third difference is 6
    episode = replace(straight("a/0", length=5), obs={"eef_pos": track}, rate_hz=2.0)
    assert motion(episode) == pytest.approx({"length": 5, "path": 64, "jerk": 6 * 2**3})
    assert motion(replace(episode, rate_hz=None)) == pytest.approx(
        {"length": 5, "path": 64, "jerk per frame": 6}
    )
    assert motion(replace(episode, obs={"x": track})) == {"length": 5}


def test_few_episodes_have_no_outliers() -> None:
    motions = {
        str(number): {"length": float(length)}
        for number, length in enumerate([10, 11, 12, 13, 10, 11, 500])
    }
    assert find_outliers(motions) == []
    motions["7"] = {"length": 12.0}
    assert [outlier.episode for outlier in find_outliers(motions)] == ["6"]


def test_counts_by_hand() -> None:
    first = source(
        "a",
        [
            straight("a/0", rate_hz=10, success=False),
            straight("a/1", length=30, rate_hz=10, start=1),
            straight("a/0x", length=1),
        ],
    )
    second = source("b", [straight("b/0", step=0.02), straight("b/1", rate_hz=10)])
    found = inspect([first, second], limits=LIMITS)
    said = found.as_json()
    assert (said["episodes"], said["bad"], said["frames"]) == (3, 2, 70), (
        "b/1 is a/0 again, a/0x is too short"
    )
    assert said["seconds"] == pytest.approx(5.0)
    assert (said["episodes_with_rate"], said["rates_hz"]) == (2, {"10": 2})
    assert said["success_share"] == pytest.approx(2 / 3)
    assert said["length"] == {"min": 20, "median": 20.0, "max": 30}
    assert [f["episode"] for f in said["duplicates"]] == ["b/1"]
    sources = [(s["path"], s["episodes"], s["frames"], s["more"]) for s in said["sources"]]
    assert sources == [("a.fixed", 2, 50, False), ("b.fixed", 1, 20, False)]
    eef = said["keys"]["eef_pos"]
    assert (eef["width"], eef["frames"]) == (3, 70)
    assert eef["max"] == pytest.approx([1.29, 0, 0])
    assert eef["mean"][0] == pytest.approx((0.095 * 20 + 1.145 * 30 + 0.19 * 20) / 70)
    assert list(said["keys"]) == ["eef_pos", "actions"]
    assert json.loads(json.dumps(said)) == said


def test_the_episode_that_stands_out_is_found() -> None:
    usual = [
        straight(f"a/{number}", length=20 + number % 3, step=0.01 + 0.0001 * number)
        for number in range(12)
    ]
    found = inspect([source("a", [*usual, straight("a/odd", length=90, step=0.05)])], limits=LIMITS)
    assert {outlier.episode for outlier in found.outliers} == {"a/odd"}
    assert {outlier.what for outlier in found.outliers} >= {"length", "path"}


def test_a_sample_reads_no_further() -> None:
    class Counting(Fixed):
        read_so_far = 0

        def read(self, path):
            for item in self.items:
                self.read_so_far += 1
                yield item

    reader = Counting([straight(f"a/{number}", start=number) for number in range(20)])
    found = inspect([Source(Path("a.fixed"), reader)], limits=LIMITS, sample=5)
    assert (found.episodes, found.complete, found.sources[0].more) == (5, False, True)
    assert reader.read_so_far == 6, "one more tells that there is more"
    whole = inspect([Source(Path("a.fixed"), reader)], limits=LIMITS, sample=20)
    assert (whole.episodes, whole.complete) == (20, True)


def test_a_sample_of_a_file(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 6)
    sources = find_sources(tmp_path)
    found = inspect(sources, limits=LIMITS, sample=2)
    assert (found.episodes, found.complete) == (2, False)
    assert inspect(sources, limits=LIMITS, sample=None).episodes == 6, "the same readers, all again"


def test_a_key_of_two_widths_is_two_lines() -> None:
    wide = replace(
        straight("a/1"),
        actions=np.ones((20, 3), np.float32) * np.arange(20, dtype=np.float32)[:, None],
    )
    found = inspect([source("a", [straight("a/0"), wide])], limits=LIMITS)
    assert {key: moments.width for key, moments in found.keys.items()} == {
        "eef_pos": 3,
        "actions": 2,
        "actions (3 wide)": 3,
    }


def test_the_card_says_it_and_strangers_cannot_write_in_it() -> None:
    class Rude(Fixed):
        def facts(self, path: Path) -> dict[str, str]:
            return {"robot": "<script>alert(1)</script> | [x](http://x)\n# big"}

    items = [make_episode(number) for number in range(3)]
    found = inspect([Source(Path("a.fixed"), Rude(items))], limits=LIMITS)
    found.outliers = [Outlier("a/<b>", "length", 3, 1, 9)]
    text = card(found, title="Demonstrations")
    assert card(found, title="Demonstrations") == text
    assert text.startswith("# Demonstrations\n")
    assert "3 good episodes, 0 with errors, from 1 sources" in text
    assert "<script>" not in text
    assert "[x](" not in text
    assert "\n# big" not in text
    assert "a/&lt;b&gt;" in text


def test_nothing_at_all() -> None:
    found = inspect([], limits=LIMITS)
    assert found.as_json()["length"] == {"min": 0, "median": 0.0, "max": 0}
    assert "0 good episodes" in card(found, title="Nothing")
