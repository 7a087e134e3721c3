"""A small valid session on disk: random but seeded numbers, latent space, D = 6, Z = R = 3, C = 4, A = 10."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zprl import durable
from zprl.config import Real
from zprl.recordings.phases import PhaseKind
from zprl.recordings.store import EpisodeFacts, EpisodeWriter, SessionHeader, SessionStore

D, R, C, A = 6, 3, 4, 10
RATE = 50.0
WIDTHS = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2, "robot0_gripper_command": 1, "object": 10}
POSE = ("ee.x", "ee.y", "ee.z", "ee.qx", "ee.qy", "ee.qz", "ee.qw")
FEATURES = (*POSE, "gripper.pos")
TASKS = Path(__file__).parents[1] / "zprl/robot/tasks"
EVENT = {"kind": "clip", "level": "note", "reason": "workspace", "stamp": 100.1, "step": 3}


def header(*, seed: int = 0, train: int = 2, evaluate: int = 1) -> SessionHeader:
    """Of a session of the built-in task with short chunks."""
    config = Real(train_episodes=train, evaluate_episodes=evaluate)
    return SessionHeader(
        id=f"made-{seed}", task="lift_cube", seed=seed, rate_hz=RATE, chunk_steps=C, config=config
    )


def make_toy_start(folder: Path) -> Path:
    """A folder that is no real start, for tests that never load it."""
    for name in ("base", "steering"):
        durable.write_text(folder / name / "bundle.json", "{}\n")
    durable.write_bytes(folder / "agent.safetensors", bytes(range(64)))
    return folder


def create(
    path: Path, *, start: Path | None = None, seed: int = 0, train: int = 2, evaluate: int = 1
) -> SessionStore:
    """An empty session, open for writing."""
    return SessionStore.create(
        path,
        header(seed=seed, train=train, evaluate=evaluate),
        task_yaml=(TASKS / "lift_cube.yaml")
        .read_text()
        .replace("chunk_steps: 8", f"chunk_steps: {C}"),
        limits_yaml=(TASKS / "lift_cube.limits.yaml").read_text(),
        start=start or make_toy_start(path.with_name(f"{path.name}-start")),
    )


class Rows:
    """What one episode's processes would tell the recorder; a function of (seed, number) alone."""

    def __init__(self, number: int, *, steps: int = 10, seed: int = 0, late: int = 0) -> None:
        rng = np.random.default_rng([seed, number])
        self.steps, self.late = steps, late
        self.path = np.array([0.45, 0.0, 0.3]) + np.cumsum(
            0.004 * rng.standard_normal((steps + 1, 3)), 0
        )
        self.values = {
            key: rng.standard_normal((steps + 1, d)).astype(np.float32) for key, d in WIDTHS.items()
        }
        self.actions = rng.standard_normal((steps, A)).astype(np.float32)
        self.wrench = rng.standard_normal((steps, 6))
        self.decisions = -(-(steps - late) // C)
        self.vectors = rng.standard_normal((self.decisions + 1, 5, D)).astype(np.float32)

    def observation(self, step: int) -> dict:
        pose = np.concatenate([self.path[step], [1.0, 0.0, 0.0, 0.0]])
        return {
            "stamp": 100.0 + step / RATE,
            "host": 7.0 + 0.021 * step,
            "obs": {key: value[step] for key, value in self.values.items()},
            "features": np.append(pose, 0.04),
            "measured": pose,
        }

    def frame(self, step: int) -> dict:
        """Keywords of ``add_frame``; the last ``late`` steps play no chunk."""
        return self.observation(step) | {
            "step": step,
            "commanded": self.actions[step],
            "sent": np.append(self.observation(step)["measured"], 0.08),
            "wrench": self.wrench[step],
            "chunk": step // C if step < self.steps - self.late else -1,
            "clipped": step == 3,
        }

    def chunk(self, number: int) -> dict:
        """Keywords of ``add_chunk``."""
        embedding, anchor, residual, mean, log_std = self.vectors[number]
        step = max(number * C - 2, 0)
        targets = np.resize(self.actions[number * C : number * C + C], (C, A))
        return {
            "id": number,
            "version": number,
            "obs_step": step,
            "obs_stamp": 100.0 + step / RATE,
            "embedding": embedding,
            "anchor": anchor[:R],
            "residual": np.tanh(residual[:R]),
            "point": anchor[:R] + 0.5 * np.tanh(residual[:R]),
            "targets": targets,
            "mean": mean[:R],
            "log_std": log_std[:R],
        }

    def write(self, writer: EpisodeWriter) -> None:
        """All rows, in the order in which they would come."""
        for step in range(self.steps):
            if step % C == 0 and step // C < self.decisions:
                writer.add_chunk(**self.chunk(step // C))
            writer.add_frame(**self.frame(step))
        writer.finish(**self.observation(self.steps))
        writer.finish_state(
            final_embedding=self.vectors[-1, 0], final_anchor=self.vectors[-1, 1, :R]
        )


def facts(phase: str = "train", start_number: int = 0) -> EpisodeFacts:
    return EpisodeFacts(
        phase=PhaseKind(phase),
        start_number=start_number,
        seed=0,
        explore=phase == "train",
        stop_reason="success",
        features=FEATURES,
        sent=FEATURES,
        events=(EVENT,),
        timing={"tick_p99": 1.02},
    )


def add_episode(
    store: SessionStore,
    number: int,
    *,
    phase: str = "train",
    start_number: int = 0,
    steps: int = 10,
    late: int = 0,
) -> str:
    """Live and commit one episode; returns its digest."""
    writer = store.open_episode(number)
    Rows(number, steps=steps, seed=store.header.seed, late=late).write(writer)
    return writer.commit(facts(phase, start_number))


def write_session(
    path: Path,
    *,
    labels: Sequence[str | None] = ("failure", "success", "failure", "success"),
    seed: int = 0,
    start: Path | None = None,
) -> Path:
    """A session of one evaluated episode before, all but two in training, one evaluated after; returns ``path``.

    Args:
        path: Where to.
        labels: One per episode (at least three); ``None`` leaves it unlabelled.
        seed: Of all numbers.
        start: A real ``start`` folder, where the test loads it (see :mod:`tests.session_start`).
    """
    last = len(labels)
    with create(path, start=start, seed=seed, train=last - 2) as store:
        for number, label in enumerate(labels, start=1):
            phase = {1: "evaluate_before", last: "evaluate_after"}.get(number, "train")
            add_episode(
                store,
                number,
                phase=phase,
                start_number=number - 2 if phase == "train" else 0,
                steps=8 + number,
            )
            if label is not None:
                store.label(number, label, source="test", nonce=f"nonce-{number}")
    return path
