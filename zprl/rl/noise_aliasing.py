"""DSRL's noise-aliased agent (arXiv 2506.15799).

Values are learned on action chunks, which the world sees, and passed on to the noise.

Many noises make one action, so a critic of noises alone must learn the same thing many times.
Here, with g(s, w) the executed chunk that the frozen generator makes of noise w, and w = scale * d
the agent's point,

    action critics:  sum_k mean_B (Q_k(s, a) - y)^2,
                     y = r + Gamma * min_k Qbar_k(s', g(s', w')),   w' ~ pi(s')
    noise critics:   sum_k mean_B (W_k(s, w) - min_j Q_j(s, g(s, w)))^2,
                     w ~ N(0, 1), limited to the bound
    actor:           climbs W as :class:`zprl.rl.sac.Sac` climbs its critics

Source: the paper.  Its released settings take ten noise-critic steps per update; here it is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zprl.config import Rl
from zprl.rl.networks import Adam
from zprl.rl.sac import Batch, Sac, make_critics

Chunk = Callable[[Tensor, Tensor], Tensor]
"""Executed normalised chunk (B, A) of a state (B, S) and a noise (B, R)."""


class NoiseAliased(Sac):
    """Actor and noise critics as in :class:`zprl.rl.sac.Sac`, with critics of chunks beside them.

    Args:
        state_dim: S.
        scale: (R,) bound of the noise.
        config: The ``finetune_sim`` section.
        generator: Source of the initial weights.
        chunk: The frozen generator.
        chunk_dim: A.
    """

    def __init__(
        self,
        state_dim: int,
        scale: Tensor,
        config: Rl,
        generator: torch.Generator,
        *,
        chunk: Chunk,
        chunk_dim: int,
        device: str = "cpu",
    ) -> None:
        super().__init__(state_dim, scale, config, generator, device=device)
        self.chunk = chunk

        # The targets follow the action critics; the noise critics need none.
        self.action_critics = make_critics(config, state_dim + chunk_dim, generator, device)
        self.targets = make_critics(config, state_dim + chunk_dim, None, device)
        self.targets.flat.copy_(self.action_critics.flat)
        self.action_critic_adam = Adam(
            self.action_critics.flat, config.learning_rates.critics, clip=config.updates.grad_clip
        )

    def _target_inputs(self, batch: Batch, residual: Tensor) -> Tensor:
        return self._with_chunk(batch.next_inputs[:, : self.width], self.scale * residual)

    def update_critics(
        self, batch: Batch, generator: torch.Generator
    ) -> Callable[[], dict[str, float]]:
        """Do one step of the action critics, then one of the noise critics.

        The returned function computes the losses.
        """
        y = self.target(batch, generator)
        state = batch.inputs[:, : self.width]
        inputs = self._with_chunk(state, batch.inputs[:, self.width :])
        error, values = self._regress(self.action_critics, self.action_critic_adam, inputs, y)

        # The noise critics learn what the action critics now say of the chunks of other noise.
        draw = torch.randn(len(y), self.dim, generator=generator, device=generator.device)
        noise = torch.maximum(torch.minimum(draw, self.scale), -self.scale)
        wanted = self._values(self.action_critics, self._with_chunk(state, noise))[0].amin(0)
        inputs = torch.cat([state, noise], -1)
        gap, _ = self._regress(self.critics, self.critic_adam, inputs, wanted)
        return lambda: {
            "critic_loss": float(error.square().mean(1).sum()),
            "noise_critic_loss": float(gap.square().mean(1).sum()),
            "q_mean": float(values.mean()),
        }

    def update_targets(self) -> None:
        """Move the targets towards the action critics by tau."""
        self.targets.flat.lerp_(self.action_critics.flat, self.config.critics.tau)

    def state(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""
        return super().state() | {"action_critics": self.action_critics.flat}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        super().restore(state)
        self.action_critics.flat.copy_(state["action_critics"])

    def _with_chunk(self, state: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([state, self.chunk(state, noise)], -1)

    def _adams(self) -> list[tuple[str, Adam]]:
        return [*super()._adams(), ("action_critic_adam", self.action_critic_adam)]
