"""Stage ``pretrain``: episodes to the base policy and its bottleneck, trained together."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.stages.stage import BASE, EPISODES, METRICS, PLOTS, Stage, main
from zprl import durable, provenance
from zprl.data.store import EpisodeStore
from zprl.data.windows import ChunkWindows
from zprl.models.bundle import save_policy
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.offline.datamodule import split_episodes
from zprl.offline.state import TrainState
from zprl.offline.statistics import latent_stats
from zprl.offline.training import Hooks, train

DECIDING_VERSIONS = ("python", "torch", "numpy", "lightning")
"""Packages whose versions may change the weights; only these enter the bundle."""


def pretrain(stage: Stage) -> None:
    """Train, continuing where an earlier attempt stopped; ship the averaged weights."""
    params, seed = stage.params, stage.params.run.seed
    torch.set_num_threads(params.run.threads)
    store = EpisodeStore.open(EPISODES)
    training, held_out = split_episodes(len(store), params.pretrain.validation_fraction, seed)

    spec = PolicySpec.of(store, params)
    sizes = {"obs_steps": params.policy.obs_steps, "horizon": params.policy.horizon}
    windows = ChunkWindows(store, spec.obs_keys, **sizes, episodes=training)
    validation = None
    if held_out:
        validation = ChunkWindows(store, spec.obs_keys, **sizes, episodes=held_out)
    stage.log.info(
        f"{len(training)} episodes, {len(windows)} windows; {len(held_out)} episodes held out"
    )

    policy = FlowPolicy(spec, store.normalizer, seed=seed).to(params.run.device)
    state = TrainState(policy, params.pretrain, seed=seed)
    hooks = Hooks(
        stopping=lambda: stage.stopping,
        saved=stage.stop_if_asked,
        log=lambda step, metrics: stage.tracker.log(step, **metrics),
        say=stage.log.info,
    )
    train(state, windows, validation, run_dir=stage.run_dir, hooks=hooks)

    policy.freeze()
    stats = latent_stats(policy, windows, seed=seed)
    save_policy(BASE, policy, _provenance(stage, stats, training, held_out))
    _report(stage, state, stats)


def _report(stage: Stage, state: TrainState, stats: dict[str, Any]) -> None:
    """Write curves and metrics, and track them with the bundle."""
    measured = {}
    if state.policy.vib is not None:
        measured = {"z_rms": stats["anchor_rms"], "posterior_std": _mean(stats["posterior_std"])}
    last = {key: _rounded(value) for key, value in state.curves.rows[-1].items() if key != "step"}

    durable.write_text(PLOTS / "pretrain.csv", state.curves.csv())
    durable.write_json(
        METRICS / "pretrain.json",
        {**last, **measured, "steps": state.step, "wall_s": stage.wall_s()},
    )
    stage.tracker.log(state.step, **measured)
    stage.tracker.log_dir(BASE, "base")
    stage.made(BASE)


def _provenance(
    stage: Stage, stats: dict[str, Any], training: list[int], held_out: list[int]
) -> dict[str, Any]:
    """Return the facts that make the policy again.

    None changes from run to run, because they enter the bundle's digest.
    """
    versions = provenance.versions()
    return {
        "stage": stage.name,
        "inputs": stage.run_dir.key["inputs"],
        "seed": stage.params.run.seed,
        "threads": stage.params.run.threads,
        "device": stage.params.run.device,
        "pretrain": stage.params.pretrain.model_dump(mode="json"),
        "episodes": {"training": len(training), "validation": len(held_out)},
        "versions": {name: versions[name] for name in DECIDING_VERSIONS if name in versions},
        "latent_stats": stats,
    }


def _mean(values: list[float]) -> float:
    return _rounded(sum(values) / len(values))


def _rounded(value: float) -> float:
    """Return a number with six significant digits."""
    return float(f"{value:.6g}")


if __name__ == "__main__":
    main(
        "pretrain",
        pretrain,
        sections=("run", "policy", "vib", "images", "pretrain"),
        inputs=(EPISODES,),
    )
