"""Policy gradients through the flow's own sampling chain.

DPPO (arXiv 2409.00588) and ReinFlow (arXiv 2505.22094).  Unlike everything else here, these change
the generator.  The condition stays what ZPRL's base is conditioned on, the decoded latent mean, so
that all methods start from the same policy.  Each Euler step of the flow becomes a Gaussian
decision of an inner chain,

    x_{i+1} ~ N(x_i + (t_{i+1} - t_i) v(x_i, t_i | c), sigma_i^2),

whose log-probability is known, and PPO is run on it:

``noise: fixed`` (DPPO)
    sigma is ``min_std`` everywhere.  A ratio per inner step, its advantage times
    ``denoising_discount`` per step that follows, its clip growing towards the last step.
``noise: learned`` (ReinFlow)
    sigma is a network of (c, t), bounded by [``min_std``, ``max_std``].  One ratio for the whole
    chain.

Log-probabilities are means over the executed entries of a chunk, as in DPPO's released code.
Judged without noise.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zprl import durable, seeding
from zprl.config import PolicyGradient
from zprl.envs.chunk import ChunkEnv
from zprl.models.flow_matching import time_embedding
from zprl.models.policy import FlowPolicy
from zprl.rl.networks import Adam
from zprl.rl.segment_learner import Row, SegmentLearner, Tensors
from zprl.rl.steering_bundle import save_generator

LARGEST_NOISE = 3.0
"""Draws beyond so many standard deviations are limited (both papers' code:
``randn_clip_value``)."""
NOISE_HIDDEN = (64, 64)
"""Of the learned noise (ReinFlow)."""
VALUE_HIDDEN = (256, 256, 256)
"""Of the value network (both papers)."""


def _mlp(sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), activation()]
    return nn.Sequential(*layers[:-1])


class Chain(nn.Module):
    """The stochastic sampling chain.

    Args:
        policy: The frozen base; its velocity network is copied.
        config: Noise and its bounds.
        seed: Of the noise network's initial weights.
    """

    def __init__(self, policy: FlowPolicy, config: PolicyGradient, seed: int) -> None:
        super().__init__()
        p = policy.spec.policy
        self.velocity_net = copy.deepcopy(policy.velocity_net).requires_grad_()
        self.config = config
        self.grid = policy.grid
        self.executed = policy.executed_slice

        self.times: Tensor
        self.register_buffer(
            "times",
            time_embedding(torch.tensor(policy.grid[:-1]), p.time_embedding_dim),
            persistent=False,
        )
        self.noise_net: nn.Sequential | None = None
        if config.chain.noise == "learned":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seeding.derive(seed, "init-noise"))
                self.noise_net = _mlp(
                    (p.embedding_dim + p.time_embedding_dim, *NOISE_HIDDEN, policy.num_features),
                    nn.Tanh,
                )

    @property
    def steps(self) -> int:
        """Inner decisions per chunk, K."""
        return len(self.grid) - 1

    def decide(self, point: Tensor, step: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (B, T, F) and standard deviation (B, 1, F or 1) of the inner decision.

        Args:
            point: (B, T, F).
            step: (B,) index of the inner decision.
            condition: (B, D).
        """
        grid = torch.tensor(self.grid, device=point.device)
        features = self.times[step]
        length = (grid[step + 1] - grid[step])[:, None, None]
        mean = point + length * self.velocity_net(point, features, condition)
        if self.noise_net is None:
            return mean, torch.full(
                (len(point), 1, 1), self.config.chain.min_std, device=point.device
            )
        low, high = math.log(self.config.chain.min_std), math.log(self.config.chain.max_std)
        raw = self.noise_net(torch.cat([condition, features], -1))
        return mean, (low + (high - low) * (torch.tanh(raw) + 1) / 2).exp()[:, None]

    def log_prob(
        self, before: Tensor, after: Tensor, step: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy (B,) of a step from ``before`` to ``after`` (B, T, F).

        Both are means over the executed entries.
        """
        mean, std = self.decide(before, step, condition)
        distance = ((after - mean) / std)[:, self.executed]
        log_std = std.log().expand_as(after)[:, self.executed]
        constant = 0.5 * math.log(2 * math.pi)
        log_prob = (-0.5 * distance.square() - log_std - constant).mean((1, 2))
        return log_prob, (log_std + 0.5 + constant).mean((1, 2))

    @torch.no_grad()
    def sample(self, condition: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Return the whole chain (B, K + 1, T, F) from ``noise`` (B, T, F)."""
        chain = [noise]
        for i in range(self.steps):
            mean, std = self.decide(
                chain[-1], torch.full((len(noise),), i, device=noise.device), condition
            )
            draw = torch.randn(noise.shape, generator=generator, device=noise.device).clamp(
                -LARGEST_NOISE, LARGEST_NOISE
            )
            chain.append(mean + std * draw)
        return torch.stack(chain, 1)


def advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Return generalised advantage estimates (S, N) (Schulman et al. 2016).

    Args:
        reward: (S, N).
        value: (S, N), of the states acted in.
        next_value: (S, N), of the states that followed; at an episode's end of its true last
            state.
        terminated: (S, N), no value follows.
        ended: (S, N), the next row belongs to another episode.
        discount: Per row.
        gae_lambda: Decay.
    """
    delta = reward + discount * next_value * (~terminated) - value
    total = torch.zeros_like(value[0])
    estimates = torch.zeros_like(value)
    for t in reversed(range(len(reward))):
        total = delta[t] + discount * gae_lambda * total * (~ended[t])
        estimates[t] = total
    return estimates


@dataclass(frozen=True)
class Rollout:
    """Decisions of a rollout of S vector steps; every field is (S, N, ...).

    Attributes:
        embedding: Of the observation acted on, (S, N, D).
        condition: The generator's, (S, N, D).
        chain: Sampling chain, (S, N, K + 1, T, F).
        reward: Chunk reward.
        next_embedding: Of the observation that followed, at an episode's end of its true last
            state, (S, N, D).
        terminated: No value follows.
        ended: The next row belongs to another episode.
    """

    embedding: Tensor
    condition: Tensor
    chain: Tensor
    reward: Tensor
    next_embedding: Tensor
    terminated: Tensor
    ended: Tensor


class PolicyGradientLearner(SegmentLearner[PolicyGradient]):
    """Changes the generator by PPO.

    Args:
        policy: Frozen base policy.
        config: The RL section.
        seed: Training seed.
        device: Device of networks and worlds.
        on_row: Receives each row of the learning curve.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        config: PolicyGradient,
        *,
        seed: int,
        device: str = "cpu",
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        super().__init__(policy, config, seed=seed, device=device, on_row=on_row)
        self.iterations = 0
        self._updates = 0
        self.chunk_discount = config.returns.step_discount**policy.spec.policy.chunk_steps

        self.chain = Chain(policy, config, seed).to(device)
        width = policy.spec.policy.embedding_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(seed, "init-value"))
            self.value_net = _mlp((width, *VALUE_HIDDEN, 1), nn.Mish).to(device)

        self._parts = {"chain": self.chain, "value": self.value_net}
        rates = {"chain": config.learning_rates.actor, "value": config.learning_rates.value}
        self._adams = {
            name: Adam(
                parameters_to_vector(part.parameters()).detach().clone(),
                rates[name],
                clip=config.updates.grad_clip,
            )
            for name, part in self._parts.items()
        }

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self._updates

    def run_segment(
        self, make_env: Callable[[], ChunkEnv], tick: Callable[[], None] = lambda: None
    ) -> None:
        """Collect and learn for one segment in a fresh simulator, a PPO iteration per rollout.

        Args:
            make_env: Makes the fresh simulator; closed at the end.
            tick: Called after each vector step (progress bars).
        """
        with make_env() as env:
            obs = self._reset(env)
            lengths = torch.zeros(self.config.budget.num_envs, device=self.device)
            left = self.config.budget.chunk_steps_per_segment

            while left:
                steps = min(self.config.rollouts.steps, left)
                left -= steps
                obs, rollout = self._collect(env, obs, steps, lengths, tick)
                self._report(self._improve(rollout))

        self.segment += 1

    @torch.no_grad()
    def _collect(
        self,
        env: ChunkEnv,
        obs: dict[str, Tensor],
        steps: int,
        lengths: Tensor,
        tick: Callable[[], None],
    ) -> tuple[dict[str, Tensor], Rollout]:
        """Act for some vector steps; return the last observation and the rollout."""
        rows: list[Rollout] = []
        for _ in range(steps):
            # Sample a chain and execute the chunk at its end.
            generator = self._generator("exploration", self.vector_steps)
            embedding, condition = self._condition(obs)
            noise = self.policy.draw_noise(self.config.budget.num_envs, generator)
            chain = self.chain.sample(condition, noise, generator)
            result = env.step(self.policy.executed(chain[:, -1]))
            self.vector_steps += 1

            rows.append(
                Rollout(
                    embedding=embedding,
                    condition=condition,
                    chain=chain,
                    reward=result.reward,
                    next_embedding=self._condition(result.final_obs)[0],
                    terminated=result.terminated,
                    ended=result.terminated | result.truncated,
                )
            )
            self._count_episodes(result, lengths)
            obs = result.obs
            tick()

        names = [each.name for each in fields(Rollout)]
        return obs, Rollout(
            **{name: torch.stack([getattr(row, name) for row in rows]) for name in names}
        )

    def _condition(self, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return embedding (N, D) and condition (N, D)."""
        embedding = self.policy.embed(obs)
        return embedding, self.policy.decode(self.policy.posterior(embedding)[0])

    def _improve(self, rollout: Rollout) -> Row:
        """Run some epochs of PPO on a rollout; return the losses of the last batch."""
        batch, embedding, returns, mean_value = self._prepare(rollout)
        losses: Row = {}
        for epoch in range(self.config.rollouts.epochs):
            generator = self._generator(
                "ppo-order", self.iterations * self.config.rollouts.epochs + epoch
            )
            order = torch.randperm(len(returns), generator=generator, device=self.device)

            for rows in order.split(self.config.updates.batch_size):
                loss, losses = self._policy_loss(
                    **{name: value[rows] for name, value in batch.items()}
                )
                value = self.value_net(embedding[rows]).squeeze(-1)
                value_loss = (value - returns[rows]).square().mean()
                self._step("value", value_loss)
                if self.iterations >= self.config.updates.value_warmup_iterations:
                    self._step("chain", loss)
                losses |= {
                    "critic_loss": float(value_loss.detach()),
                    "actor_loss": float(loss.detach()),
                    "q_mean": mean_value,
                }
                self._updates += 1

            # The old policy's data says little about one that has moved too far.
            if losses["kl"] > self.config.clip.target_kl:
                break
        self.iterations += 1
        return losses

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> tuple[dict[str, Tensor], Tensor, Tensor, float]:
        """Return arguments of the policy's loss, embeddings, returns, and the mean value.

        Tensors have a row per chunk, (S * N, ...).
        """
        value = self.value_net(rollout.embedding).squeeze(-1)
        next_value = self.value_net(rollout.next_embedding).squeeze(-1)
        advantage = advantages(
            rollout.reward,
            value,
            next_value,
            rollout.terminated,
            rollout.ended,
            discount=self.chunk_discount,
            gae_lambda=self.config.returns.gae_lambda,
        )
        returns = (advantage + value).flatten()
        advantage = ((advantage - advantage.mean()) / (advantage.std() + 1e-8)).flatten()

        condition = rollout.condition.flatten(0, 1)
        chain = rollout.chain.flatten(0, 1)
        old = self._chances(chain, condition)[0]
        batch = {"chain": chain, "condition": condition, "old": old, "advantage": advantage}
        return batch, rollout.embedding.flatten(0, 1), returns, float(value.mean())

    def _chances(self, chain: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies (B, K) of chains (B, K + 1, T, F)."""
        steps = (torch.full((len(chain),), i, device=chain.device) for i in range(self.chain.steps))
        pairs = [
            self.chain.log_prob(chain[:, i], chain[:, i + 1], step, condition)
            for i, step in enumerate(steps)
        ]
        log_probs, entropies = zip(*pairs, strict=True)
        return torch.stack(log_probs, 1), torch.stack(entropies, 1)

    def _policy_loss(
        self, chain: Tensor, condition: Tensor, old: Tensor, advantage: Tensor
    ) -> tuple[Tensor, Row]:
        """Return PPO's clipped surrogate and figures of it.

        Args:
            chain: (B, K + 1, T, F).
            condition: (B, D).
            old: Log-probabilities (B, K) under the policy that acted.
            advantage: (B,).
        """
        config = self.config
        new, entropies = self._chances(chain, condition)
        log_ratio = new - old
        entropy = entropies.mean()
        weight = advantage[:, None]
        clip = torch.tensor(config.clip.last, device=advantage.device)

        if config.chain.noise == "fixed":
            discount, clip = self._per_inner_step(advantage.device)
            weight = weight * discount
        else:
            log_ratio = log_ratio.mean(1, keepdim=True)

        ratio = log_ratio.exp()
        limited = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
        surrogate = torch.minimum(ratio * weight, limited * weight).mean()
        loss = -surrogate - config.updates.entropy_weight * entropy

        kl = float(((ratio - 1) - log_ratio).detach().mean())  # Schulman's low-variance estimate
        return loss, {
            "kl": kl,
            "clipped": float((ratio != limited).float().mean()),
            "entropy": float(entropy.detach()),
        }

    def _per_inner_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the advantage's discount (K,) and the clip (K,) of each inner step (DPPO)."""
        config, steps = self.config, self.chain.steps
        later = torch.arange(steps - 1, -1, -1, device=device)
        discount = config.returns.denoising_discount**later

        # The clip grows exponentially towards the last inner step.
        share = 1 - later / (steps - 1) if steps > 1 else torch.ones(1, device=device)
        grown = (torch.exp(config.clip.growth * share) - 1) / (math.exp(config.clip.growth) - 1)
        return discount, config.clip.first + (config.clip.last - config.clip.first) * grown

    def _step(self, name: str, loss: Tensor) -> None:
        part, adam = self._parts[name], self._adams[name]
        part.zero_grad()
        loss.backward()
        with torch.no_grad():
            zero = (torch.zeros_like(p) if p.grad is None else p.grad for p in part.parameters())
            adam.step(parameters_to_vector(zero))
            vector_to_parameters(adam.flat, part.parameters())

    def acting(self) -> FlowPolicy:
        """Return the base policy with the generator as it is now, frozen."""
        policy = copy.deepcopy(self.policy)
        policy.velocity_net.load_state_dict(self.chain.velocity_net.state_dict())
        return policy.freeze()

    def save_bundle(self, path: Path, *, base_digest: str, provenance: Mapping[str, Any]) -> None:
        """Write the changed generator as a steering bundle."""
        save_generator(
            path,
            self.acting(),
            config=self.config,
            base_digest=base_digest,
            provenance=provenance,
        )

    def save_checkpoint(self, path: Path) -> None:
        """Write the networks with their optimisers; no session continues a changed generator."""
        _, tensors = self.state()

        def fill(folder: Path) -> None:
            for name, values in tensors.items():
                durable.write_tensors(folder / f"{name}.safetensors", values)

        durable.write_dir(path, fill)

    def state(self) -> tuple[dict[str, Any], Tensors]:
        """Return JSON facts and tensor groups from which :meth:`restore` continues exactly."""
        facts = {**self._progress(), "iterations": self.iterations}
        return facts, {
            name: {"flat": adam.flat, **adam.state()} for name, adam in self._adams.items()
        }

    def restore(self, facts: dict[str, Any], tensors: Tensors) -> None:
        """Continue from :meth:`state`."""
        self._restore_progress(facts)
        self._updates = facts["updates"]
        self.iterations = facts["iterations"]
        with torch.no_grad():
            for name, adam in self._adams.items():
                adam.flat.copy_(tensors[name]["flat"])
                adam.restore(tensors[name])
                vector_to_parameters(adam.flat, self._parts[name].parameters())
