"""The protocol of a learner in simulation, and the bookkeeping that all such learners share.

Learning runs in segments.  A segment starts from a fresh simulator, because a reset keeps hidden
engine state, and ends in a resume point; every random number is a function of (seed, purpose,
counter).  A killed run therefore repeats its last segment and arrives at the same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from zprl import seeding
from zprl.config import LearningSection
from zprl.envs.chunk import ChunkEnv, ChunkResult
from zprl.models.policy import FlowPolicy
from zprl.rl.steered_policy import ActingPolicy

RECENT = 100
"""Training success is reported over so many finished episodes (official code)."""

Config = TypeVar("Config", bound=LearningSection)
Row = dict[str, float]
Tensors = dict[str, dict[str, Tensor]]
"""Tensor groups of a resume point."""


class SegmentLearner(ABC, Generic[Config]):
    """Improves a policy in simulation, segment by segment.

    Args:
        policy: Frozen base policy.
        config: The method's section.
        seed: Training seed.
        device: Device of networks, memory and worlds.
        on_row: Receives each row of the learning curve.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        config: Config,
        *,
        seed: int,
        device: str,
        on_row: Callable[[Row], None],
    ) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.device = device
        self.on_row = on_row

        self.spec = policy.spec
        self.segment = 0
        self.vector_steps = 0
        """Chunks executed in each environment, all environments side by side."""
        self.curve: list[Row] = []
        self.recent: list[tuple[float, float]] = []
        """Success and length of the finished training episodes, the newest last."""

    @abstractmethod
    def run_segment(
        self, make_env: Callable[[], ChunkEnv], tick: Callable[[], None] = lambda: None
    ) -> None:
        """Collect and learn for one segment in a fresh simulator.

        Args:
            make_env: Makes the fresh simulator; closed at the end.
            tick: Called after each vector step (progress bars).
        """

    @abstractmethod
    def acting(self) -> ActingPolicy:
        """Return the policy as it is now."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], Tensors]:
        """Return JSON facts and tensor groups from which :meth:`restore` continues exactly."""

    @abstractmethod
    def restore(self, facts: dict[str, Any], tensors: Tensors) -> None:
        """Continue from :meth:`state`."""

    @abstractmethod
    def save_bundle(self, path: Path, *, base_digest: str, provenance: Mapping[str, Any]) -> None:
        """Write the learned policy as a steering bundle (:mod:`zprl.rl.steering_bundle`)."""

    @abstractmethod
    def save_checkpoint(self, path: Path) -> None:
        """Write the folder with the networks, for a session that continues from them."""

    @property
    @abstractmethod
    def updates(self) -> int:
        """Updates so far."""

    @property
    def decisions(self) -> int:
        """Decisions so far, over all environments."""
        return self.vector_steps * self.config.budget.num_envs

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all environments."""
        return self.decisions * self.spec.policy.chunk_steps

    # -- shared by the learners --------------------------------------------------------------------

    def _generator(self, purpose: str, counter: int) -> torch.Generator:
        return seeding.torch_generator(self.seed, purpose, counter, device=self.device)

    def _reset(self, env: ChunkEnv) -> dict[str, Tensor]:
        return env.reset(seeding.derive(self.seed, "simulator", self.segment) % 2**31)

    def _count_episodes(self, result: ChunkResult, lengths: Tensor) -> None:
        """Add a chunk to the running ``lengths`` (N,), and note the episodes that ended in it."""
        lengths += result.length
        ended = result.terminated | result.truncated
        finished = zip(result.success[ended].tolist(), lengths[ended].tolist(), strict=True)
        for success, length in finished:
            self.recent = [*self.recent, (float(success), length)][-RECENT:]
        lengths[ended] = 0

    def _report(self, measured: Row) -> None:
        """Append a row to the learning curve: progress, training success, and ``measured``."""
        recent = self.recent
        row = {
            "env_steps": self.env_steps,
            "chunk_steps": self.decisions,
            "updates": self.updates,
            "success_rate": sum(s for s, _ in recent) / len(recent) if recent else 0.0,
            "episode_length": sum(n for _, n in recent) / len(recent) if recent else 0.0,
            **measured,
        }
        self.curve.append(row)
        self.on_row(row)

    def _progress(self) -> dict[str, Any]:
        return {
            "segment": self.segment,
            "vector_steps": self.vector_steps,
            "updates": self.updates,
            "curve": self.curve,
            "recent": self.recent,
        }

    def _restore_progress(self, facts: Mapping[str, Any]) -> None:
        self.segment = facts["segment"]
        self.vector_steps = facts["vector_steps"]
        self.curve = facts["curve"]
        # JSON made lists of the pairs.
        self.recent = [(success, length) for success, length in facts["recent"]]
