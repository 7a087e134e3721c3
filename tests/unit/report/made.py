"""Made-up results of all earlier stages, small and exact."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from zprl import durable
from zprl.evaluation.result import Evaluation
from zprl.report.inputs import Sources

EPISODES, RECORDED, STEPS = 40, 6, 60
BODIES = ("cube", "panda_hand")
ROBOT = {"real_evaluate_before": 28, "real_evaluate_after": 32}
RATES = {"embedding": 26, "base": 24, "finetune_sim": 38, "action_residual": 30}
"""Successes per policy; whatever the base masters, finetune_sim masters too."""

TRANSFER = {
    "policy": "finetune_sim",
    "engines": ["ovphysx", "newton"],
    "ovphysx": {"success_rate": 0.95, "ci_low": 0.8, "ci_high": 0.99},
    "newton": {"success_rate": 0.7, "ci_low": 0.5, "ci_high": 0.85},
    "episodes": 20,
    "drop": 0.25,
    "p_value": 0.0625,
}


def success_of(policy: str) -> tuple[bool, ...]:
    """Return outcomes: the last episodes succeed.

    Of the first six, which are recorded, the base fails all and finetune_sim fails two.
    """
    return tuple(index >= EPISODES - RATES[policy] for index in range(EPISODES))


def evaluation(
    policy: str, *, seed: int = 7, success: tuple[bool, ...] | None = None
) -> Evaluation:
    """Failures last all steps, successes 20 and a few."""
    success = success_of(policy) if success is None else success
    length = tuple(20 + index % 5 if won else STEPS for index, won in enumerate(success))
    rng = np.random.default_rng(sum(map(ord, policy)))
    position = np.full((RECORDED, STEPS + 1, 3), np.nan, np.float32)
    frames: list[tuple[int, int, np.ndarray]] = []
    for episode in range(RECORDED):
        time = np.linspace(0, 1, length[episode] + 1)[:, None]
        start, goal = np.array([0.3, 0.0, 0.5]), np.array([0.5, 0.05 * episode - 0.1, 0.2])
        wobble = 0.004 * rng.standard_normal((len(time), 3)).cumsum(0)
        position[episode, : len(time)] = start * (1 - time) + goal * time + wobble
        for step in sorted({*range(0, length[episode], 5), length[episode] - 1}):
            poses = np.zeros((len(BODIES), 7), np.float32)
            poses[:, 6] = 1
            poses[0, :3], poses[1, :3] = goal * [1, 1, 0], position[episode, step]
            frames.append((episode, step, poses))
    return Evaluation(
        policy=policy,
        task="toy/lift",
        seed=seed,
        control_hz=50.0,
        chunk_steps=8,
        env_steps=EPISODES * STEPS,
        success=success,
        length=length,
        jerk_rms=tuple(100.0 + index for index in range(len(success))),
        total_variation=tuple(0.004 for _ in success),
        chunk_jump=(math.nan, *(0.002 for _ in success[1:])),
        video_strips=RECORDED,
        bodies=BODIES,
        tracks={
            "position": torch.from_numpy(position),
            "video/episode": torch.tensor([episode for episode, _, _ in frames]),
            "video/step": torch.tensor([step for _, step, _ in frames]),
            "video/poses": torch.from_numpy(np.stack([poses for _, _, poses in frames])),
        },
    )


def _curve(path: Path, columns: dict[str, np.ndarray]) -> None:
    lines = [
        ",".join(f"{value:.6g}" for value in row) for row in zip(*columns.values(), strict=True)
    ]
    durable.write_text(path, "\n".join([",".join(columns), *lines]) + "\n")


def all_results(root: Path) -> Sources:
    """Write everything a page can show below ``root``."""
    sources = Sources(root / "artifacts", root / "plots")
    for policy in RATES:
        evaluation(policy).save(sources.artifacts / "evaluation" / policy)
    rows = np.arange(30)
    for number, name in enumerate(("finetune_sim", "finetune_action_residual")):
        gain = 1 - np.exp(-np.maximum(rows - 6, 0) / (6 + 8 * number))
        _curve(
            sources.plots / f"{name}.csv",
            {
                "env_steps": (rows + 1) * 3200,
                "success_rate": 0.6 + 0.35 * gain * (1 - 0.5 * number) + 0.02 * np.sin(rows),
                "episode_length": np.where(rows < 2, 0, 180 - 90 * gain),
                "anchor_rms": np.full(30, 1.0 + number),
                "residual_rms": (0.1 + 0.05 * number) * gain,
                "residual_ratio": (0.1 + 0.05 * number) * gain / (1 + number),
                "q_mean": 0.5 * gain,
            },
        )
    for name, won in ROBOT.items():
        success = tuple(index >= EPISODES - won for index in range(EPISODES))
        evaluation(name, success=success).save(sources.artifacts / "evaluation" / name)
    episodes = np.arange(1, 13)
    robot = {
        "episodes": episodes,
        "success_rate": 0.4 + 0.03 * episodes,
        "chunk_steps": 20 * episodes,
        "updates": 200 * episodes,
    }
    _curve(sources.plots / "finetune_real.csv", robot)
    gate = {
        "accept": False,
        "reasons": ["not better beyond its interval: candidate 0.800 [0.652, 0.895], before 0.700"],
    }
    durable.write_json(sources.artifacts / "promotion_real.json", gate)
    steps = (rows + 1) * 50.0
    loss = 0.1 + np.exp(-rows / 5)
    columns = {
        "loss": 2 * loss,
        "base_loss": loss,
        "vib_loss": 1.1 * loss,
        "kl": 10 * (1 - loss / 2),
        "reconstruction": loss / 10,
    }
    _curve(
        sources.plots / "pretrain.csv",
        {"step": steps, **columns, "val_base_loss": loss + 0.05, "val_vib_loss": loss + 0.07},
    )
    made_by = {
        "seed": 1,
        "versions": {"torch": "2.11.0"},
        "latent_stats": {"posterior_std": [0.1] * 64},
    }
    durable.write_json(
        sources.artifacts / "base" / "bundle.json", {"kind": "policy", "provenance": made_by}
    )
    for name in ("finetune_sim", "action_residual", "real"):
        document = {
            "kind": "steering",
            "space": name,
            "base_digest": "ab" * 32,
            "provenance": {"env_steps": 96000},
        }
        durable.write_json(sources.artifacts / "steering" / name / "bundle.json", document)
    reasons = ["better beyond its interval: candidate 0.950 [0.835, 0.986], base 0.600"]
    candidate = {"name": "finetune_sim", "episodes": EPISODES, "jerk_rms": None}
    durable.write_json(sources.artifacts / "transfer" / "drop.json", TRANSFER)
    durable.write_json(
        sources.artifacts / "promotion.json",
        {"accept": True, "reasons": reasons, "candidate": candidate},
    )
    summary = {
        "episodes": 60,
        "frames": 12345,
        "bad": 1,
        "success_share": 1.0,
        "by_quality": {"better": {"episodes": 40}, "okay": {"episodes": 20}},
        "findings": {"E07": 1},
    }
    durable.write_json(sources.artifacts / "data_report" / "summary.json", summary)
    explain = sources.artifacts / "explain"
    sweep = [
        {
            "space": space,
            "ratio": ratio,
            "rms": math.hypot(1, ratio),
            "action_departure": (1 + number) * ratio,
        }
        | ({} if space == "action" else {"condition_departure": ratio})
        for number, space in enumerate(("latent", "embedding", "action"))
        for ratio in (0.1, 0.4, 1.6)
    ]
    far = {"conditions": 0.87, "actions": 1.23}
    durable.write_json(
        explain / "explain.json", {"frames": 1500, "ratio": 0.23, "departure": far, "sweep": sweep}
    )
    cloud = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0))
    durable.write_tensors(explain / "maps.safetensors", {"conditions": cloud, "actions": -cloud})
    for name in ("still", "latent", "action"):
        evaluation(name, success=success_of("base")).save(explain / name)
    return sources


def flat_render(poses: dict[str, np.ndarray]) -> np.ndarray:
    """An image that tells where the hand is: its height as brightness."""
    shade = int(np.clip(poses["panda_hand"][2] * 255, 0, 255))
    return np.full((24, 32, 3), shade, np.uint8)
