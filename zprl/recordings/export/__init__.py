"""Sessions in other people's formats: LeRobot v3 and robomimic.  Labelled episodes only; what was discarded stays at home."""

from __future__ import annotations

from collections.abc import Sequence

from zprl.errors import DataError
from zprl.recordings.store import RecordedEpisode, SessionStore

Judged = tuple[RecordedEpisode, bool]
"""An episode and whether it was a success."""


def judged(store: SessionStore, numbers: Sequence[int] | None = None) -> list[Judged]:
    """The episodes to export, with their labels.

    Args:
        store: The session.
        numbers: Of the episodes; ``None``: all that are labelled success or failure.

    Raises:
        DataError: there is none, or one of ``numbers`` is not labelled so.
    """
    labels = store.labels.current()
    good = [n for n in store.numbers() if labels.get(n) in ("success", "failure")]
    wanted = good if numbers is None else sorted(set(numbers))
    missing = [n for n in wanted if n not in good]
    if missing or not wanted:
        what = (
            f"episode {missing[0]} is not labelled success or failure"
            if missing
            else "no episode is labelled success or failure"
        )
        raise DataError(f"{store.path}: {what}", remedy="label it, or leave it out")
    found = [(store.episode(n), labels[n] == "success") for n in wanted]
    for episode, _ in found:
        for key, value in episode.obs.items():
            if value.dim() != 2:
                raise DataError(
                    f"episode {episode.number}: '{key}' is a picture",
                    remedy="exports hold vectors; use its MCAP log",
                )
    return found
