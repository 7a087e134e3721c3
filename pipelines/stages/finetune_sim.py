"""Stage: reinforcement learning in simulation, of a bounded residual on the frozen policy or (`algorithm: ppo`) of its generator.

``python -m pipelines.stages.finetune_sim`` learns the latent residual of section ``finetune_sim``;
``python -m pipelines.stages.finetune_sim action_residual`` learns section ``action_residual``, the
comparison.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from rich.progress import Progress

from pipelines.stages.curves import as_csv
from pipelines.stages.stage import BASE, EPISODES, LEARNER, METRICS, PLOTS, STEERING, Stage, main
from zprl import durable, envs, plugins, provenance
from zprl.config import Budget, PolicyGradient, Rl
from zprl.data.store import EpisodeStore
from zprl.envs.chunk import ChunkEnv
from zprl.evaluation.rollout import Act, evaluate
from zprl.models.bundle import load_policy
from zprl.models.policy import FlowPolicy
from zprl.rl import demo_transitions, residual_scale
from zprl.rl.learner import Learner, Row
from zprl.rl.learner_checkpoint import save_checkpoint
from zprl.rl.policy_gradient import PolicyGradientLearner
from zprl.rl.steering_bundle import save_generator, save_steering

JUDGE_SEED = 200_000
"""Start states and flow noise by which policies are judged while they train; verdicts
(``evaluate.seed``) have others."""


def finetune_sim(stage: Stage, section: str) -> None:
    """Learn, segment by segment; write the steering bundle, what a later learner can go on from, the learning curve and the cost."""
    params = stage.params
    config: Rl | PolicyGradient = getattr(params, section)
    device = params.run.device
    torch.set_num_threads(params.run.threads)
    policy = load_policy(BASE, device=device, noise_scale=getattr(config, "noise_scale", 1.0))

    def on_row(row: Row) -> None:
        stage.tracker.log(
            int(row["env_steps"]), **{k: v for k, v in row.items() if k != "env_steps"}
        )

    learner: Learner | PolicyGradientLearner
    if isinstance(config, PolicyGradient):
        learner = PolicyGradientLearner(
            policy, config, seed=params.run.seed, device=device, on_row=on_row
        )
    else:
        learner = _residual_learner(stage, policy, config, on_row)
    judged: list[Row] = []
    learning_s = 0.0
    found = stage.run_dir.latest()
    if found is not None:
        facts = dict(found.state)
        judged, learning_s = facts.pop("judged"), facts.pop("learning_s")
        learner.restore(facts, found.tensors)
        stage.say(f"continuing after segment {learner.segment} of {config.segments}")

    def make_env() -> ChunkEnv:
        env = envs.make(params.task, num_envs=config.num_envs, device=device)
        return ChunkEnv(
            env, params.policy.chunk_steps, params.policy.obs_steps, config.step_discount
        )

    while learner.segment < config.segments:
        started = time.monotonic()
        with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(
                f"segment {learner.segment + 1}/{config.segments}",
                total=config.chunk_steps_per_segment,
            )
            learner.run_segment(make_env, tick=lambda: bar.advance(task))  # noqa: B023
        learning_s = round(learning_s + time.monotonic() - started, 2)
        row = learner.curve[-1]
        ratio = f"RMS ratio {row['residual_ratio']:.3f}, " if "residual_ratio" in row else ""
        stage.say(
            f"segment {learner.segment}/{config.segments}: {learner.env_steps:,} env steps, {learner.updates:,} updates, "
            f"training success {row['success_rate']:.2f}, episode {row['episode_length']:.0f} steps, {ratio}{learning_s:.0f} s"
        )
        if config.judge_episodes and learner.segment < config.segments:
            judged.append(
                judge_so_far(stage, learner.acting().act, policy, config)
                | {"env_steps": learner.env_steps, "wall_s": learning_s}
            )
            stage.say(
                f"judged so far: success {judged[-1]['success_rate']:.2f} over {judged[-1]['episodes']} episodes"
            )
        facts, tensors = learner.state()
        stage.run_dir.save(
            learner.segment, {**facts, "judged": judged, "learning_s": learning_s}, tensors
        )
        stage.checkpoint()

    name = "latent" if section == "finetune_sim" else section
    facts = {
        "task": params.task.name,
        "seed": params.run.seed,
        "env_steps": learner.env_steps,
        "chunk_steps": learner.chunk_steps,
        "updates": learner.updates,
        "versions": provenance.versions(),
    }
    digest = durable.digest(BASE)
    if isinstance(learner, PolicyGradientLearner):
        save_generator(
            STEERING / name,
            learner.acting(),
            config=learner.config,
            base_digest=digest,
            provenance=facts,
        )
        # A session steers; nothing here can be gone on from.
        durable.write_dir(
            LEARNER / name,
            lambda folder: durable.write_json(
                folder / "none.json", {"algorithm": learner.config.algorithm}
            ),
        )
    else:
        kept = {
            "interface": learner.interface,
            "config": learner.config,
            "base_digest": digest,
            "provenance": facts,
        }
        critics = learner.acting().critics
        save_steering(
            STEERING / name, learner.agent.actor, learner.agent.scale, critics=critics, **kept
        )
        save_checkpoint(LEARNER / name, learner.agent, learner.replay)
    durable.write_text(PLOTS / f"{stage.name}.csv", as_csv(learner.curve))
    cost = {
        "env_steps": learner.env_steps,
        "chunk_steps": learner.chunk_steps,
        "updates": learner.updates,
        "wall_s": learning_s,
    }
    training = {"training_success_rate": learner.curve[-1]["success_rate"]} | (
        {"judged": judged} if judged else {}
    )
    durable.write_json(METRICS / f"{stage.name}.json", {**cost, **training})
    stage.tracker.log_dir(STEERING / name, "steering")
    stage.made(STEERING / name)


def _residual_learner(
    stage: Stage, policy: FlowPolicy, config: Rl, on_row: Callable[[Row], None]
) -> Learner:
    """The learner of a residual, with its scale and demonstrations."""
    params, device = stage.params, stage.params.run.device
    interface = plugins.load("spaces", config.interface)()
    store = EpisodeStore.open(EPISODES)
    spread = residual_scale.measure(policy, interface, store, seed=params.run.seed)
    scale = residual_scale.propose(config, spread)
    stage.say(
        f"{config.interface}: anchor RMS {spread.anchor_rms.square().mean().sqrt():.3f}, "
        f"residual scale {scale.min():.3f} to {scale.max():.3f}, {len(scale)} dimensions"
    )
    mixed = None
    if config.demo_fraction:
        mixed = demo_transitions.transitions(
            policy,
            interface,
            store,
            scale=scale,
            step_discount=config.step_discount,
            seed=params.run.seed,
            chunk_penalty=config.chunk_penalty,
            fitted=config.demo_residual == "fitted",
        )
    return Learner(
        policy,
        interface,
        scale=scale,
        config=config,
        seed=params.run.seed,
        device=device,
        demos=mixed,
        on_row=on_row,
    )


def judge_so_far(stage: Stage, act: Act, policy: FlowPolicy, config: Budget) -> Row:
    """Success and smoothness of the policy as it is now, on episodes that are the same for every policy and no final verdict's."""
    params = stage.params
    how = params.evaluate.model_copy(
        update={"episodes": config.judge_episodes, "seed": JUDGE_SEED, "film_episodes": 0}
    )
    found = evaluate(
        act,
        lambda num_envs: envs.make(params.task, num_envs=num_envs, device=params.run.device),
        policy="so far",
        policy_spec=policy.spec,
        num_features=policy.num_features,
        task=params.task,
        config=how,
    )
    summary = found.summary()
    return {
        key: summary[key] for key in ("success_rate", "episodes", "jerk_rms", "total_variation")
    }


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "finetune_sim"
    main(
        "finetune_sim" if chosen == "finetune_sim" else f"finetune_{chosen}",
        lambda stage: finetune_sim(stage, chosen),
        sections=("run", "task", "evaluate", chosen),
        inputs=(BASE, EPISODES),
        world=True,
    )
