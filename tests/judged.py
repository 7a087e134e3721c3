"""Made-up evaluations and artifact folders for tests of the report and of the evaluation stages."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import torch

from tests.toy_world import toy_policy
from zprl import config, durable
from zprl.evaluation.result import Evaluation
from zprl.models.bundle import save_policy, write_bundle

BODIES = ("cube", "panda_hand")
RATES = {"embedding": 0.65, "base": 0.6, "latent": 0.95, "action_residual": 0.8}


def made_evaluation(policy: str = "base", *, episodes: int = 20, seed: int = 7) -> Evaluation:
    """An evaluation whose first ``rate x episodes`` episodes succeed, all of them filmed."""
    rng = np.random.default_rng(3)
    won = round(RATES[policy] * episodes)
    length = tuple(8 if n < won else 16 for n in range(episodes))
    position = torch.full((episodes, 17, 3), math.nan)
    target = torch.full((episodes, 16, 3), math.nan)
    frames = []
    for n, steps in enumerate(length):
        path = torch.tensor([0.45, 0.0, 0.3]) + torch.linspace(0, 1, steps + 1)[:, None] * torch.tensor([0.1, 0.01 * n, -0.2])
        position[n, : steps + 1], target[n, :steps] = path, path[1:]
        frames += [(n, step, path[step]) for step in range(0, steps, 5)]
    turned = torch.tensor([1.0, 0.0, 0.0, 0.0])
    poses = torch.stack([torch.stack([torch.cat((p - torch.tensor([0.0, 0.0, 0.05]), turned)), torch.cat((p, turned))]) for *_, p in frames])
    return Evaluation(
        policy=policy,
        task="toy/lift",
        seed=seed,
        control_hz=10.0,
        chunk_steps=4,
        env_steps=16 * episodes,
        success=tuple(n < won for n in range(episodes)),
        length=length,
        jerk_rms=tuple(5.0 + 0.1 * n for n in range(episodes)),
        total_variation=(0.01,) * episodes,
        chunk_jump=(math.nan, *(0.02,) * (episodes - 1)),
        film_strips=1,
        bodies=BODIES,
        tracks={
            "start/object": torch.tensor(rng.uniform(-0.2, 0.2, (episodes, 10)), dtype=torch.float32),
            "position": position,
            "target": target,
            "film/episode": torch.tensor([n for n, *_ in frames]),
            "film/step": torch.tensor([step for _, step, _ in frames]),
            "film/poses": poses,
        },
    )


def write_table(path: Path, columns: dict[str, list[float]]) -> None:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_artifacts(root: Path) -> tuple[Path, Path]:
    """Everything the report reads, below ``root``: returns the folders ``artifacts`` and ``plots``."""
    artifacts, plots = root / "artifacts", root / "plots"
    for policy in RATES:
        made_evaluation(policy).save(artifacts / "evaluation" / policy)
    save_policy(artifacts / "base", toy_policy(), {"inputs": {"artifacts/episodes": "ab12"}, "seed": 0, "versions": {"torch": "2.0"}})
    provenance = {"task": "toy/lift", "seed": 0, "env_steps": 12345, "chunk_steps": 1543, "updates": 99, "versions": {"torch": "2.0"}}
    document = {"base_digest": durable.digest(artifacts / "base"), "config": config.Rl().model_dump(mode="json"), "provenance": provenance}
    for name in ("latent", "action_residual"):
        write_bundle(artifacts / "steering" / name, "steering", document, {"scale": torch.ones(2)})
        steps = [512.0 * i for i in range(1, 9)]
        columns = {"env_steps": steps, "chunk_steps": [s / 4 for s in steps], "success_rate": [0.5 + 0.05 * i for i in range(8)]}
        columns |= {key: [1.0 + 0.1 * i for i in range(8)] for key in ("episode_length", "latent_rms", "residual_rms", "residual_ratio")}
        columns |= {key: [0.1 * i for i in range(8)] for key in ("q_mean", "critic_loss", "actor_loss", "alpha", "entropy")}
        write_table(plots / f"finetune_{'sim' if name == 'latent' else name}.csv", columns)
    losses = {key: [1.0 / (i + 1) for i in range(6)] for key in ("loss", "base_loss", "vib_loss", "kl", "reconstruction", "val_loss")}
    write_table(plots / "pretrain.csv", {"step": [50.0 * i for i in range(6)], **losses})
    durable.write_json(artifacts / "promotion.json", {"accept": True, "reasons": ["better beyond its interval"]})
    durable.write_json(artifacts / "data_report" / "summary.json", {"episodes": 12, "frames": 480, "success_share": 0.75, "findings": {}})
    return artifacts, plots
