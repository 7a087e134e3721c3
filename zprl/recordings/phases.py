"""The kinds of phases of which a session consists."""

from __future__ import annotations

import enum


class PhaseKind(enum.StrEnum):
    """What a phase is for."""

    EVALUATE_BEFORE = "evaluate_before"
    TRAIN = "train"
    EVALUATE_AFTER = "evaluate_after"

    @property
    def evaluation(self) -> bool:
        """Whether episodes are judged, not learned from.  Starts depend on (this, start number): both evaluations see the same ones."""
        return self is not PhaseKind.TRAIN
