"""Stages ``finetune_sim`` and ``finetune_action_residual``: reinforcement learning in simulation.

A bounded residual on the frozen policy is learned; with ``algorithm: ppo`` its generator changes.
``python -m pipelines.stages.finetune_sim`` learns as section ``finetune_sim`` says;
``python -m pipelines.stages.finetune_sim action_residual`` learns the rival of section
``action_residual``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress

from pipelines.stages.curves import as_csv
from pipelines.stages.stage import BASE, EPISODES, LEARNER, METRICS, PLOTS, STEERING, Stage, main
from zprl import durable, envs, plugins, provenance
from zprl.config import Budget, Learning, Rl
from zprl.data.store import EpisodeStore
from zprl.envs.chunk import ChunkEnv
from zprl.evaluation.rollout import evaluate
from zprl.models.bundle import load_policy
from zprl.rl import demo_transitions, residual_scale
from zprl.rl.learner import Learner
from zprl.rl.policy_gradient import PolicyGradientLearner
from zprl.rl.segment_learner import Row, SegmentLearner
from zprl.rl.steered_policy import ActingPolicy

JUDGE_SEED = 200_000
"""Start states and flow noise by which policies are judged while they train; verdicts
(``evaluate.seed``) have others."""


STAGES = {"finetune_sim": "finetune_sim", "action_residual": "finetune_action_residual"}
"""Section of ``params.yaml``, also the folder of the results, to the stage in ``dvc.yaml``."""


def finetune_sim(stage: Stage, section: str) -> None:
    """Learn, segment by segment; write the steering bundle, the checkpoint, the curve and the cost.

    The checkpoint is what a later learner can continue from.
    """
    config: Learning = getattr(stage.params, section)
    torch.set_num_threads(stage.params.run.threads)
    learner = _make_learner(stage, config)

    judged: list[Row] = []
    wall_s = 0.0  # of the segments: judging on the way is no cost of learning
    saved = stage.run_dir.latest()
    if saved is not None:
        facts = dict(saved.state)
        judged, wall_s = facts.pop("judged"), facts.pop("wall_s")
        learner.restore(facts, saved.tensors)
        stage.log.info(f"continuing after segment {learner.segment} of {config.budget.segments}")

    while learner.segment < config.budget.segments:
        started = time.monotonic()
        _run_segment(stage, learner, config)
        wall_s = round(wall_s + time.monotonic() - started, 2)
        _say_progress(stage, learner, wall_s)

        # The finished policy is judged by the stage `evaluate`.
        if config.budget.judge_episodes and learner.segment < config.budget.segments:
            row = judge_so_far(stage, learner.acting(), config.budget)
            judged.append(row | {"env_steps": learner.env_steps, "wall_s": wall_s})
            stage.log.info(
                f"judged so far: success {row['success_rate']:.2f} over {row['episodes']} episodes"
            )

        facts, tensors = learner.state()
        facts = {**facts, "judged": judged, "wall_s": wall_s}
        stage.run_dir.save(learner.segment, facts, tensors)
        stage.stop_if_asked()

    _write(stage, learner, section, judged, wall_s)


def _make_learner(stage: Stage, config: Learning) -> SegmentLearner[Any]:
    run = stage.params.run

    def on_row(row: Row) -> None:
        step = int(row["env_steps"])
        stage.tracker.log(step, **{k: v for k, v in row.items() if k != "env_steps"})

    if config.algorithm == "ppo":
        policy = load_policy(BASE, device=run.device)
        return PolicyGradientLearner(
            policy, config, seed=run.seed, device=run.device, on_row=on_row
        )
    return _residual_learner(stage, config, on_row)


def _residual_learner(stage: Stage, config: Rl, on_row: Callable[[Row], None]) -> Learner:
    """Return the learner of a residual, with its scale and demonstrations."""
    params, device = stage.params, stage.params.run.device
    policy = load_policy(BASE, device=device, noise_scale=config.steering.noise_scale)
    space = plugins.load("spaces", config.steering.space)()
    store = EpisodeStore.open(EPISODES)

    spread = residual_scale.measure(policy, space, store, seed=params.run.seed)
    scale = residual_scale.propose(config, spread)
    stage.log.info(
        f"{config.steering.space}: anchor RMS {spread.anchor_rms.square().mean().sqrt():.3f}, "
        f"residual scale {scale.min():.3f} to {scale.max():.3f}, {len(scale)} dimensions"
    )

    demos = None
    if config.demonstrations.fraction:
        demos = demo_transitions.transitions(
            policy,
            space,
            store,
            scale=scale,
            step_discount=config.returns.step_discount,
            seed=params.run.seed,
            chunk_penalty=config.returns.chunk_penalty,
            fitted=config.demonstrations.residual == "fitted",
        )

    return Learner(
        policy,
        space,
        scale=scale,
        config=config,
        seed=params.run.seed,
        device=device,
        demos=demos,
        on_row=on_row,
    )


def _run_segment(stage: Stage, learner: SegmentLearner[Any], config: Learning) -> None:
    params, policy = stage.params, learner.spec.policy

    def make_env() -> ChunkEnv:
        env = envs.make(params.task, num_envs=config.budget.num_envs, device=params.run.device)
        return ChunkEnv(env, policy.chunk_steps, policy.obs_steps, config.returns.step_discount)

    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        label = f"segment {learner.segment + 1}/{config.budget.segments}"
        task = bar.add_task(label, total=config.budget.chunk_steps_per_segment)
        learner.run_segment(make_env, tick=lambda: bar.advance(task))


def _say_progress(stage: Stage, learner: SegmentLearner[Any], wall_s: float) -> None:
    row = learner.curve[-1]
    ratio = f"RMS ratio {row['residual_ratio']:.3f}, " if "residual_ratio" in row else ""
    stage.log.info(
        f"segment {learner.segment}/{learner.config.budget.segments}: "
        f"{learner.env_steps:,} env steps, "
        f"{learner.updates:,} updates, training success {row['success_rate']:.2f}, "
        f"episode {row['episode_length']:.0f} steps, {ratio}{wall_s:.0f} s"
    )


def judge_so_far(stage: Stage, policy: ActingPolicy, budget: Budget) -> Row:
    """Return success and smoothness of the policy as it is now.

    The episodes are the same for every policy, and no final verdict's.
    """
    params = stage.params
    update = {"episodes": budget.judge_episodes, "seed": JUDGE_SEED, "video_episodes": 0}
    result = evaluate(
        policy.act,
        lambda num_envs: envs.make(params.task, num_envs=num_envs, device=params.run.device),
        policy="so far",
        policy_spec=policy.spec,
        num_features=policy.num_features,
        task=params.task,
        config=params.evaluate.model_copy(update=update),
    )
    summary = result.summary()
    return {
        key: summary[key] for key in ("success_rate", "episodes", "jerk_rms", "total_variation")
    }


def _write(
    stage: Stage,
    learner: SegmentLearner[Any],
    section: str,
    judged: list[Row],
    wall_s: float,
) -> None:
    """Write everything that the stage makes."""
    progress = {
        "env_steps": learner.env_steps,
        "chunk_steps": learner.decisions,
        "updates": learner.updates,
    }
    learner.save_bundle(
        STEERING / section,
        base_digest=durable.digest(BASE),
        provenance={
            "task": stage.params.task.name,
            "seed": stage.params.run.seed,
            **progress,
            "versions": provenance.versions(),
        },
    )
    learner.save_checkpoint(LEARNER / section)

    durable.write_text(PLOTS / f"{stage.name}.csv", as_csv(learner.curve))
    metrics = {
        **progress,
        "wall_s": wall_s,
        "training_success_rate": learner.curve[-1]["success_rate"],
        **({"judged": judged} if judged else {}),
    }
    durable.write_json(METRICS / f"{stage.name}.json", metrics)
    stage.tracker.log_dir(STEERING / section, "steering")
    stage.made(STEERING / section)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "finetune_sim"
    main(
        STAGES[chosen],
        lambda stage: finetune_sim(stage, chosen),
        sections=("run", "task", "evaluate", chosen),
        inputs=(BASE, EPISODES),
        world=True,
    )
