"""Stage ``evaluate_base``: the frozen policy in its world, conditioned on the embedding itself and through the bottleneck."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from pipelines.stages.stage import BASE, EVALUATION, METRICS, Stage, main
from zprl import durable, envs
from zprl.config import Evaluate, Task
from zprl.envs.base import VectorEnv
from zprl.errors import Interrupted
from zprl.evaluation.result import Evaluation
from zprl.evaluation.resume_evaluation import deliver, kept
from zprl.evaluation.rollout import Act, evaluate
from zprl.models.bundle import load_policy
from zprl.models.policy import FlowPolicy


def judge(
    stage: Stage,
    name: str,
    act: Act,
    policy: FlowPolicy,
    *,
    config: Evaluate | None = None,
    task: Task | None = None,
    within: Path = EVALUATION,
) -> Evaluation:
    """Evaluate one policy in fresh simulators, deliver and track the result; done once per run folder.

    Args:
        stage: The running stage.
        name: Name of the result.
        act: What acts.
        policy: For shapes.
        config: Episodes and seed; those of ``params.yaml`` without.
        task: The world; that of ``params.yaml`` without.
        within: Where the result's folder goes.
    """
    params, config, world = stage.params, config or stage.params.evaluate, task or stage.params.task

    def make_env(num_envs: int) -> VectorEnv:
        return envs.make(world, num_envs=num_envs, device=params.run.device)

    def play() -> Evaluation:
        with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
            shown = bar.add_task(name, total=config.episodes)

            def tick(done: int, _: int) -> None:
                bar.update(shown, completed=done)
                if stage.stopping:
                    raise Interrupted(
                        f"{stage.name} stopped on request",
                        remedy="run the same command again to continue",
                    )

            return evaluate(
                act,
                make_env,
                policy=name,
                policy_spec=policy.spec,
                num_features=policy.num_features,
                task=world,
                config=config,
                tick=tick,
            )

    folder = stage.run_dir.path / name
    found, already = kept(folder, play)
    numbers = found.summary()
    stage.say(
        f"{name}: success {numbers['success_rate']:.3f} [{numbers['ci_low']:.3f}, {numbers['ci_high']:.3f}] over "
        f"{found.episodes} episodes, mean length {numbers['episode_length']:.0f} steps{' (kept from before)' if already else ''}"
    )
    deliver(folder, within / name)
    stage.tracker.log(
        0, **{f"{name}.{key}": float(value) for key, value in numbers.items() if value is not None}
    )
    stage.tracker.log_dir(within / name, f"{within.name}/{name}")
    stage.made(within / name)
    stage.checkpoint()
    return found


def metrics(
    stage: Stage, found: Evaluation, *, env_steps: int, chunk_steps: int, wall_s: float
) -> dict[str, Any]:
    """The metrics file of a policy: what it can do and what it took to learn it.

    Args:
        stage: For the seed it was trained with.
        found: Its evaluation.
        env_steps: Environment steps of training.
        chunk_steps: Chunk transitions of training.
        wall_s: Seconds of training.
    """
    cost = {
        "env_steps": env_steps,
        "chunk_steps": chunk_steps,
        "wall_s": wall_s,
        "seed": stage.params.run.seed,
    }
    return {**found.summary(), **cost, "evaluation_seed": found.seed}


def evaluate_base(stage: Stage) -> None:
    """Judge the base policy twice; ``metrics/base.json`` is about the bottlenecked one, which RL steers."""
    torch.set_num_threads(stage.params.run.threads)
    policy = load_policy(BASE, device=stage.params.run.device)
    spent = durable.read_json(METRICS / "pretrain.json")
    direct = judge(
        stage, "embedding", lambda obs, noise: policy.act(obs, noise, bottleneck=False), policy
    )
    # A policy trained without a bottleneck is its own base.
    base = judge(
        stage,
        "base",
        lambda obs, noise: policy.act(obs, noise, bottleneck=policy.vib is not None),
        policy,
    )
    value = metrics(stage, base, env_steps=0, chunk_steps=0, wall_s=spent["wall_s"])
    durable.write_json(
        METRICS / "base.json", {**value, "embedding_success_rate": direct.summary()["success_rate"]}
    )


if __name__ == "__main__":
    main(
        "evaluate_base",
        evaluate_base,
        sections=("run", "task", "evaluate"),
        inputs=(BASE,),
        world=True,
    )
