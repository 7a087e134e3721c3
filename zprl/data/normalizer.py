"""Conversion of physical units to [-1, 1] and back, as buffers inside every policy bundle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zprl.data.episode import CONSTANT_RANGE, is_quaternion
from zprl.errors import DataError


class Normalizer(nn.Module):
    """Per-dimension affine map of demo ranges to [-1, 1] (Diffusion Policy's limits mode).

    * observations: a constant dimension always becomes 0, because a network cannot know what its
      other values mean; quaternions pass unchanged (Diffusion Policy).
    * actions: constant dimensions are dropped (A action dimensions become F features) and put back
      exactly: a policy must not move what no demonstration ever moved (ours).
    * nothing is clamped, in neither direction.

    Args:
        obs_dims: Width of each observation key.
        action_dim: A.
        num_features: F, the number of action dimensions that vary.

    Example:
        >>> actions = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
        >>> n = Normalizer.fit({"x": torch.tensor([[1.0], [3.0]])}, actions)
        >>> n.normalize_actions(actions).tolist()
        [[-1.0], [1.0]]
        >>> n.denormalize_actions(torch.tensor([[0.5]])).tolist()
        [[1.5, 5.0]]
    """

    obs_offset: Tensor
    obs_gain: Tensor
    action_index: Tensor
    action_offset: Tensor
    action_half_range: Tensor
    action_constant: Tensor

    def __init__(self, obs_dims: Mapping[str, int], action_dim: int, num_features: int) -> None:
        super().__init__()
        self.obs_dims = dict(obs_dims)
        self.action_dim = action_dim
        self.num_features = num_features
        width = sum(self.obs_dims.values())
        self.register_buffer("obs_offset", torch.zeros(width))
        self.register_buffer("obs_gain", torch.ones(width))
        self.register_buffer("action_index", torch.arange(num_features))
        self.register_buffer("action_offset", torch.zeros(num_features))
        self.register_buffer("action_half_range", torch.ones(num_features))
        self.register_buffer("action_constant", torch.zeros(action_dim))

    @classmethod
    def fit(cls, obs: Mapping[str, Tensor], actions: Tensor) -> Normalizer:
        """Measure the ranges of all frames.

        Args:
            obs: (M, d) per key.
            actions: (M, A).

        Raises:
            DataError: every action dimension is constant, so that there is nothing to learn.
        """
        return cls.of_ranges(
            {key: (value.amin(0), value.amax(0)) for key, value in obs.items()},
            (actions.amin(0), actions.amax(0)),
        )

    @classmethod
    def of_ranges(
        cls, obs: Mapping[str, tuple[Tensor, Tensor]], actions: tuple[Tensor, Tensor]
    ) -> Normalizer:
        """Fit on ranges instead of frames.

        Args:
            obs: Smallest and largest number of each dimension, a pair of (d,) per key.
            actions: The same of the actions, a pair of (A,).

        Raises:
            DataError: as :meth:`fit` does.
        """
        middle, half, constant = _limits(*actions)
        index = torch.nonzero(~constant).flatten()
        if len(index) == 0:
            raise DataError(
                "no action dimension varies in the demonstrations",
                remedy="record demonstrations that move the robot",
            )

        normalizer = cls({key: len(low) for key, (low, _) in obs.items()}, len(middle), len(index))
        normalizer.action_index.copy_(index)
        normalizer.action_offset.copy_(middle[index])
        normalizer.action_half_range.copy_(half[index])
        normalizer.action_constant.copy_(torch.where(constant, middle, torch.zeros_like(middle)))

        start = 0
        for key, (low, high) in obs.items():
            part = slice(start, start + len(low))
            start = part.stop
            if is_quaternion(key):
                continue
            middle, half, constant = _limits(low, high)
            normalizer.obs_offset[part] = middle
            normalizer.obs_gain[part] = torch.where(
                constant, 0.0, 1.0 / torch.where(constant, 1.0, half)
            )
        return normalizer

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], obs_dims: Mapping[str, int]) -> Normalizer:
        """Rebuild from saved buffers; ``obs_dims`` in the order they were fitted in."""
        normalizer = cls(obs_dims, len(state["action_constant"]), len(state["action_index"]))
        normalizer.load_state_dict(dict(state))
        return normalizer

    def normalize_obs(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map each (..., d) to about [-1, 1]; keys the normaliser does not know are a KeyError."""
        starts = {}
        start = 0
        for key, width in self.obs_dims.items():
            starts[key] = start
            start += width
        out = {}
        for key, value in obs.items():
            part = slice(starts[key], starts[key] + self.obs_dims[key])
            out[key] = (value - self.obs_offset[part]) * self.obs_gain[part]
        return out

    def normalize_actions(self, actions: Tensor) -> Tensor:
        """Map actions (..., A) to features (..., F)."""
        return (actions[..., self.action_index] - self.action_offset) / self.action_half_range

    def denormalize_actions(self, features: Tensor) -> Tensor:
        """Map features (..., F) to actions (..., A), differentiably.

        Constant dimensions are put back exactly.
        """
        out = self.action_constant.expand(*features.shape[:-1], self.action_dim).clone()
        out[..., self.action_index] = features * self.action_half_range + self.action_offset
        return out


def _limits(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return middle, half range and "is constant" per dimension."""
    low = low.to(torch.float64)
    high = high.to(torch.float64)
    tolerance = CONSTANT_RANGE * torch.maximum(low.abs(), high.abs()).clamp(min=1.0)
    return ((low + high) / 2).float(), ((high - low) / 2).float(), (high - low) <= tolerance
