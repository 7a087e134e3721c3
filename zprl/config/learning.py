"""Sections ``finetune_sim`` and ``action_residual``: reinforcement learning in simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from zprl.config.sections import Layers, Section


class Budget(Section):
    """Environments and segments that a method may use in simulation."""

    num_envs: int = Field(64, ge=1, description="Parallel environments (official code: 20).")
    segments: int = Field(
        7,
        ge=1,
        description="Training segments; each starts from a fresh simulator and ends in a resume "
        "point.",
    )
    chunk_steps_per_segment: int = Field(55, ge=1, description="Vector chunk steps per segment.")
    judge_episodes: int = Field(
        0,
        ge=0,
        description="Episodes by which the policy is judged after each segment; 0: only at the "
        "end.",
    )


class Discounting(Section):
    """Discount of later rewards."""

    step_discount: float = Field(
        0.99, gt=0, le=1, description="gamma per environment step; the chunk discount is derived."
    )


class Batches(Section):
    """Batches of the updates."""

    batch_size: int = Field(
        256, ge=1, description="Chunk transitions per update (official code: 256)."
    )
    grad_clip: float = Field(50.0, gt=0, description="Gradient norm limit (official code: 50).")


class LearningSection(Section):
    """Keys that all ways to learn in simulation share."""

    algorithm: str
    budget: Budget = Budget()


class Steering(Section):
    """Residual that moves a point of a steering space, and the frozen policy that it moves."""

    space: str = Field(
        "latent",
        description="latent (ZPRL), action, noise or embedding; see `zprl.rl.steering_spaces`.",
    )
    scale: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="lambda; auto proposes it so that RMS(lambda dz) is about ratio x RMS(anchor) "
        "on the demos.",
    )
    ratio: float = Field(
        0.1, gt=0, description="Wanted RMS(lambda dz) / RMS(z) for `auto` (official README: 0.1)."
    )
    units: Literal["absolute", "anchor_rms", "posterior_std"] = Field(
        "absolute",
        description="Unit of the scale per dimension: 1, the anchor's RMS (not for space noise), "
        "or the posterior's mean standard deviation (only for space latent).",
    )
    noise_scale: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Standard deviation of the generator's noise, collecting and ever after "
        "(ours; 1: as it was trained).",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Residuals per decision of which the critics choose one (DICE-RL: 16); in "
        "simulation only, a session refuses it.",
    )

    @model_validator(mode="after")
    def _leaves_noise_to_chance(self) -> Steering:
        if self.noise_scale != 1 and self.space == "noise":
            raise ValueError("noise_scale belongs to spaces that leave the noise to chance")
        return self


class Exploration(Section):
    """Residuals that are tried while collecting."""

    sample_latent: bool = Field(
        True,
        description="Collect with z drawn from the posterior (official code), in spaces latent and "
        "action; evaluation uses its mean.",
    )
    warmup_chunks: int = Field(
        2000,
        ge=0,
        description="Decisions before learning (official code); their residual is warmup_noise.",
    )
    warmup_noise: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of the residual during warm-up (ours; official code: 0).",
    )
    progressive_chunks: int = Field(
        0,
        ge=0,
        description="Chunk transitions over which residuals are phased in (Policy Decorator).",
    )


class DemonstrationShare(Section):
    """Demonstrations in the batches."""

    fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch drawn from the demos (peers; official code: 0).",
    )
    residual: Literal["zero", "fitted"] = Field(
        "zero",
        description="Residual of the demos in the batches: none; fitted: the one whose chunk "
        "comes nearest to what was shown (ours). On actions it is always that.",
    )


class Returns(Discounting):
    """Rewards as the critics add them up."""

    chunk_penalty: float = Field(
        0.0,
        ge=0,
        description="Subtracted from every chunk's reward; with 1 it is -1 until success (Policy "
        "Decorator, DSRL); not for bounded critics.",
    )
    bootstrap_truncated: bool = Field(
        False, description="Bootstrap through time-outs (official code: no for robomimic)."
    )


class Networks(Section):
    """Networks of actor and critics."""

    hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of actor and critics (official code)."
    )
    activation: Literal["gelu", "relu", "tanh"] = Field(
        "gelu", description="Hidden activation (official code: gelu)."
    )
    critic_layer_norm: bool = Field(
        False, description="LayerNorm in the critics' hidden layers (peers; official code: off)."
    )


class ActorConfig(Section):
    """The actor: a distribution over residuals."""

    period: int = Field(2, ge=1, description="Critic updates per actor update (official code).")
    log_std_min: float = Field(
        -10.0, description="Lower bound of the actor's log standard deviation (official code)."
    )
    log_std_max: float = Field(
        2.0, description="Upper bound; the actor starts at the middle of the two (official code)."
    )
    uses_min: bool = Field(
        False,
        description="Actor climbs the ensemble minimum instead of its mean (official code: mean).",
    )
    trust_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of mean(dz^2) in the actor loss: a trust region (peers; official: 0).",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> ActorConfig:
        if self.log_std_min >= self.log_std_max:
            raise ValueError("log_std_min must be below log_std_max")
        return self


class CriticsConfig(Section):
    """The ensemble of critics and its targets."""

    count: int = Field(
        2, ge=1, le=100, description="Critics in the ensemble (official code: 2; later 10)."
    )
    target_subset: int = Field(
        2, ge=1, description="Random critics whose minimum is the target (official code: 2)."
    )
    target_period: int = Field(
        2, ge=1, description="Critic updates per target update (official code)."
    )
    tau: float = Field(0.005, gt=0, le=1, description="Target network step (official code).")
    bounded: bool = Field(
        True, description="Squash Q to [0, 1], which fits the sparse reward (official code)."
    )
    warmup_updates: int = Field(
        0,
        ge=0,
        description="Critic-only updates before the actor learns (peers; official code: 0).",
    )

    @model_validator(mode="after")
    def _has_the_subset(self) -> CriticsConfig:
        if self.target_subset > self.count:
            raise ValueError(
                f"target_subset ({self.target_subset}) must not exceed count ({self.count})"
            )
        return self


class EntropyConfig(Section):
    """Entropy of the actor, and its weight alpha."""

    in_target: bool = Field(
        False, description="Entropy bonus in the Bellman target (official code: off)."
    )
    target_per_dim: float = Field(
        -0.5, description="Target entropy per residual dimension (official code: -1/2)."
    )
    initial_alpha: float = Field(0.01, gt=0, description="Initial entropy weight (official code).")


class LearningRates(Section):
    """Learning rates of the agent."""

    actor: float = Field(1e-4, gt=0, description="Adam (official code).")
    critics: float = Field(3e-4, gt=0, description="Adam (official code).")
    alpha: float = Field(3e-4, gt=0, description="Adam (official code).")


class AgentUpdates(Batches):
    """Updates of the agent, and the memory that they draw from."""

    per_chunk: float = Field(
        1.0, gt=0, description="UTD: critic updates per chunk transition (official code: 1)."
    )
    buffer_size: int = Field(1_000_000, ge=1, description="Chunk transitions kept (official code).")


class Rl(LearningSection):
    """Reinforcement learning of a bounded residual that steers the frozen policy."""

    algorithm: Literal["sac", "noise_aliasing"] = Field(
        "sac",
        description="sac; noise_aliasing: DSRL's, for space noise; ppo changes the generator and "
        "has other keys (DPPO, ReinFlow).",
    )
    steering: Steering = Steering()
    exploration: Exploration = Exploration()
    demonstrations: DemonstrationShare = DemonstrationShare()
    returns: Returns = Returns()
    networks: Networks = Networks()
    actor: ActorConfig = ActorConfig()
    critics: CriticsConfig = CriticsConfig()
    entropy: EntropyConfig = EntropyConfig()
    learning_rates: LearningRates = LearningRates()
    updates: AgentUpdates = AgentUpdates()

    @model_validator(mode="after")
    def _fits(self) -> Rl:
        if self.returns.chunk_penalty and self.critics.bounded:
            raise ValueError(
                "returns.chunk_penalty makes values negative, which critics.bounded cannot express"
            )
        if self.algorithm == "noise_aliasing" and self.steering.space != "noise":
            raise ValueError("algorithm noise_aliasing is for space noise")
        return self


class SamplingChain(Section):
    """Noise of the flow's sampling chain, through which the policy gradient goes."""

    noise: Literal["fixed", "learned"] = Field(
        "fixed", description="Of the chain: fixed (DPPO) or a network's (ReinFlow)."
    )
    min_std: float = Field(
        0.1,
        gt=0,
        description="Standard deviation of the chain's noise, or the least (DPPO and ReinFlow: "
        "0.1).",
    )
    max_std: float = Field(
        0.24, gt=0, description="The largest that the network may ask for (ReinFlow, hopper: 0.24)."
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> SamplingChain:
        if self.noise == "learned" and self.min_std > self.max_std:
            raise ValueError("min_std must not exceed max_std")
        return self


class Advantages(Discounting):
    """Advantages of the chunks and of the inner steps of their sampling."""

    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Decay of the advantage estimate (both)."
    )
    denoising_discount: float = Field(
        0.99, gt=0, le=1, description="Of the advantage per inner step that follows (DPPO)."
    )


