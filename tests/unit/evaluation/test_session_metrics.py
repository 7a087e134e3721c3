"""The executed path before it is differentiated."""

from __future__ import annotations

import numpy as np
import pytest

from zprl.evaluation.session_metrics import executed_path


def line(rate: float, seconds: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A straight path at uneven times."""
    draw = np.random.default_rng(0)
    stamps = np.sort(
        np.arange(0, seconds, 1 / rate) + draw.uniform(0, 0.2 / rate, round(seconds * rate))
    )
    return stamps, np.stack([0.1 * stamps, np.zeros_like(stamps), 0.5 - 0.2 * stamps], axis=1)


@pytest.mark.parametrize("rate", [5.0, 10.0, 20.0, 30.0, 50.0])
def test_a_straight_path_stays_straight_at_any_rate(rate):
    stamps, path = line(rate)
    found = executed_path(stamps, path, rate)
    grid = stamps[0] + np.arange(len(found)) / rate
    wanted = np.stack([0.1 * grid, 0 * grid, 0.5 - 0.2 * grid], axis=1)
    np.testing.assert_allclose(
        found, wanted, atol=2e-5
    )  # the filter starts and ends with some micrometres of its own


def test_noise_above_the_cut_off_goes_and_motion_below_stays():
    stamps = np.arange(0, 4, 0.02)
    slow, noise = 0.05 * np.sin(2 * np.pi * 1.0 * stamps), 0.01 * np.sin(2 * np.pi * 22.0 * stamps)
    found = executed_path(stamps, np.stack([slow + noise] * 3, axis=1), 50.0)
    middle = slice(25, -25)
    np.testing.assert_allclose(found[middle, 0], slow[: len(found)][middle], atol=2e-4)


def test_a_reading_seen_twice_and_a_path_too_short_to_filter():
    stamps, path = line(50.0, seconds=0.2)
    again = executed_path(
        np.insert(stamps, 3, stamps[3]), np.insert(path, 3, path[3], axis=0), 50.0
    )
    np.testing.assert_allclose(again, executed_path(stamps, path, 50.0))
    np.testing.assert_array_equal(executed_path(stamps[:3], path[:3], 50.0), path[:3])
