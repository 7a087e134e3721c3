"""Stage ``explain``: effects of the latent's residual on embeddings, actions and paths.

``artifacts/explain/`` holds the numbers behind the report's images: ``explain.json`` (departures,
and the sweep over residual sizes), ``maps.safetensors`` with the maps ``conditions`` and
``actions`` (2, N, 2: base, steered), and an evaluation for each kind of exploration in
:data:`WANDERERS`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.stages.evaluate_base import judge
from pipelines.stages.stage import BASE, EPISODES, EXPLAIN, STEERING, Stage, main
from zprl import durable
from zprl.data.store import EpisodeStore
from zprl.models.policy import FlowPolicy
from zprl.rl import latent_analysis
from zprl.rl.random_residual import RandomResidualPolicy
from zprl.rl.residual_scale import UNIFORM_RMS
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering_bundle import load_residual

WANDERERS = ("still", "latent", "action")
"""Base policy, and random residuals of the same relative size on its latent and on its actions."""
EPISODES_EACH = 16


def explain(stage: Stage) -> None:
    """Compare base and steered policy on the demonstrations' states, then let the base explore."""
    params, seed = stage.params, stage.params.run.seed
    torch.set_num_threads(params.run.threads)
    steered = load_residual(STEERING / "finetune_sim", BASE, "latent", device=params.run.device)

    policy = steered.policy
    store = EpisodeStore.open(EPISODES)
    frames = latent_analysis.draw(policy, store, seed=seed, count=latent_analysis.FRAMES)
    pairs = _base_and_steered(frames, steered)
    maps = {
        name: latent_analysis.flatten(torch.cat(pair), seed=seed).view(2, len(pair[0]), -1)
        for name, pair in pairs.items()
    }
    departures = {
        name: latent_analysis.departure(moved, known) for name, (known, moved) in pairs.items()
    }
    shown = ", ".join(f"{name} {value:.2f}" for name, value in departures.items())
    stage.log.info(f"departure of the steered policy: {shown}")

    anchor = steered.space.anchor(policy, frames.embedding, frames.noise)
    ratio = float(UNIFORM_RMS * _rms(steered.scale) / _rms(anchor))
    _wander(stage, policy, frames, ratio)

    durable.write_tensors(EXPLAIN / "maps.safetensors", maps)
    document = {
        "frames": len(frames.noise),
        "ratio": ratio,
        "departure": departures,
        "sweep": latent_analysis.sweep(policy, frames, seed=seed),
    }
    durable.write_json(EXPLAIN / "explain.json", document)
    for file in ("explain.json", "maps.safetensors"):
        stage.tracker.log_file(EXPLAIN / file, "explain")


def _base_and_steered(
    frames: latent_analysis.Frames, steered: SteeredPolicy
) -> dict[str, list[Tensor]]:
    """Return conditions and actions, each of the base policy and of the steered one."""
    policy = steered.policy
    conditions = [
        latent_analysis.conditions(policy, frames),
        latent_analysis.conditions(policy, frames, steered),
    ]
    actions = [latent_analysis.chunks(policy, frames, condition) for condition in conditions]
    return {"conditions": conditions, "actions": actions}


def _wander(stage: Stage, policy: FlowPolicy, frames: latent_analysis.Frames, ratio: float) -> None:
    """Let the base policy explore in its world, with residuals of the steered one's size."""
    update = {"episodes": EPISODES_EACH, "video_episodes": EPISODES_EACH}
    config = stage.params.evaluate.model_copy(update=update)
    for name in WANDERERS:
        still = name == "still"
        space = latent_analysis.SPACES["latent" if still else name]
        anchor = space.anchor(policy, frames.embedding, frames.noise)
        size = 0.0 if still else ratio * float(_rms(anchor)) / UNIFORM_RMS
        explorer = RandomResidualPolicy(policy, space, torch.full((anchor.shape[1],), size))
        judge(stage, name, explorer.act, policy, config=config, within=EXPLAIN)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


if __name__ == "__main__":
    main(
        "explain",
        explain,
        sections=("run", "task", "evaluate"),
        inputs=(EPISODES, BASE, STEERING / "finetune_sim"),
    )
