"""The supervisor's own file: what it knows of a session beside its episodes and labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from zprl import durable
from zprl.errors import DataError
from zprl.recordings.phases import PhaseKind
from zprl.recordings.store import SessionStore
from zprl.session.events import CommittedEpisode, Label, Progress
from zprl.session.state_machine import Machine
from zprl.strict_model import StrictModel

PROGRESS = "progress.json"


class Kept(StrictModel):
    """The contents of the file."""

    model_config = ConfigDict(strict=True)

    last_number: int = Field(ge=0, le=999_999)
    final: int | None = Field(ge=0)
    estopped: bool


class ProgressFile:
    """``progress.json``, read at the start and written when something has changed.

    Args:
        path: Path of the file.
        say: Receives sentences for the user.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.kept = self._read(say)

    def _read(self, say: Callable[[str], None]) -> Kept:
        """Read the file; one that cannot be read may have held a pressed e-stop."""
        if not os.path.lexists(self.path):
            return Kept(last_number=0, final=None, estopped=False)
        try:
            return Kept.model_validate(durable.read_json(self.path))
        except (DataError, ValidationError):
            say(f"{self.path} is damaged: the session starts with the e-stop pressed")
            return Kept(last_number=0, final=None, estopped=True)

    def write(self, machine: Machine) -> None:
        """Write what must survive of the state machine, if it has changed."""
        value = Kept(
            last_number=machine.last_number,
            final=machine.final,
            estopped=machine.estopped is not None,
        )
        if value != self.kept:
            durable.write_json(self.path, value.model_dump())
            self.kept = value

    def progress(self, store: SessionStore) -> Progress:
        """Return what is on disk of this session."""
        labels = store.labels.current()
        episodes = tuple(
            CommittedEpisode(
                episode.number,
                PhaseKind(episode.phase),
                episode.start_number,
                Label(labels[episode.number]) if episode.number in labels else None,
            )
            for episode in store.episodes()
        )

        kinds = {episode.number: episode.kind for episode in episodes}
        lines = store.labels.in_order()
        training = [line.seq for line in lines if kinds.get(line.episode) is PhaseKind.TRAIN]
        return Progress(
            episodes=episodes,
            last_number=self.kept.last_number,
            training_labels=max(training, default=0),
            nonces=frozenset(line.nonce for line in lines),
            final=self.kept.final,
            estopped=self.kept.estopped,
        )
