from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.unit.report import made
from zprl.errors import DataError
from zprl.report import video_strip
from zprl.report.style import PageFigure


def _strip() -> tuple[PageFigure, list[float]]:
    heights: list[float] = []

    def render(poses: video_strip.Poses) -> np.ndarray:
        heights.append(float(poses["panda_hand"][2]))
        return made.flat_render(poses)

    return video_strip.strip(
        made.evaluation("base"), made.evaluation("finetune_sim"), render=render
    ), heights


def test_chooses_the_first_that_only_steering_masters() -> None:
    # base masters none of the recorded episodes, finetune_sim all but the first two
    episode, why = video_strip.choose(made.evaluation("base"), made.evaluation("finetune_sim"))
    assert episode == 2 and "only the steered policy masters" in why


def test_falls_back_to_the_first_and_says_so() -> None:
    episode, why = video_strip.choose(made.evaluation("base"), made.evaluation("base"))
    assert episode == 0 and "none of the 6" in why


def test_needs_recorded_frames() -> None:
    blind = replace(made.evaluation("base"), tracks={}, bodies=())
    with pytest.raises(DataError, match="no episode was recorded"):
        video_strip.choose(blind, made.evaluation("finetune_sim"))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((60, 22), [0, 6, 11, 16, 22, 60]),
        ((22, 60), [0, 6, 11, 16, 22, 60]),
        ((50, 50), [0, 10, 20, 30, 40, 50]),
        ((60, 50), [0, 12, 24, 36, 48, 60]),
    ],
)
def test_columns(lengths: tuple[int, int], expected: list[int]) -> None:
    assert video_strip.columns(lengths) == expected


def test_frames_are_the_latest_not_after_the_moment() -> None:
    found = made.evaluation("base")
    taken = video_strip.VideoStrip.of(found, 1)
    assert (
        taken.steps.tolist() == [*range(0, 60, 5), 59] and taken.length == 60 and not taken.success
    )
    np.testing.assert_array_equal(taken.at(9)["panda_hand"], taken.poses[1, 1])
    np.testing.assert_array_equal(taken.at(10)["panda_hand"], taken.poses[2, 1])
    np.testing.assert_array_equal(taken.at(10_000)["cube"], taken.poses[-1, 0])


def test_strip_renders_once_per_new_frame_and_dims_after_the_end() -> None:
    made_strip, heights = _strip()
    assert len(heights) == 6 + 5  # the steered policy's last column repeats its last frame
    image = Image.open(io.BytesIO(made_strip.light))
    assert image.size == (6 * 320 + 5 * 6, 2 * 240 + 6)
    pixels = np.asarray(image)
    assert pixels[240:246].max() == 0  # the gap is transparent
    ended, alive = pixels[246 + 120, 5 * 326 + 160, :3], pixels[246 + 120, 4 * 326 + 160, :3]
    shade = int(heights[-1] * 255)
    assert alive.tolist() == [shade] * 3
    np.testing.assert_allclose(ended, np.array([40, 46, 54]) * 0.55 + shade * 0.45, atol=2)


def test_strip_says_how_each_ended() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(_strip()[0].light)).convert("RGB")).astype(int)
    good, bad = (31, 138, 91), (192, 57, 47)

    def has(row: int, column: int, colour: tuple[int, int, int]) -> bool:
        patch = pixels[row * 246 + 10 : row * 246 + 37, column * 326 + 200 : column * 326 + 311]
        return bool((patch == colour).all(axis=2).any())

    assert [has(0, column, bad) for column in range(6)] == [False] * 5 + [True]
    assert [has(1, column, good) for column in range(6)] == [False] * 4 + [True, True]
    assert not has(0, 5, good) and not has(1, 5, bad)
