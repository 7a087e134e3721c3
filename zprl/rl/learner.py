"""The latent-RL loop in simulation: collect a chunk in every environment, then learn from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zprl import seeding
from zprl.config import Rl
from zprl.envs.chunk import ChunkEnv, ChunkResult
from zprl.models.policy import FlowPolicy
from zprl.rl.best_of import choose
from zprl.rl.learner_checkpoint import save_checkpoint
from zprl.rl.networks import EnsembleMLP
from zprl.rl.noise_aliasing import NoiseAliased
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac
from zprl.rl.segment_learner import Row, SegmentLearner, Tensors
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering import Situation, SteeringDecision, normalized_chunk, observe, steer
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import SteeringSpace
from zprl.rl.updates import Updates

STEPS_PER_ROW = 5
"""Vector chunk steps per row of the learning curve; the last row of a segment may cover fewer."""
LOSSES = ("q_mean", "critic_loss", "actor_loss", "alpha", "entropy")
"""Losses in the learning curve; zero before the first update."""


@dataclass(frozen=True)
class DecisionDraws:
    """Random draws of one decision.

    Attributes:
        noise: Flow noise (N, T, F).
        latent: (N, Z), makes the latent a sample of its posterior; ``None``: its mean.
    """

    noise: Tensor
    latent: Tensor | None


@dataclass
class Extent:
    """Sums of the anchors' and residuals' sizes over the decisions since the last row."""

    decisions: int = 0
    anchor_rms: float = 0.0
    residual_rms: float = 0.0

    def add(self, decision: SteeringDecision, scale: Tensor) -> None:
        """Add a decision."""
        self.decisions += 1
        self.anchor_rms += float(decision.anchor.square().mean().sqrt())
        self.residual_rms += float((scale * decision.residual).square().mean().sqrt())

    def row(self) -> Row:
        """Return the means, and the residual's size relative to the anchor's."""
        return {
            "latent_rms": self.anchor_rms / self.decisions,
            "residual_rms": self.residual_rms / self.decisions,
            # Flow noise is its own residual: its anchor is zero, and there is no ratio.
            "residual_ratio": self.residual_rms / self.anchor_rms if self.anchor_rms else 0.0,
        }


class Learner(SegmentLearner[Rl]):
    """Learns a residual for one space on one frozen policy.

    Args:
        policy: Frozen base policy.
        space: Where the residual enters.
        scale: (R,) residual scale.
        config: The RL section.
        seed: Training seed.
        device: Device of networks, memory and worlds.
        demos: Demonstration transitions to mix into the batches, or ``None``.
        on_row: Receives each row of the learning curve.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        space: SteeringSpace,
        *,
        scale: Tensor,
        config: Rl,
        seed: int,
        device: str = "cpu",
        demos: Replay | None = None,
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        super().__init__(policy, config, seed=seed, device=device, on_row=on_row)
        self.space = space
        self.chunk_discount = config.returns.step_discount**self.spec.policy.chunk_steps
        state_dim = self.spec.policy.embedding_dim + len(scale)
        self.agent = self._make_agent(state_dim, scale)

        # The memory is never larger than what the run can fill.
        budget = config.budget
        planned = budget.segments * budget.chunk_steps_per_segment * budget.num_envs
        capacity = min(config.updates.buffer_size, planned)
        self.replay = Replay(capacity, state_dim, len(scale), device=device)
        others = [(demos, config.demonstrations.fraction)] if demos is not None else []
        self._updates = Updates(
            self.agent, config, seed=seed, main=self.replay, others=others, device=device
        )

    def _make_agent(self, state_dim: int, scale: Tensor) -> Sac:
        generator = seeding.torch_generator(self.seed, "agent-init")
        if self.config.algorithm == "sac":
            return Sac(state_dim, scale, self.config, generator, device=self.device)

        shape, width = self.spec.policy, self.policy.num_features

        def chunk(state: Tensor, noise: Tensor) -> Tensor:
            embedding = state[:, : shape.embedding_dim]
            shaped = noise.view(-1, shape.horizon, width)
            return normalized_chunk(self.policy, self.space, embedding, noise, shaped)

        return NoiseAliased(
            state_dim,
            scale,
            self.config,
            generator,
            chunk=chunk,
            chunk_dim=shape.chunk_steps * width,
            device=self.device,
        )

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self._updates.done

    @torch.no_grad()  # the agent writes its gradients out (zprl/rl/sac.py)
    def run_segment(
        self, make_env: Callable[[], ChunkEnv], tick: Callable[[], None] = lambda: None
    ) -> None:
        """Collect and learn for one segment in a fresh simulator.

        Args:
            make_env: Makes the fresh simulator; closed at the end.
            tick: Called after each vector chunk step (progress bars).
        """
        with make_env() as env:
            situation = self._observe(self._reset(env), self._draw())
            lengths = torch.zeros(self.config.budget.num_envs, device=self.device)
            extent = Extent()
            losses: Row = {}

            for _ in range(self.config.budget.chunk_steps_per_segment):
                # Choose a residual and execute the chunk that the moved point makes.
                decision = steer(
                    self.policy, self.space, self.agent.scale, situation, self._explore
                )
                result = env.step(decision.chunk)
                self.vector_steps += 1

                # Store the transition; its successor is the situation of the next decision.
                draws = self._draw()
                following = self._observe(result.obs, draws)
                self._store(situation, decision, result, following, draws)
                self._count_episodes(result, lengths)
                extent.add(decision, self.agent.scale)

                # Update the agent.
                losses = self._update_agent() or losses
                situation = following
                tick()

                if extent.decisions == STEPS_PER_ROW:
                    self._log(extent, losses)
                    extent = Extent()

            if extent.decisions:
                self._log(extent, losses)

        self.segment += 1

    # -- the steps of a segment --------------------------------------------------------------------

    def _draw(self) -> DecisionDraws:
        """Draw flow noise, and the latent's sample where configured, for the next decision."""
        rows, step = self.config.budget.num_envs, self.vector_steps
        noise = self.policy.draw_noise(rows, self._generator("flow-noise", step))
        if not self.config.exploration.sample_latent:
            return DecisionDraws(noise, None)

        generator = self._generator("latent", step)
        width = self.spec.vib.latent_dim
        return DecisionDraws(
            noise, torch.randn(rows, width, generator=generator, device=self.device)
        )

    def _observe(self, obs: dict[str, Tensor], draws: DecisionDraws) -> Situation:
        """Return the situation of observations; images are cropped at random (official code)."""
        augment = self._generator("crop", self.vector_steps) if self.spec.images else None
        embedding = self.policy.embed(obs, augment)
        return observe(self.policy, self.space, embedding, draws.noise, latent_sample=draws.latent)

    def _explore(self, situation: Situation) -> Tensor:
        """Return the exploring residual (N, R).

        None or noise while warming up, then the actor's sample or the critics' choice.
        """
        exploration, state = self.config.exploration, situation.state
        generator = self._generator("exploration", self.vector_steps)
        noise = torch.randn(len(state), self.agent.dim, generator=generator, device=self.device)
        if self.chunk_steps < exploration.warmup_chunks:
            return (exploration.warmup_noise * noise).clamp(-1, 1)

        if (count := self.config.steering.best_of) > 1:
            draws = torch.randn(count, *noise.shape, generator=generator, device=self.device)
            residual = choose(self.agent.actor, self.agent.critics, self.agent.scale, state, draws)
        else:
            residual = self.agent.actor.sample(state, noise)[0].residual

        # Residuals are phased in: at first few environments get one (Policy Decorator).
        if exploration.progressive_chunks:
            done = self.chunk_steps - exploration.warmup_chunks
            share = min(1.0, done / exploration.progressive_chunks)
            chance = torch.rand(len(state), 1, generator=generator, device=self.device)
            residual = residual * (chance < share)
        return residual

    def _store(
        self,
        situation: Situation,
        decision: SteeringDecision,
        result: ChunkResult,
        following: Situation,
        draws: DecisionDraws,
    ) -> None:
        """Append the chunk transitions of all environments to the memory."""
        ended = result.terminated | result.truncated
        over, next_state = result.terminated, following.state
        if not self.config.returns.bootstrap_truncated:
            over = ended
        elif result.truncated.any():
            # A value follows a time-out, that of the episode's true last state.
            final = self._observe(result.final_obs, draws)
            next_state = torch.where(ended[:, None], final.state, next_state)

        self.replay.add(
            state=situation.state,
            point=decision.point,
            reward=result.reward - self.config.returns.chunk_penalty,
            discount=self.chunk_discount * (~over).float(),
            next_state=next_state,
        )

    def _update_agent(self) -> Row:
        """Do the updates that are due after this step, a function of counters alone."""
        config = self.config
        learned_from = self.chunk_steps - config.exploration.warmup_chunks
        if learned_from <= 0:
            return {}

        due = config.critics.warmup_updates + int(learned_from * config.updates.per_chunk)
        losses: Row = {}
        while self.updates < due:
            reports = self._updates.step(actor=self.updates >= config.critics.warmup_updates)
            # Computing a loss waits for the device: only the last period's are computed.
            if self.updates > due - config.actor.period:
                for report in reports:
                    losses |= report()
        return losses

    def _log(self, extent: Extent, losses: Row) -> None:
        self._report({**extent.row(), **{name: losses.get(name, 0.0) for name in LOSSES}})

    # -- results and resuming ----------------------------------------------------------------------

    def acting(self) -> SteeredPolicy:
        """Return the policy as it is now; it goes on learning with the learner."""
        return SteeredPolicy(
            self.policy,
            self.space,
            self.agent.actor,
            self.agent.scale,
            self._choosing_critics(),
            self.config.steering.best_of,
        )

    def _choosing_critics(self) -> EnsembleMLP | None:
        return self.agent.critics if self.config.steering.best_of > 1 else None

    def save_bundle(self, path: Path, *, base_digest: str, provenance: Mapping[str, Any]) -> None:
        """Write the residual as a steering bundle."""
        save_steering(
            path,
            self.agent.actor,
            self.agent.scale,
            space=self.space,
            config=self.config,
            base_digest=base_digest,
            provenance=provenance,
            critics=self._choosing_critics(),
        )

    def save_checkpoint(self, path: Path) -> None:
        """Write agent and newest transitions (:mod:`zprl.rl.learner_checkpoint`)."""
        save_checkpoint(path, self.agent, self.replay)

    def state(self) -> tuple[dict[str, Any], Tensors]:
        """Return JSON facts and tensor groups from which :meth:`restore` continues exactly."""
        return self._progress(), {"agent": self.agent.state(), "replay": self.replay.state()}

    def restore(self, facts: dict[str, Any], tensors: Tensors) -> None:
        """Continue from :meth:`state`."""
        self._restore_progress(facts)
        self._updates.done = facts["updates"]
        self.agent.restore(tensors["agent"])
        self.replay.restore(tensors["replay"])
