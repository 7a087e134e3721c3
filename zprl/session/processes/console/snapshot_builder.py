"""The page's snapshot of a session, from the bus and the disk; without sockets and servers."""

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
from zprl.session.events import Label, State
from zprl.session.messages import (
    SIM_WEIGHTS_VERSION,
    Beat,
    EventMessage,
    LearningRow,
    Plan,
    PressAnswer,
    RobotState,
    Topic,
)
from zprl.session.process import Settings
from zprl.session.processes.console.prompts import prompt
from zprl.session.processes.console.snapshot import (
    Answer,
    ArmHealth,
    EpisodeRow,
    EventRow,
    Gauge,
    HeartbeatRow,
    LearningCurve,
    LimitRow,
    Snapshot,
)

SILENT_S = 2.0
"""Seconds after which a process, or its last message about a topic, counts as silent."""
KEPT_EVENTS, KEPT_ROWS, KEPT_STEPS, KEPT_LIMITS = 50, 2000, 100, 60
MAX_LINE, MAX_WORD, MAX_ERRORS = 500, 60, 50
"""Lengths of texts on the page, and of an arm's list of errors."""
MS = 1000
"""Milliseconds per second."""
LATE_STEPS = 2
"""Control steps that a step may last before the page shows it as late."""
RUN_S = 5.0
"""Events of one kind and level that follow each other this closely are one line: a clip comes at
every tick."""
TAIL_BYTES = 64 * 1024
TOPICS = {
    "supervisor": [Topic.PLAN],
    "driver": [Topic.STATE, Topic.EVENT, Topic.BEAT],
    "actor": [Topic.EVENT, Topic.BEAT],
    "learner": [Topic.LEARNING, Topic.WEIGHTS, Topic.BEAT],
    "recorder": [Topic.EVENT, Topic.BEAT],
    "operator_devices": [Topic.BEAT],
    "scripted": [Topic.BEAT],
}
ACTING = (State.RUNNING, State.INTERVENTION, State.STOPPING)
OPEN = (*ACTING, State.AWAIT_LABEL, State.COMMIT)
STOPPED = (State.FAULT, State.ESTOP)
CURVES = {"q_mean": "mean Q", "critic_loss": "critic loss", "entropy": "entropy"}
"""Columns of the learning curve that are shown, and their titles."""


