"""Process ``recorder``: the session's one writer.

Rows of the open episode are written ahead as they come; an episode becomes permanent, whole, when
the supervisor says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zprl.errors import DataError, ZprlError
from zprl.recordings.mcap_log import write_mcap
from zprl.recordings.store import MCAP, EpisodeFacts, EpisodeWriter, SessionStore
from zprl.session.bus import Bus, Message, ReliableQueue
from zprl.session.events import Label
from zprl.session.messages import (
    Beat,
    ChunkAnswer,
    ControlRow,
    EpisodeCommitted,
    EpisodeLost,
    EventMessage,
    LabelRequest,
    LabelStored,
    LastEmbedding,
    LastObservation,
    Plan,
    Topic,
    notice,
)
from zprl.session.process import Settings, Stopping, main, turns

POLL_S = 0.01
PATIENCE_S = 20.0
"""Seconds that the last messages of an ended episode may take before it counts as lost."""
KEPT_EVENTS = 1000
MAX_REASON = 400
Recorded = ControlRow | LastObservation | ChunkAnswer | LastEmbedding


@dataclass
class RecordingEpisode:
    """An episode that is not on disk yet."""

    writer: EpisodeWriter
    limits: str
    facts: dict[str, Any] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    events: list[EventMessage] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    decisions: set[int] = field(default_factory=set)
    final: bool = False
    asked: float | None = None
    """When its commit was asked for first, host's monotonic clock [s]."""

    def take(self, recorded: Recorded, arrays: Mapping[str, np.ndarray]) -> None:
        """Take in what the driver or the actor has recorded.

        Raises:
            DataError: it does not belong to the episode.
            KeyError, TypeError: an array is missing.
        """
        if recorded.limits != self.limits:
            raise DataError(
                f"'{Topic.of(recorded)}' under other limits than the episode's",
                remedy="look who changed the limits",
            )
        match recorded:
            case ControlRow():
                self._add_row(recorded, arrays)
            case LastObservation():
                self._finish(recorded, arrays)
            case ChunkAnswer():
                self._add_chunk(recorded, arrays)
            case LastEmbedding() if not self.final:
                self.final = True
                self.writer.finish_state(**arrays)

    def _add_row(self, row: ControlRow, arrays: Mapping[str, np.ndarray]) -> None:
        self.writer.add_frame(
            step=row.step,
            chunk=row.decision,
            intervention=row.intervention,
            clipped=row.clipped,
            commanded=arrays["commanded"],
            sent=arrays["sent"],
            wrench=arrays.get("wrench"),
            **_observation(row, arrays),
        )

    def _finish(self, last: LastObservation, arrays: Mapping[str, np.ndarray]) -> None:
        self.facts |= {"features": last.features, "sent": last.sent}
        self.timing = last.timing
        self.writer.finish(**_observation(last, arrays))

    def _add_chunk(self, chunk: ChunkAnswer, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a chunk; where the driver has asked twice, the first answer counts."""
        if chunk.decision in self.decisions:
            return
        self.decisions.add(chunk.decision)
        self.weights[chunk.version] = chunk.digest
        self.writer.add_chunk(
            id=chunk.decision,
            version=chunk.version,
            obs_step=chunk.step,
            obs_stamp=chunk.stamp,
            **arrays,
        )

    def commit(self) -> str:
        """Make the episode permanent; return its digest.

        Raises:
            DataError: what was recorded does not fit together.
        """
        faults = [event.reason for event in self.events if event.fault]
        facts = EpisodeFacts(
            stop_reason=faults[-1][:1000] if faults else "",
            events=tuple(event.body() for event in self.events),
            timing=self.timing,
            weights=self.weights,
            **self.facts,
        )
        return self.writer.commit(facts)


def _observation(
    row: ControlRow | LastObservation, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the arguments that a row and the last observation have in common."""
    obs = {
        name.removeprefix("obs/"): value
        for name, value in arrays.items()
        if name.startswith("obs/")
    }
    return {
        "stamp": row.stamp,
        "host": row.host,
        "obs": obs,
        "features": arrays["features"],
        "measured": arrays["measured"],
    }


class Recorder:
    """Writes the episodes and labels of a session; see the module.

    Args:
        settings: Settings of the session.
        store: The session on disk, open for writing.
        bus: Bus of the process.
    """

    def __init__(self, settings: Settings, store: SessionStore, bus: Bus) -> None:
        self.settings, self.store, self.bus = settings, store, bus
        self.open: dict[int, RecordingEpisode] = {}
        self.gone: set[int] = set()
        for number in store.open_numbers():  # its facts died with the last recorder
            store.discard_open(number)
            self.gone.add(number)
        self.committed = set(store.numbers())

    # -- the line from driver and actor ------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Take in what the driver or the actor has recorded; nothing else comes on this line."""
        try:
            recorded = message.contents
        except DataError as error:
            self._lose_unread(message, error)
            return
        if not isinstance(recorded, Recorded):
            return

        episode = self._open(recorded.number, recorded.limits)
        if episode is None:
            return
        try:
            episode.take(recorded, message.arrays)
        except (DataError, KeyError, TypeError) as error:
            self._lose(recorded.number, str(error))

    def _lose_unread(self, message: Message, error: DataError) -> None:
        """Lose the episode whose row cannot be read, where the message still names it."""
        number = message.body.get("number")
        if isinstance(number, int) and number in self.open:
            self._lose(number, error.message)
        else:
            self._note("recording_lost", error.message, 0)

    def _open(self, number: int, limits: str) -> RecordingEpisode | None:
        """Return an episode's recording, begun if need be; ``None`` where it is wanted no more.

        Args:
            number: Number of the episode.
            limits: Digest of the limits that the sender runs under.
        """
        if number < 1 or number in self.gone or number in self.committed:
            return None
        if number not in self.open:
            writer = self.store.open_episode(number, limits_digest=limits)
            self.open[number] = RecordingEpisode(writer, limits)
        return self.open[number]

    def _lose(self, number: int, reason: str) -> None:
        self._drop(number)
        self._note("recording_lost", reason, number)

    def _drop(self, number: int) -> None:
        self.gone.add(number)
        episode = self.open.pop(number, None)
        if episode is not None:
            episode.writer.discard()

    def _note(self, kind: str, reason: str, number: int) -> None:
        self.bus.publish(notice(kind, number, reason[:MAX_REASON]))

    # -- what the supervisor wants -----------------------------------------------------------------

    def follow(self, message: Message) -> None:
        """Take in a plan or an event."""
        match message.contents:
            case EventMessage() as event:
                self._take_event(event)
            case Plan() as plan:
                self._follow(plan)

    def _take_event(self, event: EventMessage) -> None:
        episode = self.open.get(event.number)
        if episode is not None and event.level != "note":
            episode.events = [*episode.events, event][-KEPT_EVENTS:]

    def _follow(self, plan: Plan) -> None:
        episode = self._open(plan.number, plan.digests["limits"])
        if episode is not None and "phase" not in episode.facts:
            config = self.settings.config
            episode.facts |= {
                "phase": plan.kind,
                "start_number": plan.start_number,
                "seed": config.evaluation_seed if plan.evaluation else self.settings.seed,
                "explore": plan.explore,
            }

        for number in plan.discard:
            if number not in self.committed:
                self._drop(number)
        for commit in plan.commit:
            self._commit(commit.number, commit.label)
        for label in plan.labels:
            if label.episode in self.committed:
                self._label(label)

    def _label(self, label: LabelRequest) -> None:
        line = self.store.label(
            label.episode,
            str(label.label),
            source=label.source,
            nonce=label.nonce,
            author=label.author,
        )
        stored = LabelStored(
            episode=line.episode, nonce=line.nonce, seq=line.seq, label=Label(line.label)
        )
        self.bus.publish(stored)

    def _commit(self, number: int, label: LabelRequest | None) -> None:
        """Make an episode permanent, and its label with it.

        A supervisor that is killed now takes neither away.
        """
        if number in self.committed:
            self.bus.publish(EpisodeCommitted(number=number))
            return
        episode = self.open.get(number)
        if episode is None:
            self.bus.publish(EpisodeLost(number=number))
            return

        if not episode.writer.complete:
            episode.asked = episode.asked or time.monotonic()
            if time.monotonic() - episode.asked >= PATIENCE_S:
                self._lose(number, "the last observation did not come")
                self.bus.publish(EpisodeLost(number=number))
            return
        try:
            digest = episode.commit()
        except DataError as error:
            self._lose(number, error.message)
            self.bus.publish(EpisodeLost(number=number))
            return

        self.committed.add(number)
        del self.open[number]
        if label is not None:
            self._label(label)
        self._log(number)
        self.bus.publish(EpisodeCommitted(number=number, digest=digest))

    def _log(self, number: int) -> None:
        """Write the operator's log of the episode: a convenience, never worth an episode."""
        try:
            write_mcap(self.store.episode(number), self.store.path / MCAP / f"{number:06d}.mcap")
        except ZprlError as error:
            self._note("no_log", error.message, number)


def run(settings: Settings, stopping: Stopping) -> None:
    """Record until asked to stop."""
    listen = {"supervisor": [Topic.PLAN], "driver": [Topic.EVENT], "actor": [Topic.EVENT]}
    bus = Bus(settings.sockets, "recorder", listen)
    feed = ReliableQueue(settings.sockets, "recorder", reader=True)
    with SessionStore.open(settings.session, write=True) as store:
        recorder = Recorder(settings, store, bus)
        for _ in turns(stopping, lambda: bus.publish(Beat())):
            _record(recorder, feed, bus)
    bus.close()
    feed.close()


def _record(recorder: Recorder, feed: ReliableQueue, bus: Bus) -> None:
    """Take in all rows that have come, then what the plan asks to be done with them."""
    message = feed.get(POLL_S)
    while message is not None:
        recorder.take(message)
        message = feed.get(0.0)
    for message in bus.poll():
        recorder.follow(message)


if __name__ == "__main__":
    main(run)
