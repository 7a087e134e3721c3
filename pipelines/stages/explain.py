"""Stage ``explain``: what the residual on the latent does to embeddings, actions and paths, as numbers for the report's pictures.

``artifacts/explain/`` holds ``explain.json`` (departures, and the sweep over residual sizes),
``maps.safetensors`` with the maps ``conditions`` and ``actions`` (2, N, 2: base, steered), and an
evaluation for each kind of exploration in :data:`WANDERERS`.
"""

from __future__ import annotations

import torch

from pipelines.stages.evaluate_base import judge
from pipelines.stages.stage import BASE, EPISODES, EXPLAIN, STEERING, Stage, main
from zprl import durable
from zprl.data.store import EpisodeStore
from zprl.errors import ConfigError
from zprl.rl import latent_analysis
from zprl.rl.random_residual import RandomResidualPolicy
from zprl.rl.residual_scale import UNIFORM_RMS
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering_bundle import load_steered

WANDERERS = ("still", "latent", "action")
"""Base policy, and random residuals of the same relative size on its latent and on its actions."""
EPISODES_EACH = 16


def explain(stage: Stage) -> None:
    """Compare base and steered policy on the demonstrations' states, then let the base explore in its world."""
    params = stage.params
    torch.set_num_threads(params.run.threads)
    steered = load_steered(STEERING / "latent", BASE, device=params.run.device)
    if not isinstance(steered, SteeredPolicy) or steered.interface.name != "latent":
        raise ConfigError(
            "only a residual on the latent can be explained",
            remedy="set finetune_sim.interface: latent",
        )
    policy, seed = steered.policy, params.run.seed
    frames = latent_analysis.draw(
        policy, EpisodeStore.open(EPISODES), seed=seed, count=latent_analysis.FRAMES
    )

    conditions = [
        latent_analysis.conditions(policy, frames),
        latent_analysis.conditions(policy, frames, steered),
    ]
    both = {
        "conditions": conditions,
        "actions": [latent_analysis.chunks(policy, frames, condition) for condition in conditions],
    }
    maps = {
        name: latent_analysis.flatten(torch.cat(pair), seed=seed).unflatten(0, (2, -1))
        for name, pair in both.items()
    }
    departures = {
        name: latent_analysis.departure(steered_points, known)
        for name, (known, steered_points) in both.items()
    }
    stage.say(
        "departure of the steered policy: "
        + ", ".join(f"{name} {value:.2f}" for name, value in departures.items())
    )

    anchor = steered.interface.anchor(policy, frames.embedding, frames.noise)
    ratio = float(
        UNIFORM_RMS * steered.scale.square().mean().sqrt() / anchor.square().mean().sqrt()
    )
    config = params.evaluate.model_copy(
        update={"episodes": EPISODES_EACH, "film_episodes": EPISODES_EACH}
    )
    for name in WANDERERS:
        space = latent_analysis.SPACES["latent" if name == "still" else name]
        anchor = space.anchor(policy, frames.embedding, frames.noise)
        size = (
            0.0 if name == "still" else ratio * float(anchor.square().mean().sqrt()) / UNIFORM_RMS
        )
        act = RandomResidualPolicy(policy, space, torch.full((anchor.shape[1],), size)).act
        judge(stage, name, act, policy, config=config, within=EXPLAIN)

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


if __name__ == "__main__":
    main(
        "explain",
        explain,
        sections=("run", "task", "evaluate"),
        inputs=(EPISODES, BASE, STEERING / "latent"),
    )
