"""The kinds of phases of which a session consists."""

from __future__ import annotations

import enum


class PhaseKind(enum.StrEnum):
    """Kind of a phase: training, or an evaluation before or after it."""

    EVALUATE_BEFORE = "evaluate_before"
    TRAIN = "train"
    EVALUATE_AFTER = "evaluate_after"

    @property
    def evaluation(self) -> bool:
        """True where episodes are judged, not learned from.

        Start positions depend on this and the start number: both evaluations see the same ones.
        """
        return self is not PhaseKind.TRAIN
