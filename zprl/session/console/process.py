"""Process ``console``: the operator's page.  What the bus says becomes the page's snapshot; what is pressed becomes an ``input``."""

from __future__ import annotations

import json
import math
import queue
import time
from collections import deque
from typing import Any

from zprl import durable
from zprl.robot.limits import Limits
from zprl.session.bus import Bus, Message
from zprl.session.child import Settings, Stopping, main
from zprl.session.console.serve import Console
from zprl.session.console.state import (
    ArmHealth,
    ConsoleState,
    Curve,
    EpisodeRow,
    EventRow,
    Gauge,
    Heartbeat,
    LimitRow,
    Snapshot,
)
from zprl.session.eyes import Eyes
from zprl.session.inputs import OperatorInput
from zprl.session.signals import PhaseKind, State
from zprl.session.store import SessionStore
from zprl.session.task import RealTask

BEAT_S, SHOW_S, CAMERA_S = 0.2, 0.2, 0.2
SILENT_S = 2.0
KEPT_EVENTS = 60
TOPICS = {
    "supervisor": ["plan"],
    "driver": ["state", "event", "beat"],
    "actor": ["event", "beat"],
    "learner": ["learning", "beat"],
    "recorder": ["committed", "labelled", "event", "beat"],
    "scripted": ["beat"],
}


