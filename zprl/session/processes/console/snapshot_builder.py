"""What the bus and the disk say of a session, as the page's snapshot.  Knows no socket and no server."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from zprl import durable
from zprl.errors import DataError, ZprlError
from zprl.recordings import conditions
from zprl.recordings.phases import PhaseKind
from zprl.recordings.store import SessionStore
from zprl.robot.base import Mode
from zprl.robot.events import Event, Level
from zprl.robot.limits import Limits
from zprl.session.bus import Message
from zprl.session.events import CONFIRM_CELL, Label, State
from zprl.session.process import Settings
from zprl.session.processes.console.snapshot import (
    Answer,
    ArmHealth,
    EpisodeRow,
    EventRow,
    Gauge,
    Heartbeat,
    LearningCurve,
    LimitRow,
    Snapshot,
)

SILENT_S = 2.0
"""From here on a process, or what it last said, counts as silent."""
KEPT_EVENTS, KEPT_ROWS, KEPT_STEPS, KEPT_LIMITS = 50, 2000, 100, 60
RUN_S = 5.0
"""Events of one kind and level that follow each other this closely are one line: a clip comes at
every tick."""
TAIL_BYTES = 64 * 1024
TOPICS = {
    "supervisor": ["plan"],
    "driver": ["state", "event", "beat"],
    "actor": ["event", "beat"],
    "learner": ["learning", "weights", "beat"],
    "recorder": ["event", "beat"],
    "hand": ["beat"],
    "scripted": ["beat"],
}
ACTING = (State.RUNNING, State.INTERVENTION, State.STOPPING)
OPEN = (*ACTING, State.AWAIT_LABEL, State.COMMIT)
STOPPED = (State.FAULT, State.ESTOP)
CURVES = {"q_mean": "mean Q", "critic_loss": "critic loss", "entropy": "entropy"}
"""Columns of the learning curve that are shown, and what they are called."""


class Watch:
    """See the module.

    Args:
        settings: Of the session.
        clock: Monotonic [s].
        wall: Unix time [s].
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.clock, self.wall = settings, clock, wall
        self.conditions = settings.conditions()
        self.task = self.conditions.task
        self.store = SessionStore.open(settings.session)
        self.limits = tuple(_limit_rows(self.conditions.limits))
        self.in_force: dict[str, str] = {}
        """Digests of the task and the limits that the driver runs with."""
        self.rows: dict[int, EpisodeRow] = {}
        self.broken: set[int] = set()
        self.plan: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.stopped = False
        self.heard: dict[tuple[str, str], float] = {}
        """When a sender last said something, and when about a topic."""
        self.steps: deque[float] = deque(maxlen=KEPT_STEPS)
        self.events: deque[EventRow] = deque(maxlen=KEPT_EVENTS)
        self.fault = ""
        self.learning: dict[int, dict[str, float]] = {}
        self.weights: int | None = None
        self.clips = 0
        self._read_learning()
        self._read_events()

    # -- from the bus ------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Take in a message; one that is not understood is told and changes nothing else."""
        try:
            self._take(message)
        except (ZprlError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"'{message.topic}' of '{message.sender}' was not understood: {error!r}"
            self._note(Event("message_broken", Level.NOTE, reason[:500]), self.wall())
            return
        self.heard[message.sender, ""] = self.heard[message.sender, message.topic] = self.clock()

    def _take(self, message: Message) -> None:
        body = message.body
        match message.topic:
            case "plan":
                self._follow(body)
            case "state":
                self._state(body)
            case "event" if body["reason"]:
                event = Event.from_dict(body)
                self._note(event, self.wall())
                if body.get("fault", event.level >= Level.SOFT_STOP):
                    self.fault = event.reason
            case "learning":
                self._learned(body)
            case "beat" if message.sender == "actor":
                self.weights = int(body["version"]) if int(body["version"]) >= 0 else None
            case "beat" if message.sender == "driver":
                self.stopped = bool(body["stopped"])
                self.in_force = {str(name): str(digest) for name, digest in body["digests"].items()}

    def _follow(self, body: dict[str, Any]) -> None:
        reset = body["reset"] or {}
        self.plan = {
            "state": State(body["state"]),
            "number": int(body["number"]),
            "next": max(1, int(body["next"])),
            "kind": PhaseKind(body["kind"]) if body["kind"] else None,
            "pending": [int(number) for number in body["pending"]],
            "prompt": str(body["prompt"]),
            "paused": bool(body["paused"]),
            "behind": bool(body["behind"]),
            "reason": str(body["reason"]),
            "seq": int(body["seq"]),
            "at": float(body["at"]),
            "answers": tuple(
                Answer(nonce=answer["nonce"], refusal=answer["refusal"][:500])
                for answer in body["answers"]
            ),
            "start": int(reset["start_number"]) if reset.get("evaluation") else None,
        }
        if self.plan["state"] not in STOPPED:
            self.fault = ""
        if body["digests"] != self.conditions.digests:
            self._tightened(body["digests"])

    def _tightened(self, digests: dict[str, str]) -> None:
        """Show the limits that the supervisor has put in force."""
        try:
            new = conditions.load(self.settings.session)
            new.check(digests)
        except ZprlError as error:  # the page goes on; the driver judges for itself
            self._note(Event("limits_unknown", Level.NOTE, error.message[:500]), self.wall())
            return
        self.conditions, self.limits = new, tuple(_limit_rows(new.limits))

    def _state(self, body: dict[str, Any]) -> None:
        health, before = body["health"], self.state
        state = {
            "number": int(body["number"]),
            "step": int(body["step"]),
            "stamp": float(body["stamp"]),
            "mode": str(health["mode"])[:60],
            "errors": tuple(
                str(text)[:500] for text in (*health["errors"], health["detail"]) if text
            )[:50],
            "features": {str(name): float(value) for name, value in body["features"].items()},
        }
        new = state["number"] != before.get("number")
        if new or state["step"] <= before["step"]:
            self.steps.clear()
        else:
            self.steps.append((state["stamp"] - before["stamp"]) / (state["step"] - before["step"]))
        self.clips = (0 if new else self.clips) + bool(body["clipped"])
        self.state = state

    def _learned(self, body: dict[str, Any]) -> None:
        """A row of the learning curve; a learner that begins anew tells its last one again."""
        self.learning[int(body["version"])] = {
            name: float(body[name]) for name in ("episodes", *CURVES)
        }
        if len(self.learning) > KEPT_ROWS:
            del self.learning[min(self.learning)]

    def _note(self, event: Event, at: float) -> None:
        """An event; one of a run takes its predecessor's place."""
        level, kind, count = event.level.name.lower(), event.kind[:60], 1
        for i, row in enumerate(self.events):
            if (row.kind, row.level) == (kind, level) and at - row.at < RUN_S:
                count = row.count + 1
                del self.events[i]
                break
        self.events.append(
            EventRow(at=at, level=level, kind=kind, reason=event.reason[:500], count=count)
        )

    # -- from the disk -----------------------------------------------------------------------------

    def look(self) -> None:
        """Episodes and labels, as they are on the disk: no lost message can make the page wrong about them."""
        try:
            self._read_disk()
        except OSError as error:  # no file can be opened, say: no reason to take the e-stop away
            self._note(Event("disk_not_read", Level.NOTE, str(error)[:500]), self.wall())

    def _read_disk(self) -> None:
        try:
            labels = {line.episode: line for line in self.store.labels.in_order()}
        except DataError as error:
            self._note(Event("labels_damaged", Level.NOTE, error.message[:500]), self.wall())
            return
        for number in self.store.numbers():
            row, line = self.rows.get(number), labels.get(number)
            known = (
                {"label": Label(line.label), "author": line.author}
                if line
                else {"label": None, "author": None}
            )
            if number in self.broken or (
                row is not None and (row.label, row.author) == (known["label"], known["author"])
            ):
                continue
            if row is not None:
                self.rows[number] = row.model_copy(update=known)
                continue
            try:
                facts = self.store.episode(number).facts
            except DataError as error:
                self.broken.add(number)
                self._note(Event("episode_damaged", Level.NOTE, error.message[:500]), self.wall())
                continue
            self.rows[number] = EpisodeRow(
                number=number,
                phase=facts.phase,
                **known,
                steps=facts.steps,
                seconds=facts.robot_s,
                stop=facts.stop_reason[:60],
                version=max((v for v in facts.versions if v >= 0), default=None),
                clips=round(facts.clip_share * facts.steps),
                intervened=facts.intervention_share > 0,
            )

    def _read_learning(self) -> None:
        """The curve as the learner's last checkpoint has it, for a page that was restarted."""
        with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
            for row in durable.read_json(self.settings.work / "learner" / "facts.json")["curve"]:
                self._learned(row)

    def _read_events(self) -> None:
        """The last ones that the supervisor has kept, for a page that was restarted."""
        try:
            with open(self.settings.work / "events.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(
                DataError, KeyError, TypeError, ValueError
            ):  # the first line is torn, the last may be
                found = durable.parse_json(line, "an event", limit=TAIL_BYTES)
                self._note(Event.from_dict(found), float(found["time"]))

    # -- what there is to show ---------------------------------------------------------------------

    def age(self, sender: str, topic: str = "") -> float | None:
        """Seconds since a sender was heard (about a topic); ``None``: never."""
        at = self.heard.get((sender, topic))
        return None if at is None else max(0.0, self.clock() - at)

    def _lately(self, sender: str, topic: str) -> bool:
        age = self.age(sender, topic)
        return age is not None and age < SILENT_S

    def snapshot(self) -> Snapshot | None:
        """What there is to show; ``None`` while the supervisor is silent: nothing of it may be believed then."""
        if not self._lately("supervisor", "plan"):
            return None
        plan, config = self.plan, self.store.header.config
        state: State = plan["state"]
        rows = tuple(self.rows[number] for number in sorted(self.rows))[-KEPT_ROWS:]
        kind = self._phase(rows)
        acting = state in ACTING
        prompt = self._prompt(state)
        return Snapshot(
            session=self.store.header.id[:60],
            task=self.store.header.task[:60],
            simulated=self.settings.twin is not None,
            mode=config.mode,
            seq=plan["seq"],
            at=plan["at"],
            answers=plan["answers"],
            behind=plan["behind"],
            state=state,
            episode=plan["next"],
            phase=None if state is State.DONE else kind,
            phase_done=sum(
                row.phase is kind and row.label in (Label.SUCCESS, Label.FAILURE) for row in rows
            ),
            phase_episodes=config.train_episodes
            if kind is PhaseKind.TRAIN
            else config.evaluate_episodes,
            step=self.state["step"]
            if acting and self.state.get("number") == plan["number"]
            else None,
            episode_steps=self.task.episode_steps,
            prompt=prompt[:500],
            rule="" if self.task.label.rule in prompt else self.task.label.rule[:500],
            label_episode=self._to_label(),
            paused=plan["paused"],
            weights=self.weights,
            clips=self.clips if acting else 0,
            arms=tuple(self._arm(prefix, acting=acting) for prefix in self.task.prefixes),
            processes=tuple(
                Heartbeat(name=name, age_s=self.age(name), limit_s=SILENT_S)
                for name in TOPICS
                if name != "scripted" or self.settings.twin is not None
            ),
            events=tuple(self.events),
            episodes=rows,
            curves=tuple(self._curves()),
            cameras=tuple(self.task.images),
            limits=self.limits,
            limits_digest=self.in_force.get("limits", ""),
        )

    def _phase(self, rows: tuple[EpisodeRow, ...]) -> PhaseKind:
        """Of the open or the last episode; a session that is resumed has had none yet, but there may be some on the disk."""
        if self.plan["kind"]:
            return self.plan["kind"]
        return rows[-1].phase if rows else PhaseKind.EVALUATE_BEFORE

    def _to_label(self) -> int | None:
        """What a label pressed now is about: the open episode, else the oldest that waits for one."""
        number, pending = self.plan["number"], self.plan["pending"]
        if self.plan["state"] in OPEN and number > 0 and number not in self.rows:
            return number
        return pending[0] if pending else None

    def _prompt(self, state: State) -> str:
        match state:
            case State.ESTOP:
                return "The e-stop is pressed. Make the scene safe, then clear the stop."
            case State.FAULT if self.plan["reason"] == CONFIRM_CELL:
                return f"{CONFIRM_CELL}, then clear the stop."
            case State.FAULT:
                why = f"Stopped: {self.fault or self.plan['reason']}."
                return f"{why} If it does not go on by itself, make the scene safe, then clear the stop."
            case State.HOMING:
                return "The arm moves to its home pose. Keep clear."
            case State.PAUSED:
                return "Paused. Press Resume to go on."
            case State.COMMIT:
                return "Saving the episode."
            case State.DONE:
                return "All episodes of the plan are done."
            case State.AWAIT_RESET:
                place = (
                    f" Start position {self.plan['start']}."
                    if self.plan["start"] is not None
                    else ""
                )
                return (
                    self.task.reset
                    + place
                    + (" Then wait for the learner." if self.plan["behind"] else "")
                )
            case State.AWAIT_LABEL:
                return f"What was episode {self._to_label()} worth? {self.task.label.rule}"
            case State.IDLE:
                waits = self.plan["prompt"].startswith(
                    "waiting"
                )  # for the learner; other prompts are of states that are past
                return self.plan["prompt"] if waits else "The session is getting ready."
            case _:
                return self.task.label.rule

    def _arm(self, prefix: str, *, acting: bool) -> ArmHealth:
        """One arm.  The driver tells its state while the policy acts only; older numbers are not shown as if they were new."""
        fresh = acting and self._lately("driver", "state")
        features, limits = (
            self.state["features"] if fresh else {},
            self.conditions.limits.arms[prefix],
        )
        gauges = []
        for name, letter, limit, unit in (
            ("force", "f", limits.force, "N"),
            ("torque", "t", limits.torque, "Nm"),
        ):
            parts = [features.get(f"{prefix}ee.{letter}{axis}") for axis in "xyz"]
            gauges.append(
                Gauge(
                    name=name,
                    value=None if None in parts else math.hypot(*parts),
                    limit=limit,
                    unit=unit,
                )
            )
        longest = 1000 * max(self.steps) if fresh and self.steps else None
        gauges.append(
            Gauge(
                name="longest control step",
                value=longest,
                limit=2000 / self.task.rate_hz,
                unit="ms",
            )
        )
        gauges.append(
            Gauge(
                name="state age",
                value=1000 * self.age("driver", "state") if fresh else None,
                unit="ms",
            )
        )
        if fresh:
            mode, errors = self.state["mode"], self.state["errors"]
            ok = mode in (Mode.IDLE, Mode.MOVING)
        elif self._lately("driver", "beat"):
            mode, errors, ok = (
                ("stopped", (), False) if self.stopped else ("in control, not acting", (), True)
            )
        else:
            mode, errors, ok = "not known", ("the driver is silent",), False
        return ArmHealth(
            name=prefix or self.task.arms[prefix].driver,
            mode=mode,
            ok=ok,
            errors=errors,
            gauges=tuple(gauges),
        )

    def _curves(self) -> Iterator[LearningCurve]:
        rows = [self.learning[version] for version in sorted(self.learning)]
        for name, title in CURVES.items():
            yield LearningCurve(
                name=title,
                x="labelled training episodes",
                points=tuple((row["episodes"], row[name]) for row in rows),
            )


def _limit_rows(limits: Limits) -> Iterator[LimitRow]:
    """The limits as lines, nested names joined by points."""

    def walk(value: Any, name: str) -> Iterator[LimitRow]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{name}.{key}".strip("."))
        elif value not in (None, [], ""):
            yield LimitRow(
                name=name[-60:],
                value=(json.dumps(value) if isinstance(value, list) else str(value))[:60],
            )

    return islice(walk(limits.model_dump(mode="json", exclude={"format_version"}), ""), KEPT_LIMITS)
