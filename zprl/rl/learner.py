"""ZPRL's loop in simulation: execute a chunk in every environment, then learn from it."""

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
from zprl.rl.steering import (
    DecisionInputs,
    SteeringDecision,
    decision_inputs,
    normalized_chunk,
    steer,
)
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import SteeringSpace
from zprl.rl.updates import LOSSES, Updates

STEPS_PER_ROW = 5
"""Vector steps per row of the learning curve; the last row of a segment may cover fewer."""


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
class SizeSums:
    """Sums of the anchors' and residuals' RMS over the vector steps since the last row."""

    vector_steps: int = 0
    anchor_rms: float = 0.0
    residual_rms: float = 0.0

    def add(self, decision: SteeringDecision, scale: Tensor) -> None:
        """Add the decision of a vector step."""
        self.vector_steps += 1
        self.anchor_rms += float(decision.anchor.square().mean().sqrt())
        self.residual_rms += float((scale * decision.residual).square().mean().sqrt())

    def row(self) -> Row:
        """Return the means, and the residual's size relative to the anchor's."""
        return {
            "anchor_rms": self.anchor_rms / self.vector_steps,
            "residual_rms": self.residual_rms / self.vector_steps,
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
            tick: Called after each vector step (progress bars).
        """
        with make_env() as env:
            inputs = self._decision_inputs(self._reset(env), self._draw())
            lengths = torch.zeros(self.config.budget.num_envs, device=self.device)
            sizes = SizeSums()
            losses: Row = {}

            for _ in range(self.config.budget.chunk_steps_per_segment):
                # The agent chooses a residual; the frozen policy makes the chunk from there.
                decision = steer(self.policy, self.space, self.agent.scale, inputs, self._explore)
                result = env.step(decision.chunk)
                self.vector_steps += 1

                # Store the transition to the inputs of the next decision.
                draws = self._draw()
                following = self._decision_inputs(result.obs, draws)
                self._store(inputs, decision, result, following, draws)
                self._count_episodes(result, lengths)
                sizes.add(decision, self.agent.scale)

                # Update critics, actor and temperature as often as the decisions so far pay for.
                losses = self._update_agent() or losses
                inputs = following
                tick()

                if sizes.vector_steps == STEPS_PER_ROW:
                    self._log(sizes, losses)
                    sizes = SizeSums()

            if sizes.vector_steps:
                self._log(sizes, losses)

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

    def _decision_inputs(self, obs: dict[str, Tensor], draws: DecisionDraws) -> DecisionInputs:
        """Return the inputs from observations; images are cropped at random (official code)."""
        augment = self._generator("crop", self.vector_steps) if self.spec.images else None
        embedding = self.policy.embed(obs, augment)
        return decision_inputs(
            self.policy, self.space, embedding, draws.noise, latent_sample=draws.latent
        )

    def _explore(self, inputs: DecisionInputs) -> Tensor:
        """Return the residual (N, R) of one decision while learning.

        During warm-up it is zero, or noise where configured; then a sample of the actor, or with
        ``best_of`` the critics' choice among several.
        """
        exploration, state = self.config.exploration, inputs.state
        generator = self._generator("exploration", self.vector_steps)
        noise = torch.randn(len(state), self.agent.dim, generator=generator, device=self.device)
        if self.decisions < exploration.warmup_chunks:
            return (exploration.warmup_noise * noise).clamp(-1, 1)

        if (count := self.config.steering.best_of) > 1:
            draws = torch.randn(count, *noise.shape, generator=generator, device=self.device)
            residual = choose(self.agent.actor, self.agent.critics, self.agent.scale, state, draws)
        else:
            residual = self.agent.actor.sample(state, noise)[0].residual

        # Residuals are phased in: at first few environments get one (Policy Decorator).
        if exploration.progressive_chunks:
            learned_from = self.decisions - exploration.warmup_chunks
            share = min(1.0, learned_from / exploration.progressive_chunks)
            chance = torch.rand(len(state), 1, generator=generator, device=self.device)
            residual = residual * (chance < share)
        return residual

    def _store(
        self,
        inputs: DecisionInputs,
        decision: SteeringDecision,
        result: ChunkResult,
        following: DecisionInputs,
        draws: DecisionDraws,
    ) -> None:
        """Append the transitions of all environments to the memory."""
        ended = result.terminated | result.truncated
        valueless = ended
        next_state = following.state
        if self.config.returns.bootstrap_truncated:
            valueless = result.terminated
            # A value follows a time-out: that of the episode's true last state.
            if result.truncated.any():
                final = self._decision_inputs(result.final_obs, draws)
                next_state = torch.where(ended[:, None], final.state, next_state)

        # Gamma = gamma^C for every chunk (official code).  Exact would be gamma^k for one that a
        # time-out cuts after k < C actions; no run of a suite that bootstraps there has such a
        # chunk, because its `episode_steps` are a multiple of `chunk_steps`.
        self.replay.add(
            state=inputs.state,
            point=decision.point,
            reward=result.reward - self.config.returns.chunk_penalty,
            discount=self.chunk_discount * (~valueless).float(),
            next_state=next_state,
        )

    def _update_agent(self) -> Row:
        """Do the updates that are due after this step, a function of counters alone."""
        config = self.config
        learned_from = self.decisions - config.exploration.warmup_chunks
        if learned_from <= 0:
            return {}

        due = config.critics.warmup_updates + int(learned_from * config.updates.per_chunk)
        return self._updates.run(due - self.updates, actor_from=config.critics.warmup_updates)

    def _log(self, sizes: SizeSums, losses: Row) -> None:
        self._report({**sizes.row(), **{name: losses.get(name, 0.0) for name in LOSSES}})

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
