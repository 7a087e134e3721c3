"""Policy gradients through the flow's own sampling chain: DPPO (arXiv 2409.00588) and ReinFlow (arXiv 2505.22094).

Unlike everything else here, these change the generator.  The condition stays what ZPRL's base is
conditioned on, the decoded latent mean, so that all methods start from the same policy.  Each Euler
step of the flow becomes a Gaussian decision of an inner chain,

    x_{i+1} ~ N(x_i + (t_{i+1} - t_i) v(x_i, t_i | c), sigma_i^2),

whose log-probability is known, and PPO is run on it:

=========  ======================================  ==============================================================================
``noise``  sigma                                   ratio
=========  ======================================  ==============================================================================
fixed      ``min_std`` everywhere                  per inner step, its advantage times ``denoising_discount`` per step that follows,
                                                   its clip growing towards the last step (DPPO)
learned    a network of (c, t), bounded by          one for the whole chain (ReinFlow)
           [``min_std``, ``max_std``]
=========  ======================================  ==============================================================================

Log-probabilities are means over the executed entries of a chunk, as in DPPO's released code.
Judged without noise.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zprl import seeding
from zprl.config import PolicyGradient
from zprl.envs.chunk import ChunkEnv
from zprl.models.flow_matching import time_embedding
from zprl.models.policy import FlowPolicy
from zprl.rl.learner import RECENT, Row
from zprl.rl.networks import Adam

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
        self.velocity_net = copy.deepcopy(policy.velocity_net).requires_grad_(True)
        self.config, self.grid, self.executed = config, policy.grid, policy.executed_slice
        self.times: Tensor
        self.register_buffer(
            "times",
            time_embedding(torch.tensor(policy.grid[:-1]), p.time_embedding_dim),
            persistent=False,
        )
        self.noise_net: nn.Sequential | None = None
        if config.noise == "learned":
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
        """Mean (B, T, F) and standard deviation (B, 1, F or 1) of the inner decision.

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
            return mean, torch.full((len(point), 1, 1), self.config.min_std, device=point.device)
        low, high = math.log(self.config.min_std), math.log(self.config.max_std)
        raw = self.noise_net(torch.cat([condition, features], -1))
        return mean, (low + (high - low) * (torch.tanh(raw) + 1) / 2).exp()[:, None]

    def log_prob(
        self, before: Tensor, after: Tensor, step: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (B,) of going from ``before`` to ``after`` (B, T, F), means over the executed entries."""
        mean, std = self.decide(before, step, condition)
        distance = ((after - mean) / std)[:, self.executed]
        log_std = std.log().expand_as(after)[:, self.executed]
        constant = 0.5 * math.log(2 * math.pi)
        return (-0.5 * distance.square() - log_std - constant).mean((1, 2)), (
            log_std + 0.5 + constant
        ).mean((1, 2))

    @torch.no_grad()
    def sample(self, condition: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """The whole chain (B, K + 1, T, F) from ``noise`` (B, T, F)."""
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
    follow: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (S, N) (Schulman et al. 2016).

    Args:
        reward: (S, N).
        value: (S, N), of the states acted in.
        follow: (S, N), of the states that followed; at an episode's end of its true last state.
        terminated: (S, N), no value follows.
        ended: (S, N), the next row belongs to another episode.
        discount: Per row.
        gae_lambda: Decay.
    """
    delta = reward + discount * follow * (~terminated) - value
    total, found = torch.zeros_like(value[0]), torch.zeros_like(value)
    for t in reversed(range(len(reward))):
        total = delta[t] + discount * gae_lambda * total * (~ended[t])
        found[t] = total
    return found


class PolicyGradientLearner:
    """Changes the generator by PPO; works segment by segment like :class:`zprl.rl.learner.Learner`.

    Args:
        policy: Frozen base policy.
        config: The RL section.
        seed: Training seed.
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
        self.policy, self.config, self.seed, self.device, self.on_row = (
            policy,
            config,
            seed,
            device,
            on_row,
        )
        self.chain = Chain(policy, config, seed).to(device)
        width = policy.spec.policy.embedding_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(seed, "init-value"))
            self.value_net = _mlp((width, *VALUE_HIDDEN, 1), nn.Mish).to(device)
        self._parts = {"chain": self.chain, "value": self.value_net}
        rates = {"chain": config.actor_learning_rate, "value": config.critic_learning_rate}
        self._adams = {
            name: Adam(
                parameters_to_vector(part.parameters()).detach().clone(),
                rates[name],
                clip=config.grad_clip,
            )
            for name, part in self._parts.items()
        }
        self.chunk_discount = config.step_discount**policy.spec.policy.chunk_steps
        self.segment = self.vector_steps = self.updates = self.iterations = 0
        self.curve: list[Row] = []
        self.recent: list[tuple[float, float]] = []

    @property
    def chunk_steps(self) -> int:
        """Chunk transitions so far, over all environments."""
        return self.vector_steps * self.config.num_envs

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all environments."""
        return self.chunk_steps * self.policy.spec.policy.chunk_steps

    def _generator(self, purpose: str, counter: int) -> torch.Generator:
        return seeding.torch_generator(self.seed, purpose, counter, device=self.device)

    def _condition(self, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embedding (N, D) and condition (N, D)."""
        embedding = self.policy.embed(obs)
        return embedding, self.policy.decode(self.policy.posterior(embedding)[0])

    def run_segment(
        self, make_env: Callable[[], ChunkEnv], tick: Callable[[], None] = lambda: None
    ) -> None:
        """Collect and learn for one segment in a fresh simulator, an iteration of PPO after each rollout."""
        config = self.config
        with make_env() as env:
            obs = env.reset(seeding.derive(self.seed, "simulator", self.segment) % 2**31)
            lengths = torch.zeros(config.num_envs, device=self.device)
            left = config.chunk_steps_per_segment
            while left:
                steps = min(config.rollout_steps, left)
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
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        rows: dict[str, list[Tensor]] = {}
        for _ in range(steps):
            generator = self._generator("exploration", self.vector_steps)
            embedding, condition = self._condition(obs)
            noise = self.policy.draw_noise(self.config.num_envs, generator)
            chain = self.chain.sample(condition, noise, generator)
            result = env.step(self.policy.executed(chain[:, -1]))
            self.vector_steps += 1
            ended = result.terminated | result.truncated
            follow = self._condition(result.final_obs)[0]
            row = {
                "embedding": embedding,
                "condition": condition,
                "chain": chain,
                "reward": result.reward,
                "follow": follow,
                "terminated": result.terminated,
                "ended": ended,
            }
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
            lengths += result.length
            for success, length in zip(
                result.success[ended].tolist(), lengths[ended].tolist(), strict=True
            ):
                self.recent = [*self.recent, (float(success), length)][-RECENT:]
            lengths[ended] = 0
            obs = result.obs
            tick()
        return obs, {name: torch.stack(values) for name, values in rows.items()}

    def _improve(self, rollout: dict[str, Tensor]) -> dict[str, float]:
        """Some epochs of PPO on a rollout (S, N, ...)."""
        config = self.config
        with torch.no_grad():
            value, follow = (
                self.value_net(rollout["embedding"]).squeeze(-1),
                self.value_net(rollout["follow"]).squeeze(-1),
            )
            rest = (rollout["terminated"], rollout["ended"])
            gain = advantages(
                rollout["reward"],
                value,
                follow,
                *rest,
                discount=self.chunk_discount,
                gae_lambda=config.gae_lambda,
            )
            returns = (gain + value).flatten()
            gain = ((gain - gain.mean()) / (gain.std() + 1e-8)).flatten()
            embedding, condition = (
                rollout["embedding"].flatten(0, 1),
                rollout["condition"].flatten(0, 1),
            )
            chain = rollout["chain"].flatten(0, 1)
            old = self._chances(chain, condition)[0]
        found: dict[str, float] = {}
        for epoch in range(config.epochs):
            generator = self._generator("ppo-order", self.iterations * config.epochs + epoch)
            order = torch.randperm(len(gain), generator=generator, device=self.device)
            for rows in order.split(config.batch_size):
                batch = {
                    "chain": chain[rows],
                    "condition": condition[rows],
                    "old": old[rows],
                    "gain": gain[rows],
                }
                loss, found = self._policy_loss(**batch)
                value_loss = (
                    (self.value_net(embedding[rows]).squeeze(-1) - returns[rows]).square().mean()
                )
                self._step("value", value_loss)
                if self.iterations >= config.value_warmup_iterations:
                    self._step("chain", loss)
                found |= {
                    "critic_loss": float(value_loss),
                    "actor_loss": float(loss),
                    "q_mean": float(value.mean()),
                }
                self.updates += 1
            if found["kl"] > config.target_kl:
                break
        self.iterations += 1
        return found

    def _chances(self, chain: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (B, K) of chains (B, K + 1, T, F)."""
        steps = (torch.full((len(chain),), i, device=chain.device) for i in range(self.chain.steps))
        pairs = [
            self.chain.log_prob(chain[:, i], chain[:, i + 1], step, condition)
            for i, step in enumerate(steps)
        ]
        log_probs, entropies = zip(*pairs, strict=True)
        return torch.stack(log_probs, 1), torch.stack(entropies, 1)

    def _policy_loss(
        self, chain: Tensor, condition: Tensor, old: Tensor, gain: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Clipped surrogate (PPO) of chains (B, K + 1, T, F) with old log-probabilities (B, K) and advantages (B,)."""
        config, steps = self.config, self.chain.steps
        new, entropies = self._chances(chain, condition)
        log_ratio, entropy = new - old, entropies.mean()
        weight = gain[:, None]
        clip = torch.tensor(config.clip, device=gain.device)
        if config.noise == "fixed":
            later = torch.arange(steps - 1, -1, -1, device=gain.device)
            weight = weight * config.denoising_discount**later
            share = (
                (1 - later / max(steps - 1, 1)) if steps > 1 else torch.ones(1, device=gain.device)
            )
            grown = (torch.exp(config.clip_growth * share) - 1) / (math.exp(config.clip_growth) - 1)
            clip = config.clip_first + (config.clip - config.clip_first) * grown
        else:
            log_ratio = log_ratio.mean(1, keepdim=True)
        ratio = log_ratio.exp()
        limited = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
        loss = (
            -torch.minimum(ratio * weight, limited * weight).mean()
            - config.entropy_weight * entropy
        )
        kl = float(((ratio - 1) - log_ratio).detach().mean())  # Schulman's low-variance estimate
        return loss, {
            "kl": kl,
            "clipped": float((ratio != limited).float().mean()),
            "entropy": float(entropy.detach()),
        }

    def _step(self, name: str, loss: Tensor) -> None:
        part, adam = self._parts[name], self._adams[name]
        part.zero_grad()
        loss.backward()
        with torch.no_grad():
            zero = (torch.zeros_like(p) if p.grad is None else p.grad for p in part.parameters())
            adam.step(parameters_to_vector(zero))
            vector_to_parameters(adam.flat, part.parameters())

    def _report(self, losses: dict[str, float]) -> None:
        found = self.recent
        row = {
            "env_steps": self.env_steps,
            "chunk_steps": self.chunk_steps,
            "updates": self.updates,
            "success_rate": sum(s for s, _ in found) / len(found) if found else 0.0,
            "episode_length": sum(n for _, n in found) / len(found) if found else 0.0,
            **losses,
        }
        self.curve.append(row)
        self.on_row(row)

    def acting(self) -> FlowPolicy:
        """The base policy with the generator as it is now, frozen."""
        policy = copy.deepcopy(self.policy)
        policy.velocity_net.load_state_dict(self.chain.velocity_net.state_dict())
        return policy.freeze()

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """JSON facts and tensor groups from which :meth:`restore` continues exactly."""
        facts = {
            name: getattr(self, name)
            for name in ("segment", "vector_steps", "updates", "iterations", "curve", "recent")
        }
        return facts, {
            name: {"flat": adam.flat, **adam.state()} for name, adam in self._adams.items()
        }

    def restore(self, facts: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
        """Continue from :meth:`state`."""
        for name, value in facts.items():
            setattr(self, name, value)
        self.recent = [(s, n) for s, n in facts["recent"]]
        with torch.no_grad():
            for name, adam in self._adams.items():
                adam.flat.copy_(tensors[name]["flat"])
                adam.restore(tensors[name])
                vector_to_parameters(adam.flat, self._parts[name].parameters())
