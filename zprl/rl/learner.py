"""The latent-RL loop in simulation: collect a chunk in every environment, then learn from it.

The loop runs in segments.  A segment starts from a fresh simulator, because a reset keeps hidden
engine state, and ends in a resume point; every random number is a function of (seed, purpose,
counter).  A killed run therefore repeats its last segment and arrives at the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zprl import seeding
from zprl.config import Rl
from zprl.envs.chunk import ChunkEnv
from zprl.models.policy import FlowPolicy
from zprl.rl.best_of import choose
from zprl.rl.noise_aliasing import NoiseAliased
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering_spaces import SteeringSpace
from zprl.rl.updates import Updates

RECENT = 100  # training success is reported over so many finished episodes (official code)

Row = dict[str, float]


class Learner:
    """Learns a residual for one interface on one frozen policy.

    Args:
        policy: Frozen base policy.
        interface: Where the residual enters.
        scale: (R,) residual scale.
        config: The RL section.
        seed: Training seed.
        demos: Demonstration transitions to mix into the batches, or ``None``.
        on_row: Receives each row of the learning curve.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        interface: SteeringSpace,
        *,
        scale: Tensor,
        config: Rl,
        seed: int,
        device: str = "cpu",
        demos: Replay | None = None,
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        self.policy, self.interface, self.config, self.seed, self.device = (
            policy,
            interface,
            config,
            seed,
            device,
        )
        self.spec = policy.spec
        state_dim = self.spec.policy.embedding_dim + len(scale)
        self.agent = self._make_agent(state_dim, scale)
        planned = config.segments * config.chunk_steps_per_segment * config.num_envs
        self.replay = Replay(min(config.buffer_size, planned), state_dim, len(scale), device=device)
        others = [(demos, config.demo_fraction)] if demos is not None else []
        self._updates = Updates(
            self.agent, config, seed=seed, main=self.replay, others=others, device=device
        )
        self.on_row = on_row
        self.chunk_discount = config.step_discount**self.spec.policy.chunk_steps
        self.segment = 0
        self.vector_steps = 0
        self.curve: list[Row] = []
        self.recent: list[
            tuple[float, float]
        ] = []  # (success, length) of finished training episodes

    def _make_agent(self, state_dim: int, scale: Tensor) -> Sac:
        config, generator = self.config, seeding.torch_generator(self.seed, "agent-init")
        if config.algorithm == "sac":
            return Sac(state_dim, scale, config, generator, device=self.device)
        shape, width = self.spec.policy, self.policy.num_features

        def chunk(state: Tensor, noise: Tensor) -> Tensor:
            shaped = noise.view(-1, shape.horizon, width)
            sequence = self.interface.sequence(
                self.policy, state[:, : shape.embedding_dim], noise, shaped
            )
            return sequence[:, self.policy.executed_slice].flatten(1)

        return NoiseAliased(
            state_dim,
            scale,
            config,
            generator,
            chunk=chunk,
            chunk_dim=shape.chunk_steps * width,
            device=self.device,
        )

    @property
    def chunk_steps(self) -> int:
        """Chunk transitions so far, over all environments."""
        return self.vector_steps * self.config.num_envs

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all environments."""
        return self.chunk_steps * self.spec.policy.chunk_steps

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self._updates.done

    # -- collecting --------------------------------------------------------------------------------

    def _generator(self, purpose: str, counter: int) -> torch.Generator:
        return seeding.torch_generator(self.seed, purpose, counter, device=self.device)

    def _draws(self) -> tuple[Tensor, Tensor | None]:
        """Flow noise (N, T, F), and the draw (N, Z) that makes z a sample, for the decision at hand."""
        n, step = self.config.num_envs, self.vector_steps
        noise = torch.randn(
            n,
            self.spec.policy.horizon,
            self.policy.num_features,
            generator=self._generator("flow-noise", step),
            device=self.device,
        )
        if not self.config.sample_latent:
            return noise, None
        return noise, torch.randn(
            n,
            self.spec.vib.latent_dim,
            generator=self._generator("latent", step),
            device=self.device,
        )

    def _residual(self, state: Tensor) -> Tensor:
        """Exploring residual (N, R): none or noise while warming up, then the actor's sample."""
        generator = self._generator("exploration", self.vector_steps)
        noise = torch.randn(len(state), self.agent.dim, generator=generator, device=self.device)
        if self.chunk_steps < self.config.warmup_chunks:
            return (self.config.warmup_noise * noise).clamp(-1, 1)
        if (count := self.config.best_of) > 1:
            draws = torch.randn(count, *noise.shape, generator=generator, device=self.device)
            residual = choose(self.agent.actor, self.agent.critics, self.agent.scale, state, draws)
        else:
            residual = self.agent.actor.sample(state, noise)[0].residual
        if self.config.progressive_chunks:
            share = min(
                1.0, (self.chunk_steps - self.config.warmup_chunks) / self.config.progressive_chunks
            )
            residual = residual * (
                torch.rand(len(state), 1, generator=generator, device=self.device) < share
            )
        return residual

    def _see(
        self, obs: dict[str, Tensor], noise: Tensor, sample: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding (N, D), anchor (N, R) and RL state (N, D + R) of observations; pictures are cropped at random (official code)."""
        augment = self._generator("crop", self.vector_steps) if self.spec.images else None
        embedding = self.policy.embed(obs, augment)
        anchor = self.interface.anchor(self.policy, embedding, noise, sample=sample)
        return embedding, anchor, torch.cat([embedding, anchor], -1)

    @torch.no_grad()
    def run_segment(
        self, make_env: Callable[[], ChunkEnv], tick: Callable[[], None] = lambda: None
    ) -> None:
        """Collect and learn for one segment in a fresh simulator.

        Args:
            make_env: Makes the fresh simulator; closed at the end.
            tick: Called after each vector chunk step (progress bars).
        """
        with make_env() as env:
            obs = env.reset(seeding.derive(self.seed, "simulator", self.segment) % 2**31)
            noise, sample = self._draws()
            embedding, anchor, state = self._see(obs, noise, sample)
            lengths = torch.zeros(self.config.num_envs, device=self.device)
            totals: dict[str, float] = defaultdict(float)
            losses: dict[str, float] = {}
            for _ in range(self.config.chunk_steps_per_segment):
                residual = self._residual(state)
                point = torch.addcmul(anchor, self.agent.scale, residual)
                chunk = self.policy.executed(
                    self.interface.sequence(self.policy, embedding, point, noise)
                )
                result = env.step(chunk)
                self.vector_steps += 1
                ended = result.terminated | result.truncated
                noise, sample = self._draws()
                embedding, next_anchor, next_state = self._see(result.obs, noise, sample)
                follow = next_state
                over = result.terminated
                if not self.config.bootstrap_truncated:
                    over = ended
                elif result.truncated.any():
                    follow = torch.where(
                        ended[:, None], self._see(result.final_obs, noise, sample)[2], next_state
                    )
                reward = result.reward - self.config.chunk_penalty
                self.replay.add(
                    state=state,
                    point=point,
                    reward=reward,
                    discount=self.chunk_discount * (~over).float(),
                    next_state=follow,
                )
                lengths += result.length
                for success, length in zip(
                    result.success[ended].tolist(), lengths[ended].tolist(), strict=True
                ):
                    self.recent = [*self.recent, (float(success), length)][-RECENT:]
                lengths[ended] = 0
                totals["anchor_rms"] += float(anchor.square().mean().sqrt())
                totals["residual_rms"] += float(
                    (self.agent.scale * residual).square().mean().sqrt()
                )
                totals["steps"] += 1
                anchor, state = next_anchor, next_state
                losses = self._learn() or losses
                tick()
                if totals["steps"] == 5:
                    self._report(totals, losses)
                    totals.clear()
            if totals:
                self._report(totals, losses)
        self.segment += 1

    def _report(self, totals: dict[str, float], losses: dict[str, float]) -> None:
        steps, found = totals["steps"], self.recent
        row = {
            "env_steps": self.env_steps,
            "chunk_steps": self.chunk_steps,
            "updates": self.updates,
            "success_rate": sum(s for s, _ in found) / len(found) if found else 0.0,
            "episode_length": sum(n for _, n in found) / len(found) if found else 0.0,
            "latent_rms": totals["anchor_rms"] / steps,
            "residual_rms": totals["residual_rms"] / steps,
            # Flow noise is its own residual: there is nothing to be in proportion to.
            "residual_ratio": totals["residual_rms"] / totals["anchor_rms"]
            if totals["anchor_rms"]
            else 0.0,
            **{
                name: losses.get(name, 0.0)
                for name in ("q_mean", "critic_loss", "actor_loss", "alpha", "entropy")
            },
        }
        self.curve.append(row)
        self.on_row(row)

    # -- learning ----------------------------------------------------------------------------------

    def _learn(self) -> dict[str, float]:
        """Do the updates that are due after this step; a function of counters alone."""
        config = self.config
        learned_from = self.chunk_steps - config.warmup_chunks
        if learned_from <= 0:
            return {}
        due = config.value_warmup_updates + int(learned_from * config.updates_per_chunk)
        losses: dict[str, float] = {}
        while self.updates < due:
            reports = self._updates.step(actor=self.updates >= config.value_warmup_updates)
            if self.updates > due - config.actor_period:
                for report in reports:
                    losses |= report()
        return losses

    def acting(self) -> SteeredPolicy:
        """The policy as it is now; it goes on learning with the learner."""
        critics = self.agent.critics if self.config.best_of > 1 else None
        return SteeredPolicy(
            self.policy,
            self.interface,
            self.agent.actor,
            self.agent.scale,
            critics,
            self.config.best_of,
        )

    # -- resuming ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """JSON facts and tensor groups from which :meth:`restore` continues exactly."""
        facts = {
            name: getattr(self, name)
            for name in ("segment", "vector_steps", "updates", "curve", "recent")
        }
        return facts, {"agent": self.agent.state(), "replay": self.replay.state()}

    def restore(self, facts: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
        """Continue from :meth:`state`."""
        for name, value in facts.items():
            if name != "updates":
                setattr(self, name, value)
        self._updates.done = facts["updates"]
        self.recent = [(s, n) for s, n in facts["recent"]]
        self.agent.restore(tensors["agent"])
        self.replay.restore(tensors["replay"])
