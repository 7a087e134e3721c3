"""Sessions in other people's formats, LeRobot v3 and robomimic: labelled episodes only."""

from __future__ import annotations

from collections.abc import Sequence

from zprl.errors import DataError
from zprl.recordings.store import RecordedEpisode, SessionStore

Judged = tuple[RecordedEpisode, bool]
"""An episode and whether it was a success."""


def judged(store: SessionStore, numbers: Sequence[int] | None = None) -> list[Judged]:
    """Return the episodes to export, with their labels.

    Args:
        store: The session.
        numbers: Numbers of the episodes; ``None``: all that are labelled success or failure.

    Raises:
        DataError: there is none, or one of ``numbers`` is not labelled so.
    """
    labels = store.labels.current()
    labelled = [n for n in store.numbers() if labels.get(n) in ("success", "failure")]
    chosen = labelled if numbers is None else sorted(set(numbers))
    missing = [n for n in chosen if n not in labelled]
    if missing or not chosen:
        subject = f"episode {missing[0]} is not" if missing else "no episode is"
        raise DataError(
            f"{store.path}: {subject} labelled success or failure",
            remedy="label it, or leave it out",
        )

    episodes = [(store.episode(n), labels[n] == "success") for n in chosen]
    for episode, _ in episodes:
        for key, value in episode.obs.items():
            if value.dim() != 2:
                raise DataError(
                    f"episode {episode.number}: '{key}' is an image",
                    remedy="exports hold vectors; use its MCAP log",
                )
    return episodes
