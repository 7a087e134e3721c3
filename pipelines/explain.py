"""Stage ``explain``: what the residual on the latent does to embeddings, actions and paths, as numbers for the report's pictures.

``artifacts/explain/`` holds ``explain.json`` (departures, and the sweep over residual sizes), ``maps.safetensors`` with the maps
``conditions`` and ``actions`` (2, N, 2: base, steered), and an evaluation for each kind of exploration in :data:`WANDERERS`.
"""

from __future__ import annotations

import torch

from pipelines.evaluate_base import judge
from pipelines.stage import BASE, EPISODES, EXPLAIN, STEERING, Stage, main
from zprl import durable
from zprl.data.store import EpisodeStore
from zprl.errors import ConfigError
from zprl.explain import points
from zprl.explain.wander import Wanderer
from zprl.rl.bundle import load_steered
from zprl.rl.scale import UNIFORM_RMS
from zprl.rl.steered import SteeredPolicy

WANDERERS = ("still", "latent", "action")
"""Base policy, and random residuals of the same relative size on its latent and on its actions."""
EPISODES_EACH = 16


def explain(stage: Stage) -> None:
    """Compare base and steered policy on the demonstrations' states, then let the base explore in its world."""
    params = stage.params
    torch.set_num_threads(params.run.threads)
    steered = load_steered(STEERING / "latent", BASE, device=params.run.device)
    if not isinstance(steered, SteeredPolicy) or steered.interface.name != "latent":
        raise ConfigError("only a residual on the latent can be explained", remedy="set finetune_sim.interface: latent")
    policy, seed = steered.policy, params.run.seed
    frames = points.draw(policy, EpisodeStore.open(EPISODES), seed=seed, count=points.FRAMES)

    conditions = [points.conditions(policy, frames), points.conditions(policy, frames, steered)]
    both = {"conditions": conditions, "actions": [points.chunks(policy, frames, condition) for condition in conditions]}
    maps = {name: points.flatten(torch.cat(pair), seed=seed).unflatten(0, (2, -1)) for name, pair in both.items()}
    departures = {name: points.departure(steered_points, known) for name, (known, steered_points) in both.items()}
    stage.say("departure of the steered policy: " + ", ".join(f"{name} {value:.2f}" for name, value in departures.items()))

    anchor = steered.interface.anchor(policy, frames.embedding, frames.noise)
    ratio = float(UNIFORM_RMS * steered.scale.square().mean().sqrt() / anchor.square().mean().sqrt())
    config = params.evaluate.model_copy(update={"episodes": EPISODES_EACH, "film_episodes": EPISODES_EACH})
    for name in WANDERERS:
        space = points.SPACES["latent" if name == "still" else name]
        anchor = space.anchor(policy, frames.embedding, frames.noise)
        size = 0.0 if name == "still" else ratio * float(anchor.square().mean().sqrt()) / UNIFORM_RMS
        act = Wanderer(policy, space, torch.full((anchor.shape[1],), size)).act
        judge(stage, name, act, policy, config=config, within=EXPLAIN)

    durable.write_tensors(EXPLAIN / "maps.safetensors", maps)
    document = {"frames": len(frames.noise), "ratio": ratio, "departure": departures, "sweep": points.sweep(policy, frames, seed=seed)}
    durable.write_json(EXPLAIN / "explain.json", document)
    for file in ("explain.json", "maps.safetensors"):
        stage.tracker.log_file(EXPLAIN / file, "explain")


if __name__ == "__main__":
    main("explain", explain, sections=("run", "task", "evaluate"), inputs=(EPISODES, BASE, STEERING / "latent"))
