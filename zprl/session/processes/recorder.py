"""Process ``recorder``: the session's one writer.

Rows of the open episode are written ahead as they come; an episode becomes permanent, whole, when
the supervisor says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from zprl.errors import DataError, ZprlError
from zprl.recordings.mcap_log import write_mcap
from zprl.recordings.store import MCAP, EpisodeFacts, EpisodeWriter, SessionStore
from zprl.session.bus import Bus, Message, ReliableQueue
from zprl.session.messages import LabelRequest, Plan, Topic, notice
from zprl.session.process import Settings, Stopping, main, turns

POLL_S = 0.01
PATIENCE_S = 20.0
"""Seconds that the last messages of an ended episode may take before it counts as lost."""
KEPT_EVENTS = 1000
MAX_REASON = 400
TIMING = ("tick_p50", "tick_p99", "tick_max")


@dataclass
class RecordingEpisode:
    """An episode that is not on disk yet."""

    writer: EpisodeWriter
    limits: str
    facts: dict[str, Any] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    decisions: set[int] = field(default_factory=set)
    final: bool = False
    asked: float | None = None
    """When its commit was asked for first, host's monotonic clock [s]."""

    def take(self, message: Message) -> None:
        """Take in a message of the driver or the actor.

        Raises:
            DataError: it does not belong to the episode.
            KeyError, TypeError: it lacks something.
        """
        if message.body["limits"] != self.limits:
            raise DataError(
                f"'{message.topic}' under other limits than the episode's",
                remedy="look who changed the limits",
            )
        match message.topic:
            case Topic.FRAME:
                self._add_frame(message)
            case Topic.FRAME_FINAL:
                self._finish(message)
            case Topic.CHUNK:
                self._add_chunk(message)
            case Topic.FINAL if not self.final:
                self.final = True
                self.writer.finish_state(**message.arrays)

    def _add_frame(self, message: Message) -> None:
        body, arrays = message.body, message.arrays
        self.writer.add_frame(
            step=int(body["step"]),
            chunk=int(body["decision"]),
            intervention=bool(body["intervention"]),
            clipped=bool(body["clipped"]),
            commanded=arrays["commanded"],
            sent=arrays["sent"],
            wrench=arrays.get("wrench"),
            **_observation(message),
        )

    def _finish(self, message: Message) -> None:
        body = message.body
        self.facts |= {"features": tuple(body["features"]), "sent": tuple(body["sent"])}
        self.timing = {key: float(body[key]) for key in TIMING if key in body}
        self.writer.finish(**_observation(message))

    def _add_chunk(self, message: Message) -> None:
        """Add a chunk; where the driver has asked twice, the first answer counts."""
        body = message.body
        decision = int(body["decision"])
        if decision in self.decisions:
            return
        self.decisions.add(decision)
        self.weights[int(body["version"])] = str(body["digest"])
        self.writer.add_chunk(
            id=decision,
            version=int(body["version"]),
            obs_step=int(body["step"]),
            obs_stamp=float(body["stamp"]),
            **message.arrays,
        )

    def commit(self) -> str:
        """Make the episode permanent; return its digest.

        Raises:
            DataError: what was recorded does not fit together.
        """
        faults = [event["reason"] for event in self.events if event.get("fault")]
        facts = EpisodeFacts(
            stop_reason=faults[-1][:1000] if faults else "",
            events=tuple(self.events),
            timing=self.timing,
            weights=self.weights,
            **self.facts,
        )
        return self.writer.commit(facts)


def _observation(message: Message) -> dict[str, Any]:
    """Return the arguments that a frame and the last observation have in common."""
    body, arrays = message.body, message.arrays
    obs = {
        name.removeprefix("obs/"): value
        for name, value in arrays.items()
        if name.startswith("obs/")
    }
    return {
        "stamp": body["stamp"],
        "host": body["host"],
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
        """Take in what the driver or the actor has recorded."""
        number = int(message.body["number"])
        episode = self._open(number, str(message.body["limits"]))
        if episode is None:
            return
        try:
            episode.take(message)
        except (DataError, KeyError, TypeError) as error:
            self._lose(number, str(error))

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
        self.bus.publish(Topic.EVENT, notice(kind, number, reason[:MAX_REASON]))

    # -- what the supervisor wants -----------------------------------------------------------------

    def follow(self, message: Message) -> None:
        """Take in a plan or an event."""
        if message.topic == Topic.EVENT:
            self._take_event(message.body)
        else:
            self._follow(Plan.parse(message.body))

    def _take_event(self, event: dict[str, Any]) -> None:
        episode = self.open.get(int(event.get("number", 0)))
        if episode is not None and event.get("level") != "note":
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
        self.bus.publish(
            Topic.LABELLED,
            {"episode": line.episode, "nonce": line.nonce, "seq": line.seq, "label": line.label},
        )

    def _commit(self, number: int, label: LabelRequest | None) -> None:
        """Make an episode permanent, and its label with it.

        A supervisor that is killed now takes neither away.
        """
        if number in self.committed:
            self.bus.publish(Topic.COMMITTED, {"number": number})
            return
        episode = self.open.get(number)
        if episode is None:
            self.bus.publish(Topic.LOST, {"number": number})
            return

        if not episode.writer.complete:
            episode.asked = episode.asked or time.monotonic()
            if time.monotonic() - episode.asked >= PATIENCE_S:
                self._lose(number, "the last observation did not come")
                self.bus.publish(Topic.LOST, {"number": number})
            return
        try:
            digest = episode.commit()
        except DataError as error:
            self._lose(number, error.message)
            self.bus.publish(Topic.LOST, {"number": number})
            return

        self.committed.add(number)
        del self.open[number]
        if label is not None:
            self._label(label)
        self._log(number)
        self.bus.publish(Topic.COMMITTED, {"number": number, "digest": digest})

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
        for _ in turns(stopping, lambda: bus.publish(Topic.BEAT, {})):
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
