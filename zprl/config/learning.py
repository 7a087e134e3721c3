"""Sections ``finetune_sim`` and ``action_residual``: reinforcement learning in simulation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from zprl.config.sections import Layers, Section


class Budget(Section):
    """How much a method may try in simulation; every method has one."""

    num_envs: int = Field(64, ge=1, description="Parallel environments (official code: 20).")
    segments: int = Field(
        7,
        ge=1,
        description="Training segments; each starts from a fresh simulator and ends in a resume point.",
    )
    chunk_steps_per_segment: int = Field(55, ge=1, description="Vector chunk steps per segment.")
    judge_episodes: int = Field(
        0,
        ge=0,
        description="Episodes by which the policy is judged after each segment; 0: only at the end.",
    )


class Rl(Budget):
    """Reinforcement learning of a bounded residual where the interface enters the frozen policy."""

    algorithm: Literal["sac", "noise_aliasing"] = Field(
        "sac",
        description="sac; noise_aliasing: DSRL's, for interface noise; ppo changes the generator and has other keys (DPPO, ReinFlow).",
    )
    interface: str = Field(
        "latent",
        description="latent (ZPRL), action, noise or embedding; see `zprl.rl.steering_spaces`.",
    )
    residual_scale: float | Literal["auto"] = Field(
        "auto",
        description="lambda; auto proposes it so that RMS(lambda dz) is about residual_ratio x RMS(anchor) on the demos.",
    )
    residual_ratio: float = Field(
        0.1, gt=0, description="Wanted RMS(lambda dz) / RMS(z) for `auto` (official README: 0.1)."
    )
    residual_units: Literal["absolute", "anchor_rms", "posterior_std"] = Field(
        "absolute",
        description="Unit of the residual scale per dimension: 1, the anchor's spread, or the posterior's spread.",
    )
    sample_latent: bool = Field(
        True,
        description="Collect with z drawn from the posterior (official code); evaluation uses its mean.",
    )
    noise_scale: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Standard deviation of the generator's noise, collecting and ever after (ours; 1: as it was trained).",
    )
    warmup_chunks: int = Field(
        2000,
        ge=0,
        description="Chunk transitions with zero residual before learning (official code).",
    )
    warmup_noise: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of the residual during warm-up (ours; official code: 0).",
    )
    updates_per_chunk: float = Field(
        1.0, gt=0, description="UTD: critic updates per chunk transition (official code: 1)."
    )
    batch_size: int = Field(256, ge=1, description="Transitions per update (official code).")
    step_discount: float = Field(
        0.99, gt=0, le=1, description="gamma per environment step; the chunk discount is derived."
    )
    chunk_penalty: float = Field(
        0.0,
        ge=0,
        description="Subtracted from every chunk's reward; with 1 it is -1 until success (Policy Decorator, DSRL); not for bounded Q.",
    )
    critics: int = Field(
        2, ge=1, le=100, description="Critics in the ensemble (official code: 2; later 10)."
    )
    target_subset: int = Field(
        2, ge=1, description="Random critics whose minimum is the target (official code: 2)."
    )
    hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of actor and critics (official code)."
    )
    activation: Literal["gelu", "relu", "tanh"] = Field(
        "gelu", description="Hidden activation (official code: gelu)."
    )
    critic_layer_norm: bool = Field(
        False, description="LayerNorm in the critics' hidden layers (peers; official code: off)."
    )
    bounded_q: bool = Field(
        True, description="Squash Q to [0, 1], which fits the sparse reward (official code)."
    )
    entropy_in_target: bool = Field(
        False, description="Entropy bonus in the Bellman target (official code: off)."
    )
    actor_uses_min: bool = Field(
        False,
        description="Actor climbs the ensemble minimum instead of its mean (official code: mean).",
    )
    target_entropy_per_dim: float = Field(
        -0.5, description="Target entropy per residual dimension (official code: -1/2)."
    )
    initial_alpha: float = Field(0.01, gt=0, description="Initial entropy weight (official code).")
    log_std_min: float = Field(
        -10.0, description="Lower bound of the actor's log standard deviation (official code)."
    )
    log_std_max: float = Field(
        2.0, description="Upper bound; the actor starts at the middle of the two (official code)."
    )
    actor_learning_rate: float = Field(1e-4, gt=0, description="Adam (official code).")
    critic_learning_rate: float = Field(3e-4, gt=0, description="Adam (official code).")
    alpha_learning_rate: float = Field(3e-4, gt=0, description="Adam (official code).")
    actor_period: int = Field(
        2, ge=1, description="Critic updates per actor update (official code)."
    )
    target_period: int = Field(
        2, ge=1, description="Critic updates per target update (official code)."
    )
    tau: float = Field(0.005, gt=0, le=1, description="Target network step (official code).")
    grad_clip: float = Field(50.0, gt=0, description="Gradient norm limit (official code).")
    buffer_size: int = Field(1_000_000, ge=1, description="Chunk transitions kept (official code).")
    bootstrap_truncated: bool = Field(
        False, description="Bootstrap through time-outs (official code: no for robomimic)."
    )
    demo_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch drawn from the demos (peers; official code: 0).",
    )
    demo_residual: Literal["zero", "fitted"] = Field(
        "zero",
        description="Residual of the demos in the batches: none; fitted: the one whose chunk comes nearest to what was shown (ours). On "
        "actions it is always that.",
    )
    value_warmup_updates: int = Field(
        0,
        ge=0,
        description="Critic-only updates before the actor learns (peers; official code: 0).",
    )
    trust_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of mean(dz^2) in the actor loss: a trust region (peers; official: 0).",
    )
    progressive_chunks: int = Field(
        0,
        ge=0,
        description="Chunk transitions over which residuals are phased in (Policy Decorator).",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Residuals per decision of which the critics choose one (DICE-RL: 16).",
    )

    @model_validator(mode="after")
    def _fits(self) -> Rl:
        if self.target_subset > self.critics:
            raise ValueError(
                f"target_subset ({self.target_subset}) must not exceed critics ({self.critics})"
            )
        if self.log_std_min >= self.log_std_max:
            raise ValueError("log_std_min must be below log_std_max")
        if self.chunk_penalty and self.bounded_q:
            raise ValueError("chunk_penalty makes values negative, which bounded_q cannot express")
        if self.algorithm == "noise_aliasing" and self.interface != "noise":
            raise ValueError("algorithm noise_aliasing is for interface noise")
        if self.noise_scale != 1 and self.interface == "noise":
            raise ValueError("noise_scale belongs to interfaces that leave the noise to chance")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``demo_residual`` where it is zero, as steering bundles have always been written."""
        found = handler(self)
        if self.demo_residual == "zero":
            found.pop("demo_residual", None)
        return found


