"""Chunks of actions: requested from the actor in time, played action by action."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from zprl.session.bus import Bus
from zprl.session.messages import ChunkRequest, Plan

NO_DECISION = -1


@dataclass
class Chunk:
    """The targets of one decision (C, A), and how many of them are played."""

    decision: int = NO_DECISION
    targets: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    index: int = 0

    @property
    def left(self) -> int:
        """Return the number of actions that are not played yet."""
        return len(self.targets) - self.index

    def next(self) -> np.ndarray:
        """Return the next action (A,)."""
        action: np.ndarray = self.targets[self.index]
        self.index += 1
        return action


class ChunkPlayer:
    """The chunk being played, and the request for the next one.

    Args:
        bus: Bus of the process.

    Attributes:
        decision: Number of the next decision of the episode.
        requested: Number of the decision that was requested last.
        playing: The chunk being played.
        coming: The one that follows it, once it is here.
        late_since: Robot time since when there is no action to play; ``None``: there is one.
        sent_at: When the request was sent last, host's monotonic clock [s].
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.begin()

    def begin(self) -> None:
        """Be ready for an episode."""
        self.decision, self.requested = 0, NO_DECISION
        self.sent_at = -math.inf
        self._drop()

    def abandon(self) -> None:
        """Give up what is played and what is under way: it answers an earlier observation."""
        # The request under way keeps its number, so that its answer is no longer awaited.
        self.decision = self.requested + 1
        self._drop()

    def _drop(self) -> None:
        self.playing = Chunk()
        self.coming: Chunk | None = None
        self.late_since: float | None = None

    def due(self, lead_steps: int) -> bool:
        """Return whether the next chunk is to be requested now.

        Args:
            lead_steps: Actions that are left of a chunk when the next one is requested; of none
                where nothing is played yet.
        """
        lead = lead_steps if self.playing.decision >= 0 else 0
        return self.requested < self.decision and self.playing.left <= lead

    def request(
        self,
        plan: Plan,
        history: Sequence[Mapping[str, np.ndarray]],
        *,
        step: int,
        stamp: float,
        final: bool = False,
    ) -> None:
        """Request the chunk of the next decision, or the embedding of the last observation.

        Args:
            plan: The supervisor's newest plan.
            history: Observations, the newest last.
            step: Control step within the episode.
            stamp: Stamp of the newest observation on the robot's clock [s].
            final: Whether it is the episode's last observation.
        """
        self.requested = self.decision
        self._arrays = {f"obs/{key}": np.stack([row[key] for row in history]) for key in history[0]}
        self._request = ChunkRequest(
            number=plan.number,
            start_number=plan.start_number,
            evaluation=plan.evaluation,
            explore=plan.explore,
            weights=plan.weights,
            decision=self.decision,
            step=step,
            stamp=stamp,
            final=final,
        )
        self._send()

    def repeat(self, age_s: float) -> None:
        """Send the request again where the last one is so old: a new actor has not received it."""
        if time.monotonic() - self.sent_at > age_s:
            self._send()

    def _send(self) -> None:
        self.sent_at = time.monotonic()
        self.bus.publish(self._request, self._arrays)

    def awaits(self, decision: int) -> bool:
        """Return whether the chunk of this decision is under way."""
        return decision == self.requested == self.decision

    def take(self, targets: np.ndarray) -> None:
        """Take in the chunk that is under way."""
        self.coming = Chunk(self.decision, targets)
        self.decision += 1

    def switch(self) -> None:
        """Go over to the next chunk, if it is here and the last one is used up."""
        if self.playing.left == 0 and self.coming is not None:
            self.playing, self.coming = self.coming, None
            self.late_since = None
