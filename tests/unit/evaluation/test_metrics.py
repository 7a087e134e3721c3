"""Smoothness of made-up tracks whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zprl.evaluation import metrics


def test_a_cubic_has_constant_jerk() -> None:
    # x = 2 t^3 has x''' = 12, y = -0.5 t^3 has y''' = -3: norm sqrt(153); third differences of a
    # cubic are exact.
    t = np.arange(20) / 50.0
    track = np.stack((2 * t**3, -0.5 * t**3, 0.3 + 0 * t), 1)
    assert metrics.jerk_rms(track, 50.0) == pytest.approx(math.sqrt(153), rel=1e-6)


def test_a_parabola_has_no_jerk() -> None:
    t = np.arange(12) / 10.0
    assert metrics.jerk_rms(np.stack((t**2, 3 * t, 1 - t**2), 1), 10.0) == pytest.approx(
        0, abs=1e-9
    )


def test_jerk_is_a_root_mean_square() -> None:
    # One jump of 1 m: third differences 1, -2, 1, then 0; rate 1.
    track = np.zeros((7, 3))
    track[3:, 0] = 1
    assert metrics.jerk_rms(track, 1.0) == pytest.approx(math.sqrt((1 + 4 + 1 + 0) / 4))


def test_jerk_grows_with_the_cube_of_the_rate() -> None:
    track = np.random.default_rng(0).normal(size=(9, 3))
    assert metrics.jerk_rms(track, 20.0) == pytest.approx(8 * metrics.jerk_rms(track, 10.0))


def test_total_variation_by_hand() -> None:
    # Moves of length 5, 0 and 1.
    assert metrics.total_variation([[0, 0, 0], [3, 4, 0], [3, 4, 0], [3, 4, 1]]) == pytest.approx(
        2.0
    )


def test_chunk_jump_sees_boundaries_alone() -> None:
    # Chunks of 2 over 5 steps: boundaries 1-2 (length 2) and 3-4 (length 4); the moves 0-1 and 2-3
    # do not count.
    x = [0, 10, 12, 99, 103]
    assert metrics.chunk_jump([[v, 0, 0] for v in x], 2) == pytest.approx(3.0)


def test_too_few_frames_are_not_a_number() -> None:
    assert math.isnan(metrics.jerk_rms(np.zeros((3, 3)), 10.0))
    assert math.isnan(metrics.total_variation(np.zeros((1, 3))))
    assert math.isnan(metrics.chunk_jump(np.zeros((4, 3)), 4)), (
        "an episode within one chunk has no boundary"
    )


def test_mean_leaves_out_what_is_not_a_number() -> None:
    assert metrics.mean([1.0, math.nan, 3.0]) == 2.0
    assert metrics.mean([math.nan]) is None
