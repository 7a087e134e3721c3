"""The check of a whole session: a digest covers every byte that a replay or a judgement reads.

``session.json`` and each ``episode.json`` hold a digest of themselves and of the files beside them,
the labels a check in each line.  Not covered, because nothing reads it as data: ``mcap/`` (made
again from the episodes) and unfinished ``*.partial`` files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zprl import durable
from zprl.errors import ZprlError
from zprl.recordings import conditions
from zprl.recordings.conditions import TIGHTENED
from zprl.recordings.episode import RecordedEpisode
from zprl.recordings.episode_record import CHUNKS, FACTS, FRAMES
from zprl.recordings.labels import LabelFile
from zprl.recordings.store import (
    COMMITTED,
    EPISODES,
    HEADER,
    LABELS,
    LIMITS,
    SESSION_INPUTS,
    read_header,
)


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong; its text is a sentence.

    Attributes:
        where: Path within the session.
        message: The fault there.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def verify(path: Path | str) -> list[Damage]:
    """Read everything and name what is damaged; change nothing on the disk.

    Args:
        path: The session's folder.

    Returns:
        All damage, an empty list when all is well.
    """
    path = Path(path)
    try:
        _, digests = read_header(path)
    except ZprlError as error:
        return [Damage(HEADER, error.message)]

    damage = [
        Damage(name, "was changed after the session began")
        for name in SESSION_INPUTS
        if _digest(path / name) != digests[name]
    ]

    limits = {digests[LIMITS]}
    try:
        limits |= set(conditions.load(path).history)
    except ZprlError as error:
        if (path / TIGHTENED).exists():
            damage.append(Damage(TIGHTENED, error.message))

    numbers: set[int] = set()
    for folder in _folders(path / EPISODES):
        try:
            numbers.add(_episode(folder, limits))
        except ZprlError as error:
            damage.append(Damage(f"{EPISODES}/{folder.name}", error.message))
            # It is there, though damaged: its labels are not to blame.
            if COMMITTED.fullmatch(folder.name):
                numbers.add(int(folder.name))
    return damage + list(_labels(path / LABELS, numbers))


def _folders(path: Path) -> list[Path]:
    entries = path.iterdir() if path.is_dir() else ()
    return sorted(p for p in entries if not p.name.endswith(durable.PARTIAL))


def _episode(folder: Path, limits: set[str]) -> int:
    """Read all of an episode and return its number.

    Args:
        folder: Of the episode.
        limits: Digests of the limits that were ever in force.

    Raises:
        ZprlError: something is wrong; the message says what.
    """
    if not folder.is_dir():
        raise ZprlError("is no episode")
    episode = RecordedEpisode(folder)
    _ = episode.frames
    unknown = {p.name for p in folder.iterdir()} - {FACTS, FRAMES, CHUNKS}
    if unknown:
        raise ZprlError(f"holds {', '.join(sorted(unknown))}, which nobody recorded")
    if episode.facts.limits_digest not in limits:
        raise ZprlError("was recorded under other limits than the session's")
    return episode.number


def _labels(path: Path, numbers: set[int]) -> Iterator[Damage]:
    """Yield the damage of the labels; ``numbers`` are those of the episodes that are there."""
    if not path.is_file():
        yield Damage(LABELS, "is missing")
        return
    try:
        labels = LabelFile(path)
        lines, torn = labels.in_order(), labels.torn
    except ZprlError as error:
        yield Damage(LABELS, error.message)
        return

    if torn:
        cut = "ends in a part of a line; opening the session for writing cuts it off"
        yield Damage(LABELS, cut)
    for line in lines:
        if line.episode not in numbers:
            missing = f"line {line.seq} is about episode {line.episode}, which is not there"
            yield Damage(LABELS, missing)


def _digest(path: Path) -> str | None:
    """Return the digest of a file or folder; ``None`` where it cannot be read."""
    try:
        return durable.digest(path)
    except (ZprlError, OSError):
        return None
