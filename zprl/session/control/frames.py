"""The rows that the driver records of an episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from zprl.robot.base import POSE, WRENCH, Health, Values
from zprl.session.messages import ControlRow, RobotHealth, RobotState


@dataclass(frozen=True)
class ControlFrame:
    """The row of one control step, as it stands before the step's action is sent.

    Attributes:
        row: Facts of the step.
        arrays: Its observation and actions.
        features: The robot's features by name.
        left: Actions of the chunk that are not played yet.
        health: Mode and error flags of the robot.
    """

    row: ControlRow
    arrays: dict[str, np.ndarray]
    features: Values
    left: int
    health: Health

    def state(self, digests: Mapping[str, str]) -> RobotState:
        """Return the robot's state, for the page and the scripted operator."""
        health = RobotHealth(
            mode=str(self.health.mode), errors=self.health.errors, detail=self.health.detail
        )
        return RobotState(
            **dict(self.row),
            left=self.left,
            health=health,
            features=self.features,
            digests=dict(digests),
        )


def observed(
    features: Values, obs: Mapping[str, np.ndarray], prefixes: Iterable[str]
) -> dict[str, np.ndarray]:
    """Return the arrays of an observation.

    Args:
        features: The robot's features by name.
        obs: Policy key to (d,).
        prefixes: Prefixes of the arms.

    Returns:
        ``obs/KEY`` (d,), ``features`` sorted by name, ``measured`` poses (7 for each arm), and
            ``wrench`` (6 for each arm) where every arm can tell it.
    """
    prefixes = tuple(prefixes)
    arrays = {f"obs/{key}": value for key, value in obs.items()}
    arrays["features"] = values({key: features[key] for key in sorted(features)})
    arrays["measured"] = np.concatenate(
        [[features[prefix + key] for key in POSE] for prefix in prefixes]
    )

    names = [prefix + key for prefix in prefixes for key in WRENCH]
    if features.keys() >= set(names):
        arrays["wrench"] = np.array([features[name] for name in names])
    return arrays


def values(named: Values) -> np.ndarray:
    """Return the numbers without their names, in order (n,) float64."""
    return np.array(list(named.values()), np.float64)