class Watch:
    """Observer of a session that keeps all the page shows, until it is asked for a snapshot.

    Args:
        settings: Settings of the session.
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
        self.settings = settings
        self.clock = clock
        self.wall = wall
        self.conditions = settings.conditions()
        self.task = self.conditions.task
        self.store = SessionStore.open(settings.session)
        self.limits = tuple(_limit_rows(self.conditions.limits))
        self.in_force: dict[str, str] = {}
        """Digests of the task and the limits that the driver runs with."""

        self.rows: dict[int, EpisodeRow] = {}
        self.broken: set[int] = set()
        self.plan: Plan | None = None
        self.state: RobotState | None = None
        self.stopped = False
        self.last_message_at: dict[tuple[str, str], float] = {}
        """Sender and topic to the time of its last message; the empty topic: of any."""

        self.steps: deque[float] = deque(maxlen=KEPT_STEPS)
        self.events: deque[EventRow] = deque(maxlen=KEPT_EVENTS)
        self.fault = ""
        self.learning: dict[int, LearningRow] = {}
        self.weights: int | None = None
        self.clips = 0

        self._read_learning()
        self._read_events()

    # -- from the bus ------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Process a message; one that is not understood becomes an event, nothing else."""
        try:
            self._take(message)
        except (ZprlError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"'{message.topic}' of '{message.sender}' was not understood: {error!r}"
            self._report("message_broken", reason)
            return
        now = self.clock()
        self.last_message_at[message.sender, ""] = now
        self.last_message_at[message.sender, message.topic] = now

    def _take(self, message: Message) -> None:
        """Process a message; raise where it is not understood."""
        match message.contents:
            case Plan() as plan:
                self._follow(plan)
            case RobotState() as state:
                self._take_state(state)
            case EventMessage() as event if event.reason:
                self._note(event.event(), self.wall())
                if event.stops:
                    self.fault = event.reason
            case LearningRow() as row:
                self._learned(row)
            case Beat(version=version) if message.sender == "actor":
                self.weights = version if version > SIM_WEIGHTS_VERSION else None
            case Beat() as beat if message.sender == "driver":
                self.stopped = beat.stopped
                self.in_force = beat.digests

    @property
    def answers(self) -> tuple[PressAnswer, ...]:
        """Return the newest plan's answers to presses."""
        return () if self.plan is None else self.plan.answers

    def _follow(self, plan: Plan) -> None:
        """Keep the supervisor's plan, and load limits that were tightened."""
        self.plan = plan
        if plan.state not in STOPPED:
            self.fault = ""
        if plan.digests != self.conditions.digests:
            self._tightened(plan.digests)

    def _tightened(self, digests: dict[str, str]) -> None:
        """Show the limits that the supervisor has put in force."""
        try:
            new = conditions.load(self.settings.session)
            new.check(digests)
        except ZprlError as error:
            # The page goes on; the driver judges for itself.
            self._report("limits_unknown", error.message)
            return
        self.conditions = new
        self.limits = tuple(_limit_rows(new.limits))

    def _take_state(self, state: RobotState) -> None:
        """Keep the driver's state, the durations of its steps and the clips of the episode."""
        before = self.state
        if before is None or state.number != before.number:
            self.steps.clear()
            self.clips = 0
        elif state.step <= before.step:
            self.steps.clear()
        else:
            self.steps.append((state.stamp - before.stamp) / (state.step - before.step))
        self.clips += state.clipped
        self.state = state

    def _learned(self, row: LearningRow) -> None:
        """Keep a row of the learning curve; a learner that begins anew repeats its last one."""
        self.learning[row.version] = row
        if len(self.learning) > KEPT_ROWS:
            del self.learning[min(self.learning)]

    def _note(self, event: Event, at: float) -> None:
        """Keep an event; one of a run takes its predecessor's place."""
        level = event.level.name.lower()
        kind = event.kind[:MAX_WORD]
        count = 1
        for i, row in enumerate(self.events):
            if (row.kind, row.level) == (kind, level) and at - row.at < RUN_S:
                count = row.count + 1
                del self.events[i]
                break
        reason = event.reason[:MAX_LINE]
        self.events.append(EventRow(at=at, level=level, kind=kind, reason=reason, count=count))

    def _report(self, kind: str, reason: str) -> None:
        """Keep an event of this process's own."""
        self._note(Event(kind, Level.NOTE, reason[:MAX_LINE]), self.wall())

    # -- from the disk -----------------------------------------------------------------------------

    def read_disk(self) -> None:
        """Read episodes and labels from the disk, which is right even where a message was lost."""
        try:
            self._update_rows()
        except OSError as error:
            # Too many open files, say, are no reason to end the page and its e-stop.
            self._report("disk_not_read", str(error))

    def _update_rows(self) -> None:
        """Bring the rows of episodes up to date."""
        try:
            labels = {line.episode: line for line in self.store.labels.in_order()}
        except DataError as error:
            self._report("labels_damaged", error.message)
            return

        for number in self.store.numbers():
            if number in self.broken:
                continue
            line = labels.get(number)
            label = Label(line.label) if line else None
            author = line.author if line else None
            row = self.rows.get(number) or self._read_episode(number)
            if row is not None and (row.label, row.author) != (label, author):
                row = row.model_copy(update={"label": label, "author": author})
            if row is not None:
                self.rows[number] = row

    def _read_episode(self, number: int) -> EpisodeRow | None:
        """Return the row of an episode, without its label; ``None`` where it is damaged."""
        try:
            facts = self.store.episode(number).facts
        except DataError as error:
            self.broken.add(number)
            self._report("episode_damaged", error.message)
            return None
        return EpisodeRow(
            number=number,
            phase=facts.phase,
            steps=facts.steps,
            seconds=facts.robot_s,
            stop=facts.stop_reason[:MAX_WORD],
            version=max((v for v in facts.versions if v >= 0), default=None),
            clips=round(facts.clip_share * facts.steps),
            intervened=facts.intervention_share > 0,
        )

    def _read_learning(self) -> None:
        """Read the curve of the learner's last checkpoint, for a page that was restarted."""
        with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
            for row in durable.read_json(self.settings.work / "learner" / "facts.json")["curve"]:
                self._learned(LearningRow.parse(row))

    def _read_events(self) -> None:
        """Read the last events that the supervisor has kept, for a page that was restarted."""
        try:
            with open(self.settings.work / "events.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return

        for line in lines:
            # The first line is torn, the last may be.
            with contextlib.suppress(DataError, KeyError, TypeError, ValueError):
                fields = durable.parse_json(line, "an event", limit=TAIL_BYTES)
                self._note(Event.from_dict(fields), float(fields["time"]))

    # -- the snapshot ------------------------------------------------------------------------------

    def age(self, sender: str, topic: str = "") -> float | None:
        """Return the seconds since a sender's last message (about a topic); ``None``: never."""
        at = self.last_message_at.get((sender, topic))
        return None if at is None else max(0.0, self.clock() - at)

    def _lately(self, sender: str, topic: str) -> bool:
        age = self.age(sender, topic)
        return age is not None and age < SILENT_S

    def snapshot(self) -> Snapshot | None:
        """Return the page's snapshot; ``None`` while the supervisor is silent: all may be old."""
        plan = self.plan
        if plan is None or not self._lately("supervisor", Topic.PLAN):
            return None
        rows = tuple(self.rows[number] for number in sorted(self.rows))[-KEPT_ROWS:]
        header = self.store.header
        return Snapshot(
            session=header.id[:MAX_WORD],
            task=header.task[:MAX_WORD],
            simulated=self.settings.robot_sim is not None,
            mode=header.config.mode,
            weights=self.weights,
            processes=tuple(self._heartbeats()),
            events=tuple(self.events),
            episodes=rows,
            curves=tuple(self._curves()),
            cameras=tuple(self.task.images),
            limits=self.limits,
            limits_digest=self.in_force.get("limits", ""),
            **self._situation(plan),
            **self._progress(plan, rows),
        )

    def _situation(self, plan: Plan) -> dict[str, Any]:
        """Return the fields about the plan and the operator's next step."""
        label_episode = self._to_label(plan)
        text = prompt(plan, self.task, fault=self.fault, label_episode=label_episode)
        rule = self.task.label.rule
        return {
            **{name: getattr(plan, name) for name in ("seq", "at", "behind", "state", "paused")},
            "answers": tuple(
                Answer(nonce=answer.nonce, refusal=answer.refusal[:MAX_LINE])
                for answer in plan.answers
            ),
            "episode": max(1, plan.next),
            "prompt": text[:MAX_LINE],
            "rule": "" if rule in text else rule[:MAX_LINE],
            "label_episode": label_episode,
        }

    def _progress(self, plan: Plan, rows: tuple[EpisodeRow, ...]) -> dict[str, Any]:
        """Return the fields about the phase, the running episode and the arms."""
        config = self.store.header.config
        kind = plan.kind or (rows[-1].phase if rows else PhaseKind.EVALUATE_BEFORE)
        training = kind is PhaseKind.TRAIN
        judged = [row for row in rows if row.label in (Label.SUCCESS, Label.FAILURE)]
        acting = plan.state in ACTING
        state = self.state if acting else None
        running = state is not None and state.number == plan.number
        return {
            "phase": None if plan.state is State.DONE else kind,
            "phase_done": sum(row.phase is kind for row in judged),
            "phase_episodes": config.train_episodes if training else config.evaluate_episodes,
            "step": state.step if state is not None and running else None,
            "episode_steps": self.task.episode_steps,
            "clips": self.clips if acting else 0,
            "arms": tuple(self._arm(prefix, acting=acting) for prefix in self.task.prefixes),
        }

    def _heartbeats(self) -> Iterator[HeartbeatRow]:
        for name in TOPICS:
            if name != "scripted" or self.settings.robot_sim is not None:
                yield HeartbeatRow(name=name, age_s=self.age(name), limit_s=SILENT_S)

    def _to_label(self, plan: Plan) -> int | None:
        """Return the episode to label: the open one, else the oldest that waits for a label."""
        if plan.state in OPEN and plan.number > 0 and plan.number not in self.rows:
            return plan.number
        return plan.pending[0] if plan.pending else None

    def _arm(self, prefix: str, *, acting: bool) -> ArmHealth:
        """Return the health of an arm; the driver publishes its state while the policy acts only.

        Older numbers are left out: they would look like new ones.
        """
        state = self.state if acting and self._lately("driver", Topic.STATE) else None
        errors: tuple[str, ...] = ()
        if state is not None:
            health = state.health
            mode = health.mode[:MAX_WORD]
            texts = [text[:MAX_LINE] for text in (*health.errors, health.detail) if text]
            errors = tuple(texts[:MAX_ERRORS])
            ok = mode in (Mode.IDLE, Mode.MOVING)
        elif self._lately("driver", Topic.BEAT):
            mode = "stopped" if self.stopped else "in control, not acting"
            ok = not self.stopped
        else:
            mode = "not known"
            errors = ("the driver is silent",)
            ok = False

        return ArmHealth(
            name=prefix or self.task.arms[prefix].driver,
            mode=mode,
            ok=ok,
            errors=errors,
            gauges=tuple(self._gauges(prefix, state)),
        )

    def _gauges(self, prefix: str, state: RobotState | None) -> Iterator[Gauge]:
        """Yield an arm's gauges, without values where there is no fresh state."""
        features = {} if state is None else state.features
        limits = self.conditions.limits.arms[prefix]
        for name, letter, limit, unit in (
            ("force", "f", limits.force, "N"),
            ("torque", "t", limits.torque, "Nm"),
        ):
            axes = [f"{prefix}ee.{letter}{axis}" for axis in "xyz"]
            known = all(axis in features for axis in axes)
            value = math.hypot(*(features[axis] for axis in axes)) if known else None
            yield Gauge(name=name, value=value, limit=limit, unit=unit)

        longest = MS * max(self.steps) if state is not None and self.steps else None
        most = LATE_STEPS * MS / self.task.rate_hz
        yield Gauge(name="longest control step", value=longest, limit=most, unit="ms")
        age = None if state is None else self.age("driver", Topic.STATE)
        yield Gauge(name="state age", value=None if age is None else MS * age, unit="ms")

    def _curves(self) -> Iterator[LearningCurve]:
        rows = [self.learning[version] for version in sorted(self.learning)]
        for name, title in CURVES.items():
            yield LearningCurve(
                name=title,
                x="labelled training episodes",
                points=tuple((row.episodes, getattr(row, name)) for row in rows),
            )


def _limit_rows(limits: Limits) -> Iterator[LimitRow]:
    """Yield the limits as lines, nested names joined by points."""

    def walk(value: Any, name: str) -> Iterator[LimitRow]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{name}.{key}".strip("."))
        elif value not in (None, [], ""):
            text = json.dumps(value) if isinstance(value, list) else str(value)
            yield LimitRow(name=name[-MAX_WORD:], value=text[:MAX_WORD])

    return islice(walk(limits.model_dump(mode="json", exclude={"format_version"}), ""), KEPT_LIMITS)
