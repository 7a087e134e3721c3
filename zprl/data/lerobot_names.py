"""Names of a LeRobot dataset's features and of the observations that they hold."""

from __future__ import annotations

from collections.abc import Mapping

from zprl.errors import DataError

STATE = "observation.state"
OBSERVATION = "observation."
IMAGES = "observation.images."


def observation_key(feature: str) -> str | None:
    """Return the observation that a feature holds.

    ``observation.images.<key>`` and ``observation.<key>`` hold ``<key>``.  The dimensions of
    ``observation.state`` may be named after keys of their own, see :func:`state_names`.

    >>> names = "observation.images.wrist_image", "observation.object", "action"
    >>> [observation_key(name) for name in names]
    ['wrist_image', 'object', None]
    """
    for start in (IMAGES, OBSERVATION):
        if feature.startswith(start) and len(feature) > len(start):
            return feature.removeprefix(start)
    return None


def image_feature(key: str) -> str:
    """Return the feature that holds a camera's images.

    Raises:
        DataError: LeRobot takes no such name.

    >>> image_feature("wrist_image")
    'observation.images.wrist_image'
    """
    if "/" in key or not key:
        raise DataError(
            f"a camera is named '{key}', and LeRobot takes no names with a slash",
            remedy="rename it in the recording",
        )
    return IMAGES + key


def state_names(widths: Mapping[str, int]) -> list[str]:
    """Return names of the dimensions of the joined state, ``<key>.<index>``.

    Readers split the state again by them.

    >>> state_names({"eef_pos": 2, "gripper": 1})
    ['eef_pos.0', 'eef_pos.1', 'gripper.0']
    """
    return [f"{key}.{index}" for key, width in widths.items() for index in range(width)]
