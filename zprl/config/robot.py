"""Section ``finetune_real``: learning on the robot."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zprl.config.sections import Section


class Real(Section):
    """RL of the residual on the robot: a session, and the learner replayed over its recording."""

    task: str = Field(
        "lift_cube", description="Task file: a built-in name (`zprl session tasks`) or a path."
    )
    space: Literal["latent", "action", "noise", "embedding"] = Field(
        "latent", description="Whose simulation result the session goes on from."
    )
    mode: Literal["async", "sync"] = Field(
        "async",
        description="async: the robot never waits; sync: the authors' loop, chunk by chunk.",
    )
    train_episodes: int = Field(40, ge=0, description="Labelled training episodes.")
    evaluate_episodes: int = Field(
        60, ge=0, description="Episodes before and after, deterministic, the same start positions."
    )
    evaluation_seed: int = Field(
        300_000, ge=0, description="Seed of the evaluation's start positions."
    )
    speed: float = Field(
        3.0,
        ge=0,
        description="Pace of a simulated robot, times real time; 0: as fast as it goes. "
        "Hardware keeps its own.",
    )
    start: Literal["agent", "critics", "fresh", "base"] = Field(
        "agent",
        description="What is taken over from simulation: actor and critics, critics alone, or "
        "nothing (the residual starts near zero); base: there is no simulation of the task, the "
        "agent is made as finetune_sim says.",
    )
    updates_per_chunk: float = Field(
        10.0,
        gt=0,
        description="UTD: updates per recorded chunk (official code: up to 5; peers: 10 to 20).",
    )
    batch_size: int = Field(256, ge=1, description="Transitions per update.")
    sim_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch drawn from simulation's newest transitions: they speak of "
        "another world (ours).",
    )
    demo_fraction: float = Field(
        0.25, ge=0, lt=1, description="Share of each batch drawn from the demos (peers)."
    )
    critic_episodes: int = Field(
        5,
        ge=0,
        description="Labelled episodes before the actor changes: the critics see the new world "
        "first (ours).",
    )
    actor_learning_rate: float = Field(3e-4, gt=0, description="Adam.")
    critic_learning_rate: float = Field(3e-4, gt=0, description="Adam.")
    actor_period: int = Field(2, ge=1, description="Critic updates per actor update.")
    step_discount: float = Field(0.99, gt=0, le=1, description="gamma per control step.")

    @model_validator(mode="after")
    def _fits(self) -> Real:
        if self.sim_fraction + self.demo_fraction >= 1:
            raise ValueError(
                "sim_fraction + demo_fraction must leave a part for the robot's own transitions"
            )
        if self.start == "base" and self.sim_fraction:
            raise ValueError(
                "sim_fraction must be 0 where nothing comes from simulation (start: base)"
            )
        return self