class Rollouts(Section):
    """Rollouts between improvements."""

    steps: int = Field(40, ge=1, description="Vector chunk steps between two improvements.")
    epochs: int = Field(10, ge=1, description="Passes over a rollout (DPPO: 10; ReinFlow: 5).")


class Clipping(Section):
    """Bounds of one improvement."""

    last: float = Field(0.01, gt=0, description="PPO's clip at the last inner step (both).")
    first: float = Field(0.001, gt=0, description="The clip at the first (DPPO).")
    growth: float = Field(3.0, gt=0, description="Exponent with which it grows in between (DPPO).")
    target_kl: float = Field(1.0, gt=0, description="Passes end beyond it (both).")


class PolicyGradientRates(Section):
    """Learning rates of generator and value."""

    actor: float = Field(
        1e-4, gt=0, description="Adam (DPPO, robomimic: 1e-4; ReinFlow, hopper: 4.5e-5)."
    )
    value: float = Field(1e-3, gt=0, description="Adam (DPPO: 1e-3; ReinFlow, hopper: 6.5e-4).")


class PolicyGradientUpdates(Batches):
    """Updates of generator and value."""

    entropy_weight: float = Field(
        0.0, ge=0, description="Of the chain's entropy (ReinFlow, hopper: 0.03)."
    )
    value_warmup_iterations: int = Field(
        0, ge=0, description="Improvements of the value alone, before the policy learns."
    )


