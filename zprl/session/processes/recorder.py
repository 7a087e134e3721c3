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
from zprl.session.process import Settings, Stopping, main

BEAT_S = 0.2
PATIENCE_S = 20.0
"""How long the last messages of an ended episode may take before it counts as lost."""
KEPT_EVENTS = 1000


@dataclass
class Open:
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


class Recorder:
    """See the module."""

    def __init__(self, settings: Settings, store: SessionStore, bus: Bus) -> None:
        self.settings, self.store, self.bus = settings, store, bus
        self.open: dict[int, Open] = {}
        self.gone: set[int] = set()
        for number in store.open_numbers():  # its facts died with the last recorder
            store.discard_open(number)
            self.gone.add(number)
        self.committed = set(store.numbers())

    # -- the line from driver and actor ------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Take in what the driver or the actor lived."""
        body, arrays = message.body, message.arrays
        episode = self._open(int(body["number"]), str(body["limits"]))
        if episode is None:
            return
        try:
            match message.topic:
                case _ if body["limits"] != episode.limits:
                    raise DataError(
                        f"'{message.topic}' under other limits than the episode's",
                        remedy="look who changed the limits",
                    )
                case "frame":
                    flags = {name: bool(body[name]) for name in ("intervention", "clipped")}
                    episode.writer.add_frame(
                        step=int(body["step"]),
                        chunk=int(body["decision"]),
                        **_seen(message),
                        **flags,
                        commanded=arrays["commanded"],
                        sent=arrays["sent"],
                        wrench=arrays.get("wrench"),
                    )
                case "frame_final":
                    episode.facts |= {
                        "features": tuple(body["features"]),
                        "sent": tuple(body["sent"]),
                    }
                    episode.timing = {
                        key: float(body[key])
                        for key in ("tick_p50", "tick_p99", "tick_max")
                        if key in body
                    }
                    episode.writer.finish(**_seen(message))
                case "chunk" if int(body["decision"]) in episode.decisions:
                    return  # the driver asked twice, and the first answer counts
                case "chunk":
                    episode.decisions.add(int(body["decision"]))
                    episode.weights[int(body["version"])] = str(body["digest"])
                    episode.writer.add_chunk(
                        id=int(body["decision"]),
                        version=int(body["version"]),
                        obs_step=int(body["step"]),
                        obs_stamp=float(body["stamp"]),
                        **arrays,
                    )
                case "final" if not episode.final:
                    episode.final = True
                    episode.writer.finish_state(**arrays)
        except (DataError, KeyError, TypeError) as error:
            self._lose(int(body["number"]), str(error))

    def _open(self, number: int, limits: str) -> Open | None:
        """Return an episode's recording, begun if need be; ``None`` where nothing of it is wanted any more.

        Args:
            number: Of the episode.
            limits: Digest of the limits that whoever tells of it runs under.
        """
        if number < 1 or number in self.gone or number in self.committed:
            return None
        if number not in self.open:
            self.open[number] = Open(self.store.open_episode(number, limits_digest=limits), limits)
        return self.open[number]

    def _lose(self, number: int, reason: str) -> None:
        self._drop(number)
        self.bus.publish(
            "event",
            {"kind": "recording_lost", "level": "note", "reason": reason[:400], "number": number},
        )

    def _drop(self, number: int) -> None:
        self.gone.add(number)
        episode = self.open.pop(number, None)
        if episode is not None:
            episode.writer.discard()

    # -- what the supervisor wants -----------------------------------------------------------------

    def follow(self, message: Message) -> None:
        """Take in a plan or an event."""
        if message.topic == "event":
            episode = self.open.get(int(message.body.get("number", 0)))
            if episode is not None and message.body.get("level") != "note":
                episode.events = [*episode.events, message.body][-KEPT_EVENTS:]
            return
        plan = message.body
        episode = self._open(int(plan["number"]), plan["digests"]["limits"])
        if episode is not None and "phase" not in episode.facts:
            evaluation = bool(plan["evaluation"])
            seed = self.settings.config.evaluation_seed if evaluation else self.settings.seed
            episode.facts |= {
                "phase": plan["kind"],
                "start_number": plan["start_number"],
                "seed": seed,
                "explore": plan["explore"],
            }
        for number in plan["discard"]:
            if number not in self.committed:
                self._drop(number)
        for commit in plan["commit"]:
            self._commit(commit["number"], commit["label"])
        for label in plan["labels"]:
            if label["episode"] in self.committed:
                self._label(label)

    def _label(self, label: dict[str, Any]) -> None:
        origin = {name: label[name] for name in ("source", "nonce", "author")}
        line = self.store.label(label["episode"], label["label"], **origin)
        self.bus.publish(
            "labelled",
            {"episode": line.episode, "nonce": line.nonce, "seq": line.seq, "label": line.label},
        )

    def _commit(self, number: int, label: dict[str, Any] | None) -> None:
        """Make an episode permanent, and its label with it: a supervisor that is killed now takes neither away."""
        if number in self.committed:
            self.bus.publish("committed", {"number": number})
            return
        episode = self.open.get(number)
        if episode is not None and not episode.writer.complete:
            episode.asked = episode.asked or time.monotonic()
            if time.monotonic() - episode.asked < PATIENCE_S:
                return
            self._lose(number, "the last observation did not come")
            episode = None
        if episode is None:
            self.bus.publish("lost", {"number": number})
            return
        reason = next((e["reason"] for e in reversed(episode.events) if e.get("fault")), "")
        facts = EpisodeFacts(
            stop_reason=reason[:1000],
            events=tuple(episode.events),
            timing=episode.timing,
            weights=episode.weights,
            **episode.facts,
        )
        try:
            digest = episode.writer.commit(facts)
        except DataError as error:  # what was recorded does not fit together
            self._lose(number, error.message)
            self.bus.publish("lost", {"number": number})
            return
        self.committed.add(number)
        del self.open[number]
        if label is not None:
            self._label(label)
        self._log(number)
        self.bus.publish("committed", {"number": number, "digest": digest})

    def _log(self, number: int) -> None:
        """The operator's log of the episode: a convenience, never worth an episode."""
        try:
            write_mcap(self.store.episode(number), self.store.path / MCAP / f"{number:06d}.mcap")
        except ZprlError as error:
            self.bus.publish(
                "event",
                {
                    "kind": "no_log",
                    "level": "note",
                    "reason": error.message[:400],
                    "number": number,
                },
            )


def _seen(message: Message) -> dict[str, Any]:
    """What an observation is made of."""
    obs = {
        name.removeprefix("obs/"): value
        for name, value in message.arrays.items()
        if name.startswith("obs/")
    }
    body, arrays = message.body, message.arrays
    return {
        "stamp": body["stamp"],
        "host": body["host"],
        "obs": obs,
        "features": arrays["features"],
        "measured": arrays["measured"],
    }


def run(settings: Settings, stopping: Stopping) -> None:
    """Record until asked to stop."""
    topics = {"supervisor": ["plan"], "driver": ["event"], "actor": ["event"]}
    bus, feed = (
        Bus(settings.sockets, "recorder", topics),
        ReliableQueue(settings.sockets, "recorder", reader=True),
    )
    with SessionStore.open(settings.session, write=True) as store:
        recorder, beat = Recorder(settings, store, bus), 0.0
        while not stopping:
            message = feed.get(0.01)
            while message is not None:
                recorder.take(message)
                message = feed.get(0.0)
            for told in bus.poll():
                recorder.follow(told)
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                bus.publish("beat", {})
    bus.close()
    feed.close()


if __name__ == "__main__":
    main(run)