class Watch:
    """Everything the page shows, gathered from the bus.

    Args:
        settings: Of the session.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.task = RealTask.load(settings.session / "task.yaml")
        limits = Limits.load(settings.session / "limits.yaml")
        self.arm_limits, self.digest = limits.arms, limits.digest()
        self.limits = tuple(_limit_rows(limits))
        self.header = SessionStore.open(settings.session).header
        self.rows: dict[int, EpisodeRow] = {}
        self.plan: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.events: deque[EventRow] = deque(maxlen=KEPT_EVENTS)
        self.heard: dict[str, float] = {}
        self.learning: list[dict[str, float]] = []
        self.weights: int | None = None
        self.clips = 0
        self.read()

    def read(self) -> None:
        """Episodes and labels, from the disk."""
        store = SessionStore.open(self.settings.session)
        labels = store.labels.current()
        for number in store.numbers():
            row = self.rows.get(number)
            if row is not None and row.label == labels.get(number):
                continue
            facts = store.episode(number).facts
            self.rows[number] = EpisodeRow(
                number=number,
                phase=facts.phase,
                label=labels.get(number),
                steps=facts.steps,
                seconds=facts.robot_s,
                stop=facts.stop_reason[:60],
                version=max((v for v in facts.versions if v >= 0), default=None),
                clips=round(facts.clip_share * facts.steps),
                intervened=facts.intervention_share > 0,
            )

    def take(self, message: Message) -> None:
        """Take in a message."""
        self.heard[message.sender] = time.monotonic()
        body = message.body
        match message.topic:
            case "plan":
                self.plan = body
            case "state":
                self.clips = (self.clips if body["number"] == self.state.get("number") else 0) + bool(body["clipped"])
                self.state = body
            case "event" if body.get("reason"):
                row = {"level": body["level"], "kind": str(body["kind"])[:60], "reason": str(body["reason"])[:500]}
                self.events.append(EventRow(at=time.time(), **row))
            case "learning":
                self.learning = [*self.learning, body][-2000:]
            case "beat" if message.sender == "actor":
                self.weights = body["version"] if body["version"] >= 0 else None
            case "committed" | "labelled":
                self.read()

    def snapshot(self) -> Snapshot | None:
        """What there is to show; ``None`` before the first plan."""
        plan = self.plan
        if not plan:
            return None
        state, config = State(plan["state"]), self.header.config
        acting = state in (State.RUNNING, State.INTERVENTION, State.STOPPING, State.AWAIT_LABEL)
        kind = PhaseKind(plan["kind"]) if plan["kind"] else PhaseKind.EVALUATE_BEFORE
        rows = tuple(self.rows[number] for number in sorted(self.rows))
        wanted = config.train_episodes if kind is PhaseKind.TRAIN else config.evaluate_episodes
        open_episode = plan["number"] if acting else None
        pending = plan["pending"]
        return Snapshot(
            session=self.header.id[:60],
            task=self.header.task[:60],
            simulated=self.settings.twin is not None,
            mode=config.mode,
            state=state,
            episode=max(1, plan["number"] if acting else plan["next"]),
            phase=None if state is State.DONE else kind,
            phase_done=sum(row.phase is kind and row.label in ("success", "failure") for row in rows),
            phase_episodes=wanted,
            step=self.state.get("step") if acting else None,
            episode_steps=self.task.episode_steps,
            prompt=str(plan["prompt"])[:500] or "starting",
            rule=self.task.label.rule[:500],
            label_episode=open_episode or (pending[0] if pending else None),
            paused=bool(plan["paused"]),
            weights=self.weights,
            clips=self.clips if acting else 0,
            arms=tuple(self._arm(prefix) for prefix in self.task.prefixes),
            processes=tuple(
                Heartbeat(name=name, age_s=time.monotonic() - self.heard[name] if name in self.heard else None, limit_s=SILENT_S)
                for name in TOPICS
                if name != "scripted" or self.settings.twin
            ),
            events=tuple(self.events),
            episodes=rows,
            curves=self._curves(),
            cameras=tuple(self.task.images),
            limits=self.limits,
            limits_digest=self.digest,
        )

    def _arm(self, prefix: str) -> ArmHealth:
        health = self.state.get("health", {"mode": "unknown", "errors": [], "detail": ""})
        features, limits = self.state.get("features", {}), self.arm_limits[prefix]
        gauges = []
        for name, letters, limit, unit in (("force", "f", limits.force, "N"), ("torque", "t", limits.torque, "Nm")):
            parts = [features.get(f"{prefix}ee.{letters}{axis}") for axis in "xyz"]
            if None not in parts:
                gauges.append(Gauge(name=name, value=math.hypot(*parts), limit=limit, unit=unit))
        age = time.monotonic() - self.heard["driver"] if "driver" in self.heard else None
        gauges.append(Gauge(name="driver heard", value=age, limit=SILENT_S, unit="s"))
        return ArmHealth(
            name=prefix or self.task.arms[prefix].driver,
            mode=health["mode"],
            ok=health["mode"] in ("idle", "moving"),
            errors=tuple(health["errors"]),
            gauges=tuple(gauges),
        )

    def _curves(self) -> tuple[Curve, ...]:
        found = []
        for name in ("q_mean", "critic_loss"):
            points = tuple((float(row["episodes"]), float(row[name])) for row in self.learning if name in row)
            found.append(Curve(name=name, x="labelled training episodes", points=points))
        return tuple(found)


def _limit_rows(limits: Limits) -> list[LimitRow]:
    """The limits as lines, nested names joined by points."""
    rows: list[LimitRow] = []

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}.{key}".strip("."))
        elif value not in (None, [], "") and len(rows) < 60:
            text = json.dumps(value) if isinstance(value, list) else str(value)
            rows.append(LimitRow(name=name[-60:], value=text[:60]))

    walk(limits.model_dump(mode="json"), "")
    return rows


def run(settings: Settings, stopping: Stopping) -> None:
    """Serve the page until asked to stop."""
    bus = Bus(settings.sockets, "console", TOPICS)
    watch, shown = Watch(settings), ConsoleState()
    presses: queue.SimpleQueue[OperatorInput] = queue.SimpleQueue()
    eyes = Eyes(watch.task, settings.rings, max_age_s=1.0)
    eyes.start()
    beat = show = look = 0.0
    with Console(shown, presses.put, host=settings.console_host, port=settings.console_port) as console:
        durable.write_json(settings.work / "console.json", {"url": console.url})
        print(f"operator's page: {console.url}", flush=True)
        while not stopping:
            for message in bus.poll(0.02):
                watch.take(message)
            while not presses.empty():
                press = presses.get()
                bus.publish("input", press.model_dump(mode="json"))
            now = time.monotonic()
            if now - beat > BEAT_S:
                beat = now
                bus.publish("beat", {})
            if now - show > SHOW_S:
                show = now
                if (snapshot := watch.snapshot()) is not None:
                    shown.publish(snapshot)
            if eyes.readers and now - look > CAMERA_S:
                look = now
                _show_cameras(eyes, shown)
    eyes.stop()
    bus.close()


def _show_cameras(eyes: Eyes, shown: ConsoleState) -> None:
    """The newest picture of each camera; one that shows nothing new is left as it is, and grows old on the page."""
    import cv2

    from zprl.robot.senses.base import StaleSense

    for camera, reader in eyes.readers.items():
        try:
            picture = reader.latest(eyes.max_age_s).value
        except StaleSense:
            continue
        done, jpeg = cv2.imencode(".jpg", picture[..., ::-1])
        if done:
            shown.publish_frame(camera, jpeg.tobytes())


if __name__ == "__main__":
    main(run)
