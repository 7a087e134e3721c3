"""The agent: soft actor-critic on a bounded residual, with options of ZPRL and its peers.

Notation: s = (embedding, anchor), d = residual in [-1, 1]^R, x = anchor + scale * d (the perturbed
point), K critics.

    target:  y = r + Gamma * V(s'),   d' ~ pi(s')
             V(s') = min_{k in random subset} Qbar_k(s', x'(d'))   [- alpha log pi(d'|s')
                                                                    if entropy_in_target]
    critic:  sum_k mean_B (Q_k(s, x) - y)^2
    actor:   mean_B [ alpha log pi(d|s) - mean_k Q_k(s, x(d)) + trust_weight * mean_R d^2 ]
    alpha:   mean_B [ -log_alpha * (log pi + target_entropy) ]

Source: official code, except ``trust_weight`` (ours) and the options named after peers in
:class:`zprl.config.Rl`.  Gradients are written out; the formulas stand beside them and the tests
hold them against autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zprl.config import Rl
from zprl.rl.networks import Adam, EnsembleMLP, Trace
from zprl.rl.steering import move

LOG_2PI = math.log(2 * math.pi)


@dataclass
class Batch:
    """Transitions, laid out as the critics read them: nothing is joined per update.

    State and point stand side by side:
    ``inputs`` (B, S + R), ``reward`` (B,), ``discount`` (B,; 0 where no value follows), and
    ``next_inputs`` (B, S + R) whose last R columns are free.  The last R columns of a state are its
    anchor.  Updates overwrite points in place: a batch is used for one critic update and then at
    most one actor update.
    """

    inputs: Tensor
    reward: Tensor
    discount: Tensor
    next_inputs: Tensor


@dataclass
class ActorOutput:
    """A sampled residual (B, R), and what its log-probability and gradient need."""

    residual: Tensor
    before: Tensor
    std: Tensor
    noise: Tensor
    raw_log_std: Tensor


class Actor:
    """Tanh-Gaussian policy over residuals.

    log std = log_std_min + (log_std_max - log_std_min) (tanh(raw) + 1) / 2, so it starts at the
    middle (official code).
    """

    def __init__(
        self,
        state_dim: int,
        residual_dim: int,
        config: Rl,
        generator: torch.Generator | None,
        device: str = "cpu",
    ) -> None:
        self.residual_dim = residual_dim
        self.low = config.actor.log_std_min
        self.span = 0.5 * (config.actor.log_std_max - self.low)
        self.net = EnsembleMLP(
            (state_dim, *config.networks.hidden, 2 * residual_dim),
            activation=config.networks.activation,
            generator=generator,
            orthogonal=True,
            output_gain=0.01,
            device=device,
        )

    def mean(self, state: Tensor) -> Tensor:
        """Return the deterministic residual (B, R)."""
        out, _ = self.net(state)
        return torch.tanh(out[0, :, : self.residual_dim])

    def sample(self, state: Tensor, noise: Tensor) -> tuple[ActorOutput, Trace]:
        """Return the residual for standard normal ``noise`` (B, R), and a trace of it."""
        out, trace = self.net(state)
        mean, raw = out[0].split(self.residual_dim, -1)
        raw_log_std = torch.tanh(raw)
        std = (self.low + self.span * (raw_log_std + 1)).exp()
        before = torch.addcmul(mean, std, noise)
        residual = torch.tanh(before)
        return ActorOutput(residual, before, std, noise, raw_log_std), trace

    def log_prob(self, out: ActorOutput) -> Tensor:
        """Return the log-density (B,) of a sampled residual."""
        # log det of tanh in its stable form:
        # log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + exp(-2|u|)))
        size = out.before.abs()
        log_det = 2 * (math.log(2) - size - (-2 * size).exp_().log1p_())
        log_std = self.low + self.span * (out.raw_log_std + 1)
        return (-0.5 * out.noise.square() - log_std - 0.5 * LOG_2PI - log_det).sum(-1)

    def backward(
        self, trace: Trace, out: ActorOutput, grad_residual: Tensor, grad_log_prob: float
    ) -> None:
        """Fill the weights' gradient of a loss with the given derivatives.

        With u = mean + std * noise and d = tanh(u):  dd/du = 1 - d^2,  dlogp/du = 2 d (from the log
        det),  dlogp/dlogstd = -1 (directly) + 2 d std noise (through u).
        """
        grad_before = (
            grad_residual * (1 - out.residual.square()) + (2 * grad_log_prob) * out.residual
        )
        grad_log_std = grad_before * out.std * out.noise - grad_log_prob
        grad_raw = grad_log_std * (self.span * (1 - out.raw_log_std.square()))
        self.net.backward(trace, torch.cat([grad_before, grad_raw], -1).unsqueeze(0))


def make_critics(
    config: Rl, width: int, generator: torch.Generator | None, device: str = "cpu"
) -> EnsembleMLP:
    """Return an ensemble of critics over inputs (B, width); weights are zero without generator."""
    return EnsembleMLP(
        (width, *config.networks.hidden, 1),
        config.critics.count,
        activation=config.networks.activation,
        layer_norm=config.networks.critic_layer_norm,
        generator=generator,
        device=device,
    )


class Sac:
    """Actor, critics, targets and their optimisers.

    Args:
        state_dim: S.
        scale: (R,) residual scale per dimension.
        config: The ``finetune_sim`` section.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        state_dim: int,
        scale: Tensor,
        config: Rl,
        generator: torch.Generator,
        *,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.scale = scale.to(device)
        self.dim = len(scale)
        self.width = state_dim

        self.actor = Actor(state_dim, self.dim, config, generator, device)
        self.critics = make_critics(config, state_dim + self.dim, generator, device)
        self.targets = make_critics(config, state_dim + self.dim, None, device)
        self.targets.flat.copy_(self.critics.flat)
        self.log_alpha = torch.full((1,), math.log(config.entropy.initial_alpha), device=device)
        self.target_entropy = config.entropy.target_per_dim * self.dim

        self.actor_adam = Adam(
            self.actor.net.flat, config.learning_rates.actor, clip=config.updates.grad_clip
        )
        self.critic_adam = Adam(
            self.critics.flat, config.learning_rates.critics, clip=config.updates.grad_clip
        )
        self.alpha_adam = Adam(self.log_alpha, config.learning_rates.alpha)

    def _values(
        self, nets: EnsembleMLP, inputs: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Trace]:
        """Return Q (K, B) of inputs (B, S + R), and the trace for the backward pass.

        Where the reward lies in [0, 1], Q is squashed there by (tanh + 1) / 2 (official code).
        """
        out, trace = nets(inputs, chosen)
        out = out.squeeze(-1)
        return (torch.tanh(out).add_(1).mul_(0.5) if self.config.critics.bounded else out), trace

    def _subset(self, generator: torch.Generator) -> Tensor | None:
        """Return the targets whose smallest value counts (REDQ); ``None`` for all.

        The others need not be evaluated.
        """
        count, subset = self.config.critics.count, self.config.critics.target_subset
        if subset == count:
            return None
        return torch.randperm(count, generator=generator, device=generator.device)[:subset]

    def _perturb(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """Write the points anchor + scale * residual into inputs (B, S + R)."""
        anchor = inputs[:, self.width - self.dim : self.width]
        move(anchor, self.scale, residual, out=inputs[:, self.width :])
        return inputs

    def _through_bound(self, grad: Tensor, values: Tensor) -> Tensor:
        """Gradient before the bound: d/dx (tanh x + 1)/2 = 2 q (1 - q)."""
        return grad * (2 * values * (1 - values)) if self.config.critics.bounded else grad

    def target(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the Bellman target y (B,)."""
        noise = torch.randn(
            len(batch.reward), self.dim, generator=generator, device=generator.device
        )
        out, _ = self.actor.sample(batch.next_inputs[:, : self.width], noise)
        inputs = self._target_inputs(batch, out.residual)
        values, _ = self._values(self.targets, inputs, self._subset(generator))
        value = values.amin(0)
        if self.config.entropy.in_target:
            value = value - self.log_alpha.exp() * self.actor.log_prob(out)
        return batch.reward + batch.discount * value

    def _target_inputs(self, batch: Batch, residual: Tensor) -> Tensor:
        """Return the inputs of the target critics where a residual (B, R) follows."""
        return self._perturb(batch.next_inputs, residual)

    def _regress(
        self, critics: EnsembleMLP, adam: Adam, inputs: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Do one step of critics towards y (B,); return their errors and values (K, B)."""
        values, trace = self._values(critics, inputs)
        error = values - y
        critics.backward(trace, self._through_bound(error * (2 / len(y)), values).unsqueeze(-1))
        adam.step(critics.grad)
        return error, values

    def update_critics(
        self, batch: Batch, generator: torch.Generator
    ) -> Callable[[], dict[str, float]]:
        """Do one critic step; the returned function computes the losses."""
        y = self.target(batch, generator)
        error, values = self._regress(self.critics, self.critic_adam, batch.inputs, y)
        return lambda: {
            "critic_loss": float(error.square().mean(1).sum()),
            "q_mean": float(values.mean()),
        }

    def update_actor(
        self, batch: Batch, generator: torch.Generator
    ) -> Callable[[], dict[str, float]]:
        """Do one step of actor and entropy weight; the returned function computes the losses."""
        size = len(batch.reward)
        alpha = float(self.log_alpha.exp())

        # The residual that the actor would choose, and its value.
        noise = torch.randn(size, self.dim, generator=generator, device=generator.device)
        out, actor_trace = self.actor.sample(batch.inputs[:, : self.width], noise)
        values, trace = self._values(self.critics, self._perturb(batch.inputs, out.residual))

        # The value's gradient through the point: the mean over the critics, or the least.
        if self.config.actor.uses_min:
            weights = torch.zeros_like(values).scatter_(0, values.argmin(0, keepdim=True), 1.0)
        else:
            weights = torch.full_like(values, 1 / len(values))
        grad = self._through_bound(weights * (-1 / size), values).unsqueeze(-1)
        point = slice(self.width, None)
        grad_residual = self.critics.backward(trace, grad, weights=False, inputs=point) * self.scale
        if trust_weight := self.config.actor.trust_weight:
            grad_residual.add_(out.residual, alpha=2 * trust_weight / (size * self.dim))
        self.actor.backward(actor_trace, out, grad_residual, alpha / size)
        self.actor_adam.step(self.actor.net.grad)

        # The entropy weight rises where the actor is surer than its target.
        log_prob = self.actor.log_prob(out).mean()
        self.alpha_adam.step(-(log_prob + self.target_entropy).reshape(1))
        return lambda: {
            "actor_loss": float(alpha * log_prob - (weights * values).sum(0).mean()),
            "entropy": -float(log_prob),
            "alpha": float(self.log_alpha.exp()),
        }

    def update_targets(self) -> None:
        """Move the targets towards the critics by tau."""
        self.targets.flat.lerp_(self.critics.flat, self.config.critics.tau)

    # -- state -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""
        state = {
            "actor": self.actor.net.flat,
            "critics": self.critics.flat,
            "targets": self.targets.flat,
            "log_alpha": self.log_alpha,
        }
        for name, adam in self._adams():
            state |= {f"{name}.{key}": value for key, value in adam.state().items()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.actor.net.flat.copy_(state["actor"])
        self.critics.flat.copy_(state["critics"])
        self.targets.flat.copy_(state["targets"])
        self.log_alpha.copy_(state["log_alpha"])
        for name, adam in self._adams():
            prefix = f"{name}."
            own = {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key.startswith(prefix)
            }
            adam.restore(own)

    def _adams(self) -> list[tuple[str, Adam]]:
        return [
            ("actor_adam", self.actor_adam),
            ("critic_adam", self.critic_adam),
            ("alpha_adam", self.alpha_adam),
        ]
