"""From a camera's picture to what the policy sees of it."""

from __future__ import annotations

import numpy as np

from zprl.errors import DataError


def view(
    picture: np.ndarray, crop: tuple[int, int, int, int] | None, size: tuple[int, int]
) -> np.ndarray:
    """Cut out and scale.

    Args:
        picture: (H, W, 3) uint8.
        crop: Top, left, height, width in the picture; ``None`` for all of it.
        size: Height and width of the result.

    Raises:
        DataError: the crop does not lie in the picture.
    """
    import cv2

    top, left, height, width = crop or (0, 0, *picture.shape[:2])
    if (
        min(top, left) < 0
        or min(height, width) < 1
        or top + height > picture.shape[0]
        or left + width > picture.shape[1]
    ):
        raise DataError(
            f"the crop {crop} does not lie in a picture of {picture.shape[:2]}",
            remedy="correct the task's image",
        )
    part = picture[top : top + height, left : left + width]
    shrinks = size[0] <= height and size[1] <= width
    return np.ascontiguousarray(
        cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    )
