"""Stage ``evaluate_base``: the frozen policy in its world, with and without its bottleneck."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from pipelines.stages.stage import BASE, EVALUATION, METRICS, Stage, main
from zprl import durable, envs
from zprl.config import Evaluate, Task
from zprl.envs.base import VectorEnv
from zprl.errors import Interrupted
from zprl.evaluation.result import Evaluation
from zprl.evaluation.resume_evaluation import deliver, kept
from zprl.evaluation.rollout import Act, evaluate
from zprl.models.bundle import load_policy
from zprl.rl.steered_policy import ActingPolicy


def judge(
    stage: Stage,
    name: str,
    act: Act,
    policy: ActingPolicy,
    *,
    config: Evaluate | None = None,
    task: Task | None = None,
    within: Path = EVALUATION,
) -> Evaluation:
    """Evaluate one policy in fresh simulators, deliver and track the result.

    It is evaluated once per run folder.

    Args:
        stage: The running stage.
        name: Name of the result.
        act: Makes the chunks; the policy's own way of acting, or another of it.
        policy: Its shapes.
        config: Episodes and seed; those of ``params.yaml`` without.
        task: The world; that of ``params.yaml`` without.
        within: Where the result's folder goes.
    """
    config = config or stage.params.evaluate
    task = task or stage.params.task
    folder = stage.run_dir.path / name
    evaluation, already = kept(folder, lambda: _play(stage, name, act, policy, config, task))

    numbers = evaluation.summary()
    interval = f"[{numbers['ci_low']:.3f}, {numbers['ci_high']:.3f}]"
    stage.log.info(
        f"{name}: success {numbers['success_rate']:.3f} {interval} over "
        f"{evaluation.episodes} episodes, mean length {numbers['episode_length']:.0f} steps"
        f"{' (kept from before)' if already else ''}"
    )

    deliver(folder, within / name)
    known = {key: float(value) for key, value in numbers.items() if value is not None}
    stage.tracker.log(0, **{f"{name}.{key}": value for key, value in known.items()})
    stage.tracker.log_dir(within / name, f"{within.name}/{name}")
    stage.made(within / name)
    stage.stop_if_asked()
    return evaluation


def _play(
    stage: Stage, name: str, act: Act, policy: ActingPolicy, config: Evaluate, task: Task
) -> Evaluation:
    """Evaluate with a progress bar, until the end or until the stage is asked to stop."""

    def make_env(num_envs: int) -> VectorEnv:
        return envs.make(task, num_envs=num_envs, device=stage.params.run.device)

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
            task=task,
            config=config,
            tick=tick,
        )


def metrics(
    stage: Stage, evaluation: Evaluation, *, env_steps: int, decisions: int, wall_s: float
) -> dict[str, Any]:
    """Return the metrics file of a policy: its success, and the cost of learning it.

    Args:
        stage: For the seed it was trained with.
        evaluation: Of the policy.
        env_steps: Environment steps of training.
        decisions: The agent's decisions in training, ``chunk_steps`` in the file.
        wall_s: Seconds of training; those of evaluations on the way do not count.
    """
    cost = {
        "env_steps": env_steps,
        "chunk_steps": decisions,
        "wall_s": wall_s,
        "seed": stage.params.run.seed,
    }
    return {**evaluation.summary(), **cost, "evaluation_seed": evaluation.seed}


def evaluate_base(stage: Stage) -> None:
    """Judge the base policy with and without bottleneck.

    ``metrics/base.json`` is about the one with the bottleneck, which RL steers.
    """
    torch.set_num_threads(stage.params.run.threads)
    policy = load_policy(BASE, device=stage.params.run.device)
    spent = durable.read_json(METRICS / "pretrain.json")

    def act_directly(obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        return policy.act(obs, noise, bottleneck=False)

    # A policy trained without a bottleneck is its own base.
    direct = judge(stage, "embedding", act_directly, policy)
    base = judge(stage, "base", policy.act if policy.vib is not None else act_directly, policy)

    value = metrics(stage, base, env_steps=0, decisions=0, wall_s=spent["wall_s"])
    direct_rate = direct.summary()["success_rate"]
    durable.write_json(METRICS / "base.json", {**value, "embedding_success_rate": direct_rate})


if __name__ == "__main__":
    main(
        "evaluate_base",
        evaluate_base,
        sections=("run", "task", "evaluate"),
        inputs=(BASE,),
        world=True,
    )
