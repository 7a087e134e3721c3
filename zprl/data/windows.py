"""Training windows: the frames that a chunked policy sees, and the actions that answer them.

Every frame t of every chosen episode is the current frame of exactly one window: observations t-O+1
.. t and actions t-O+1 .. t-O+T, both held at the episode's first and last frame beyond its ends.
This is Diffusion Policy's sampler (pad_before = O-1, pad_after = T-O); the executed part of the
action sequence begins at index O-1.

Where a recipe weighs episodes, an epoch draws as many windows as there are, each in proportion to
its weight as exactly as whole numbers allow (systematic resampling: Carpenter, Clifford and
Fearnhead, 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zprl import seeding
from zprl.data.store import EpisodeStore
from zprl.errors import DataError


class ChunkWindows:
    """Windows over some episodes of a store; batches are a pure function of (seed, step).

    Args:
        store: The episodes.
        obs_keys: Observation keys to load, in order.
        obs_steps: O, observation frames per window.
        horizon: T, actions per window.
        episodes: Numbers of the episodes to use; ``None`` for all.

    Example::

        windows = ChunkWindows(store, ("object",), obs_steps=1, horizon=8)
        batch = windows.batch(seed=0, step=17, size=256)  # batch["actions"]: (256, 8, A)
    """

    def __init__(
        self,
        store: EpisodeStore,
        obs_keys: Sequence[str],
        *,
        obs_steps: int,
        horizon: int,
        episodes: Sequence[int] | None = None,
    ) -> None:
        missing = [key for key in obs_keys if key not in store.obs]
        if missing:
            raise DataError(
                f"{store.path} has no observation '{missing[0]}'",
                remedy=f"stored keys: {', '.join(store.obs)}; see ingest.obs_keys",
            )
        chosen = (
            torch.arange(len(store))
            if episodes is None
            else torch.as_tensor(list(episodes), dtype=torch.long)
        )
        if len(chosen) == 0:
            raise DataError(
                "no episodes to cut windows from",
                remedy="lower pretrain.validation_fraction or record more",
            )

        self._obs = {key: store.obs[key] for key in obs_keys}
        self._actions = store.actions

        # First, last and current frame of each window (W,).
        lengths = store.lengths[chosen]
        self._first = torch.repeat_interleave(store.offsets[chosen], lengths)
        self._last = torch.repeat_interleave(store.offsets[chosen] + lengths - 1, lengths)
        within = torch.arange(len(self._first)) - torch.repeat_interleave(
            torch.cumsum(lengths, 0) - lengths, lengths
        )
        self._current = self._first + within

        self._obs_steps = torch.arange(obs_steps) - (obs_steps - 1)
        self._action_steps = torch.arange(horizon) - (obs_steps - 1)

        weights = torch.repeat_interleave(store.weights[chosen], lengths)
        equal = bool((weights == weights[0]).all())
        self._shares = None if equal else torch.cumsum(weights * (len(weights) / weights.sum()), 0)
        self._order: tuple[tuple[int, int], Tensor] | None = None

    def __len__(self) -> int:
        return len(self._current)

    def gather(self, index: Tensor) -> dict[str, dict[str, Tensor] | Tensor]:
        """Return windows by number (B,), in physical units.

        They come as ``{"obs": {key: (B, O, d)}, "actions": (B, T, A)}``; images
        come as they are stored, (B, O, H, W, 3) uint8.
        """
        first, last, current = (x[index][:, None] for x in (self._first, self._last, self._current))
        obs_frames = torch.clamp(current + self._obs_steps, first, last)
        action_frames = torch.clamp(current + self._action_steps, first, last)
        return {
            "obs": {key: value[obs_frames] for key, value in self._obs.items()},
            "actions": self._actions[action_frames],
        }

    def epoch(self, seed: int, epoch: int) -> Tensor:
        """Return the numbers of the windows (W,) in the order that this epoch draws them.

        A window of w times the mean weight comes floor(w) or ceil(w) times, w times on average over
        seeds and epochs: once where all weights are equal.
        """
        order = torch.randperm(len(self), generator=seeding.torch_generator(seed, "windows", epoch))
        if self._shares is None:
            return order

        offset = torch.rand(
            (),
            dtype=torch.float64,
            generator=seeding.torch_generator(seed, "window-weights", epoch),
        )
        # Evenly spaced marks on the line on which each window is as long as its share.
        drawn = torch.searchsorted(self._shares, torch.arange(len(self)) + offset, right=True)
        return drawn.clamp(max=len(self) - 1)[order]

    def batch(self, seed: int, step: int, size: int) -> dict[str, dict[str, Tensor] | Tensor]:
        """Return the ``size`` windows of gradient step ``step``.

        Steps walk through one shuffle per epoch after another, so that each window comes once per
        epoch (of equal weights), and yet batch ``step`` needs no memory of the batches before it.
        """
        positions = torch.arange(step * size, (step + 1) * size)
        epochs, within = positions // len(self), positions % len(self)
        index = torch.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            index[here] = self._shuffle(seed, epoch)[within[here]]
        return self.gather(index)

    def _shuffle(self, seed: int, epoch: int) -> Tensor:
        # Only a cache: the value depends on nothing else.
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = ((seed, epoch), self.epoch(seed, epoch))
        return self._order[1]
