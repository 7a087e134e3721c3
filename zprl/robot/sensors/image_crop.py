"""Crop and scale a camera's image for the policy."""

from __future__ import annotations

import numpy as np

from zprl.errors import DataError


def view(
    image: np.ndarray, crop: tuple[int, int, int, int] | None, size: tuple[int, int]
) -> np.ndarray:
    """Cut out a part of an image and scale it.

    Args:
        image: (H, W, 3) uint8.
        crop: Top, left, height, width in the image; ``None`` for all of it.
        size: Height and width of the result.

    Raises:
        DataError: the crop does not lie in the image.
    """
    import cv2

    top, left, height, width = crop or (0, 0, *image.shape[:2])
    starts_inside = min(top, left) >= 0 and min(height, width) >= 1
    ends_inside = top + height <= image.shape[0] and left + width <= image.shape[1]
    if not starts_inside or not ends_inside:
        raise DataError(
            f"the crop {crop} does not lie in a image of {image.shape[:2]}",
            remedy="correct the task's image",
        )

    part = image[top : top + height, left : left + width]
    shrinks = size[0] <= height and size[1] <= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(part, size[::-1], interpolation=interpolation))