class PolicyGradient(LearningSection):
    """Policy gradients through the flow's sampling chain; see `zprl.rl.policy_gradient`."""

    algorithm: Literal["ppo"]
    chain: SamplingChain = SamplingChain()
    returns: Advantages = Advantages()
    rollouts: Rollouts = Rollouts()
    clip: Clipping = Clipping()
    learning_rates: PolicyGradientRates = PolicyGradientRates()
    updates: PolicyGradientUpdates = PolicyGradientUpdates()


def _algorithm(value: Any) -> str:
    stated = (
        value.get("algorithm") if isinstance(value, Mapping) else getattr(value, "algorithm", None)
    )
    return "ppo" if stated == "ppo" else "sac"


Learning = Annotated[
    Annotated[Rl, Tag("sac")] | Annotated[PolicyGradient, Tag("ppo")], Discriminator(_algorithm)
]
"""Section of a way to learn in simulation, by its ``algorithm``."""

ALGORITHMS: dict[str, type[LearningSection]] = {"sac": Rl, "ppo": PolicyGradient}
"""Sections by the tags of :data:`Learning`."""


def section_of(values: Mapping[str, Any]) -> type[LearningSection]:
    """Return the model of a section's values, by the algorithm that they state."""
    return ALGORITHMS[_algorithm(values)]