class PolicyGradient(Budget):
    """Policy gradients through the flow's sampling chain; see `zprl.rl.policy_gradient`."""

    algorithm: Literal["ppo"]
    noise: Literal["fixed", "learned"] = Field(
        "fixed", description="Of the chain: fixed (DPPO) or a network's (ReinFlow)."
    )
    min_std: float = Field(
        0.1,
        gt=0,
        description="Standard deviation of the chain's noise, or the least (DPPO and ReinFlow: 0.1).",
    )
    max_std: float = Field(
        0.24, gt=0, description="The largest that the network may ask for (ReinFlow, hopper: 0.24)."
    )
    rollout_steps: int = Field(40, ge=1, description="Vector chunk steps between two improvements.")
    step_discount: float = Field(
        0.99, gt=0, le=1, description="gamma per environment step; the chunk discount is derived."
    )
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Decay of the advantage estimate (both)."
    )
    denoising_discount: float = Field(
        0.99, gt=0, le=1, description="Of the advantage per inner step that follows (DPPO)."
    )
    epochs: int = Field(10, ge=1, description="Passes over a rollout (DPPO: 10; ReinFlow: 5).")
    batch_size: int = Field(256, ge=1, description="Chunks per update.")
    actor_learning_rate: float = Field(
        1e-4, gt=0, description="Adam (DPPO, robomimic: 1e-4; ReinFlow, hopper: 4.5e-5)."
    )
    critic_learning_rate: float = Field(
        1e-3, gt=0, description="Adam (DPPO: 1e-3; ReinFlow, hopper: 6.5e-4)."
    )
    clip: float = Field(0.01, gt=0, description="PPO's clip at the last inner step (both).")
    clip_first: float = Field(0.001, gt=0, description="The clip at the first (DPPO).")
    clip_growth: float = Field(
        3.0, gt=0, description="Exponent with which it grows in between (DPPO)."
    )
    target_kl: float = Field(1.0, gt=0, description="Passes end beyond it (both).")
    entropy_weight: float = Field(
        0.0, ge=0, description="Of the chain's entropy (ReinFlow, hopper: 0.03)."
    )
    value_warmup_iterations: int = Field(
        0, ge=0, description="Improvements of the value alone, before the policy learns."
    )
    grad_clip: float = Field(50.0, gt=0, description="Gradient norm limit.")

    @model_validator(mode="after")
    def _fits(self) -> PolicyGradient:
        if self.noise == "learned" and self.min_std > self.max_std:
            raise ValueError("min_std must not exceed max_std")
        return self


def _algorithm(value: Any) -> str:
    found = value.get("algorithm") if isinstance(value, dict) else getattr(value, "algorithm", None)
    return "ppo" if found == "ppo" else "sac"


Learning = Annotated[
    Annotated[Rl, Tag("sac")] | Annotated[PolicyGradient, Tag("ppo")], Discriminator(_algorithm)
]
"""Section of a way to learn in simulation; ``algorithm`` says which."""

ALGORITHMS: dict[str, type[Budget]] = {"sac": Rl, "ppo": PolicyGradient}
