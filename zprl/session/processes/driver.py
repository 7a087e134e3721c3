"""Process ``driver``: the only one that talks to the robot.  Its tick waits for nobody.

Slots lie on the robot's clock; a stalled tick skips what it missed and never catches up in a burst.
Policy, learner, recorder, disk and people may all be late: then the arm holds, and after
``command_age_s`` it comes to rest.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zprl.errors import DataError, EnvironmentProblem, Interrupted
from zprl.recordings.conditions import Conditions
from zprl.robot.base import (
    GRIPPER,
    POSE,
    WRENCH,
    Health,
    Mode,
    Pose,
    Robot,
    RobotError,
    StopLevel,
    Values,
)
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.robot.feature_mapping import ActionLayout, ObsLayout
from zprl.robot.safety import Monitor, SafetyFilter
from zprl.robot.sensors.base import LatestReader, StaleSensor
from zprl.session import clock
from zprl.session.bus import Bus, Message, ReliableQueue
from zprl.session.events import Input
from zprl.session.inputs import PRESS_S, OperatorInput
from zprl.session.process import Settings, Stopping, main
from zprl.session.spacemouse import (
    REST,
    STALE_S,
    Feel,
    Intervention,
    InterventionCommand,
    MouseState,
    SpaceMouse,
)

GRIPPER_COMMAND = "gripper.command"
"""The last commanded gripper state as an observation: +1 open, -1 closed, as the policies were
trained with."""
PLAN_AGE_S = 1.0
"""Age at which the supervisor's newest plan counts no more: the arm comes to rest."""
HAND_S = 0.2
"""Host seconds after which the supervisor is told again that a person has the arm, or has it no
more."""
POLL_S = 0.0002
BEAT_S = 0.2
WISH_S, FINAL_WISH_S = 0.1, 1.0
"""Host seconds after which a wish is repeated: for a chunk, and for a look at an episode's last
observation."""
APART_S = 0.5
"""An e-stop this shortly before a request to go on, or after it, is newer than what the person saw
who made the request."""
CONNECT_S, RETRY_S = 15.0, 1.0
"""Longest time to try to connect, and the pause between two attempts [s]."""
CALM_S, RETRY_PUSH_S = 3.0, 0.1
"""Longest wait, and pause between two looks, for the end of what pushes the arm: control taken
under a push gives way to it."""
HOMING_S = 30.0
"""Robot seconds after which an arm that is not at home is stuck."""
GRIPPER_TOLERANCE = 0.01
"""How near the gripper has to come to its opening at home [m]."""
FIRST_CHUNK_S = 10.0
"""Patience with an episode's first chunk: the arm has not moved yet."""
FIRST_READING_S = 10.0
"""Longest wait for the first reading of a camera or tracker."""


@dataclass
class Playing:
    """The chunk being played."""

    decision: int = -1
    targets: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    index: int = 0

    @property
    def left(self) -> int:
        """Actions not yet played."""
        return len(self.targets) - self.index


class Clock:
    """Slots on the robot's clock, and the host's view of whether that clock still moves."""

    def __init__(self, robot: Robot, period: float, age_s: float) -> None:
        self.robot, self.period, self.age_s = robot, period, age_s
        self.intervals: deque[float] = deque(maxlen=5000)
        self.restart()

    @property
    def now(self) -> float:
        """The robot's time; the last one it told, when it is gone."""
        with contextlib.suppress(RobotError):
            self._now = self.robot.now()
        return self._now

    @property
    def age(self) -> float:
        """Host seconds since the robot's state stamp last moved."""
        with contextlib.suppress(RobotError):
            stamp = self.robot.state_stamp()
            if stamp != self._stamp:
                self._stamp, self._moved = stamp, time.monotonic()
        return time.monotonic() - self._moved

    def wait(self) -> bool:
        """Sleep until the next slot; False, after a period of the host's clock, when the robot's stands still or is gone."""
        self.slot += self.period
        while (now := self.now) < self.slot:
            if self.age > self.age_s:
                self.slot -= self.period  # it is still to come
                time.sleep(self.period)
                return False
            time.sleep(POLL_S)
        if now - self.slot > self.period:  # stalled: these slots are gone
            self.slot += ((now - self.slot) // self.period) * self.period
        if self._last is not None:
            self.intervals.append(now - self._last)
        self._last = now
        return True

    def restart(self) -> None:
        """Begin anew after the robot was away."""
        self.slot = self._now = self.robot.now()
        self._last: float | None = None
        self._stamp, self._moved = self.robot.state_stamp(), time.monotonic()


class Driver:
    """Plays chunks on one robot, tick by tick; see the module.

    Args:
        under: The task and the limits that the session runs under.
        robot: The robot, connected.
        senses: Latest readings beside the robot's own state, by name.
        bus: To tell the others.
        feed: To the recorder.
        plan: That allowed to take control of the robot.
    """

    def __init__(
        self,
        under: Conditions,
        robot: Robot,
        senses: Mapping[str, LatestReader],
        bus: Bus,
        feed: ReliableQueue,
        plan: Mapping[str, Any],
    ) -> None:
        self.robot, self.senses, self.bus, self.feed = robot, senses, bus, feed
        self.task, self.limits, self.digests = (
            (task := under.task),
            (limits := under.limits),
            under.digests,
        )
        self.obs_layout, self.action_layout = (
            ObsLayout(task.observation),
            ActionLayout(task.action, task.ranges(robot)),
        )
        self.period = 1 / task.tick_hz
        self.ticks_per_step = round(task.tick_hz / task.rate_hz)
        self.prefixes = tuple(task.prefixes)
        self.ranges = task.ranges(robot)
        self.monitor = Monitor(limits)
        self.clock = Clock(robot, self.period, limits.state_age_s)
        self.filters = {
            p: SafetyFilter(limits.arms[p], self.period, self.ticks_per_step) for p in self.prefixes
        }
        self.plan: dict[str, Any] = {"state": "IDLE", "number": 0}
        self.plan_at = clock.now()
        self.recover_seq, self.stop_seq = int(plan["recover"]), int(plan["stop"])
        self.homing_since: float | None = None
        self.recovery_end: float | None = None
        """When to give up taking control again; ``None``: nobody has asked for it."""
        self.next_attempt = 0.0
        self.stopped = 0
        self.pressed, self.pressed_at = False, -math.inf
        """Whether the e-stop was pressed and the supervisor does not know of it yet, and when it
        was pressed last."""
        self.beat = 0.0
        self.target: Values = {}
        self.sent: Values = {}
        self.clipped = False
        self.command = dict.fromkeys(self.prefixes, 1.0)
        self.led = self.prefixes[0]
        """The arm that a person's hand leads; of two, the first."""
        self.hand = Intervention(Feel.within(limits.arms[self.led], task.rate_hz))
        self.felt, self.felt_at = REST, -math.inf
        self.hand_told = -math.inf
        self.history: deque[dict[str, np.ndarray]] = deque(maxlen=max(task.obs_steps, 1))
        self._reset_filters(self._features(senses=False))
        self._begin(0)

    # -- state -------------------------------------------------------------------------------------

    def _features(self, *, senses: bool) -> Values:
        """The robot's features, the last gripper command, and the senses', which matter only while the policy acts."""
        features = self.robot.get_observation()
        for name, reader in self.senses.items() if senses else ():
            reading = reader.latest(self.limits.sense_age_s)
            for key, value in zip(POSE, reading.value, strict=True):
                features[f"{name}.{key.removeprefix('ee.')}"] = float(value)
        for prefix in self.prefixes:
            features[prefix + GRIPPER_COMMAND] = self.command[prefix]
        return features

    def _reset_filters(self, features: Values) -> None:
        """Start from where the robot is, at rest."""
        for prefix, safety in self.filters.items():
            pose = Pose.read(features, prefix)
            safety.reset(pose, features[prefix + GRIPPER])
            self.target |= pose.features(prefix) | {prefix + GRIPPER: features[prefix + GRIPPER]}
        self.sent = dict(self.target)

    def _begin(self, number: int) -> None:
        """Be ready for an episode."""
        self.number, self.step, self.decision, self.wished = number, 0, 0, -1
        self.playing, self.coming = Playing(), None
        self.late_since: float | None = None
        self.finished = False
        self.clock.intervals.clear()
        self.action = np.zeros(self.action_layout.width, np.float32)

    def begin(self) -> None:
        """Tell the supervisor that the arm is in control: what the first plan asked for is done."""
        self.bus.publish("event", {"kind": "ready", "level": "note", "reason": "", "number": 0})
        self._tell_recovered("")
        if not self.robot.simulated:
            self.monitor.beat("operator", time.monotonic())  # from now on a person is watched for

    # -- one tick ----------------------------------------------------------------------------------

    def tick(self, count: int) -> None:
        """Everything between two slots: listen, look, decide, filter, send.

        Args:
            count: Ticks so far; every ``tick_hz / rate_hz``-th is a control step.
        """
        self._listen()
        if self.plan["state"] == "ESTOP" and self.stopped < StopLevel.HARD:
            self._stop(StopLevel.HARD)
        if self.recovery_end is not None:
            self._attempt()
        if time.monotonic() - self.beat > BEAT_S:
            self.beat = time.monotonic()
            self.bus.publish("beat", {"stopped": bool(self.stopped), "digests": self.digests})
            if self.pressed:
                self._tell_estop()
        if self.stopped:
            return
        try:
            self._move(count)
        except StaleSensor as error:
            self._fault("sense_stale", error.message)
        except DataError as error:
            self._fault("refused", error.message)
        except RobotError as error:
            self._fault("robot", error.message)

    def _listen(self) -> None:
        """Take in what has arrived; a press that stops the arm comes before any plan that lets it go on."""
        for message in sorted(self.bus.poll(), key=_is_plan):
            try:
                self._hear(message)
            except (DataError, KeyError, TypeError, ValueError) as error:
                self._fault("message_broken", f"'{message.topic}' of '{message.sender}': {error}")

    def _move(self, count: int) -> None:
        state = self.plan["state"]
        acting = state in ("RUNNING", "INTERVENTION", "STOPPING") and not self.finished
        if state != "HOMING":
            self.homing_since = None
        features = self._features(senses=acting)
        self._watch(features)
        if self.stopped:
            return
        if acting and count % self.ticks_per_step == 0:
            self._control_step(features)
        elif state == "HOMING":
            self._go_home(features)
        elif (
            self.finished
            and state in ("STOPPING", "AWAIT_LABEL", "COMMIT")
            and time.monotonic() - self.wish_sent > FINAL_WISH_S
        ):
            self._send_wish()  # an actor that has just started knows nothing of it
        if not self.stopped:
            self._send(features)

    def _watch(self, features: Values) -> None:
        """Run the monitors."""
        events = self.monitor.check(
            features, self.robot.state_stamp(), time.monotonic(), self.robot.health()
        )
        if not math.isfinite(sum(features.values())):
            events.append(
                Event(
                    "state_not_finite",
                    Level.SOFT_STOP,
                    "the robot's state is not finite",
                    stamp=self.clock.now,
                )
            )
        if (silence := clock.now() - self.plan_at) > PLAN_AGE_S:
            reason = f"no plan from the supervisor for {silence:.1f} s"
            events.append(
                Event(
                    "supervisor_silent",
                    Level.SOFT_STOP,
                    reason,
                    silence,
                    PLAN_AGE_S,
                    self.clock.now,
                    recoverable=True,
                )
            )
        self._react(events)

    def _react(self, events: Sequence[Event]) -> None:
        """Stop where an event says so, and tell all.  The worst one is the fault: one stop asks for one recovery."""
        serious = [event for event in events if event.level >= Level.SOFT_STOP]
        worst = max(serious, key=lambda event: event.level, default=None)
        if worst is not None:
            self._stop(StopLevel.HARD if worst.level >= Level.HARD_STOP else StopLevel.SOFT)
        for event in events:
            if event is not worst:
                self._tell(event)
        if worst is not None:
            self._tell(
                replace(worst, recoverable=all(event.recoverable for event in serious)), fault=True
            )

    def _control_step(self, features: Values) -> None:
        """One control step: see, choose the action, record."""
        obs = self.obs_layout.read(features)
        if self.step == 0 and self.wished < 0:
            self.history.clear()
        self.history.append(obs)
        if self.plan["state"] == "STOPPING":
            self._finish(features, obs)
            return
        if self.step >= self.task.episode_steps:
            self.bus.publish(
                "event",
                {
                    "kind": "time_out",
                    "level": "note",
                    "number": self.number,
                    "reason": "the time is up",
                },
            )
            self._finish(features, obs)
            return
        if (command := self._hand_step()).engaged:
            self._led(command, features, obs)
            return
        if self.playing.left == 0 and self.coming is not None:
            self.playing, self.coming, self.late_since = self.coming, None, None
        lead = 0 if self.plan["mode"] == "sync" else self.task.lead_steps
        if self.wished < self.decision and self.playing.left <= (
            lead if self.playing.decision >= 0 else 0
        ):
            self._wish(final=False)
        if self.playing.left == 0:
            self._late()
            if self.step == 0 or self.plan["mode"] == "sync":
                self.history.pop()  # the step has not begun: it is seen again
                return
        else:
            self.action = self.playing.targets[self.playing.index]
            self.playing.index += 1
            self.target = self.action_layout.features(self.action, self.target)
            self.command = {
                p: 1.0 if self.action_layout.opens(self.action, p) else -1.0 for p in self.prefixes
            }
        decision = self.playing.decision if self.late_since is None else -1
        self._record(features, obs, decision)
        self.step += 1

    def _hand_step(self) -> InterventionCommand:
        """What a person's hand wants in this step; taking over and giving back are told to the supervisor."""
        fresh = clock.now() - self.felt_at < STALE_S
        command = self.hand.step(self.felt if fresh else replace(self.felt, twist=REST.twist))
        if (
            command.edge is Input.INTERVENE
        ):  # from where the arm is told to be, not from where the policy wanted it
            self.target = dict(self.sent)
            self.playing, self.coming, self.late_since = Playing(), None, None
            self.decision = self.wished + 1  # an answer under way is to what was seen before
        self._tell_hand(command.engaged)
        return command

    def _tell_hand(self, engaged: bool) -> None:
        """Tell the supervisor who has the arm until its plan says the same: a press for a state that has changed is lost."""
        if (
            self.plan["state"] != ("RUNNING" if engaged else "INTERVENTION")
            or time.monotonic() - self.hand_told < HAND_S
        ):
            return
        self.hand_told = time.monotonic()
        kind = Input.INTERVENE if engaged else Input.RELEASE
        press = OperatorInput(
            kind=kind,
            episode=self.number,
            source=SpaceMouse.name,
            seq=self.plan["seq"],
            at=self.plan["at"],
        )
        self.bus.publish("input", press.model_dump(mode="json"))

    def _led(
        self, command: InterventionCommand, features: Values, obs: dict[str, np.ndarray]
    ) -> None:
        """One control step as a person leads the arm; the recording says so, and no chunk is played."""
        before, prefix = self.target, self.led
        if command.toggle_gripper:
            self.command[prefix] = -self.command[prefix]
        opening = self.ranges[prefix].gripper_width if self.command[prefix] > 0 else 0.0
        self.target = (
            before
            | command.target(Pose.read(before, prefix)).features(prefix)
            | {prefix + GRIPPER: opening}
        )
        self.action = self.action_layout.encode(self.target, before)
        self._record(features, obs, -1, led=True)
        self.step += 1

    def _wish(self, *, final: bool) -> None:
        """Ask the actor for the next chunk, with what is seen now."""
        self.wished = self.decision
        history = [self.history[0]] * (self.task.obs_steps - len(self.history)) + list(self.history)
        arrays = {f"obs/{key}": np.stack([row[key] for row in history]) for key in history[0]}
        facts = ("number", "start_number", "evaluation", "explore", "weights")
        body = {name: self.plan[name] for name in facts} | {
            "decision": self.decision,
            "step": self.step,
            "stamp": self.robot.state_stamp(),
            "final": final,
        }
        self.wish = ("wish", body, arrays)
        self._send_wish()

    def _send_wish(self) -> None:
        """Publish the wish; again after a while without an answer, because an actor that has just started may not have heard it."""
        self.wish_sent = time.monotonic()
        self.bus.publish(*self.wish)

    def _late(self) -> None:
        """No chunk to play: hold; come to rest when it takes too long."""
        now = self.clock.now
        if time.monotonic() - self.wish_sent > WISH_S:
            self._send_wish()
        if self.late_since is None:
            self.late_since = now
            if self.step > 0 and self.plan["mode"] == "async":
                self._tell(
                    Event(
                        "chunk_late", Level.HOLD, "the next chunk is not there: holding", stamp=now
                    )
                )
        elif now - self.late_since > (self.limits.command_age_s if self.step else FIRST_CHUNK_S):
            self._fault("chunk_missing", f"no chunk for {now - self.late_since:.2f} s")

    def _record(
        self, features: Values, obs: dict[str, np.ndarray], decision: int, *, led: bool = False
    ) -> None:
        arrays = {f"obs/{key}": value for key, value in obs.items()}
        arrays |= self._rows(features) | {
            "commanded": np.asarray(self.action, np.float32),
            "sent": _array(self.sent),
        }
        body = {
            "number": self.number,
            "step": self.step,
            "decision": decision,
            "clipped": self.clipped,
            **self._stamps(),
            "intervention": led,
            "limits": self.digests["limits"],
        }
        self.clipped = False
        if not self.feed.put("driver", "frame", body, arrays):
            self._fault("recorder_full", "the recorder does not keep up")
        more = {
            "left": self.playing.left,
            "health": _health(self.robot.health()),
            "features": features,
        }
        self.bus.publish("state", {**body, **more, "digests": self.digests})

    def _finish(self, features: Values, obs: dict[str, np.ndarray]) -> None:
        """The episode's last observation."""
        self.finished = True
        self.decision += 1
        self._wish(final=True)
        arrays = {f"obs/{key}": value for key, value in obs.items()} | self._rows(features)
        names = {"features": sorted(features), "sent": list(self.sent)}
        body = {
            "number": self.number,
            "step": self.step,
            **names,
            **self._stamps(),
            **self.timing(),
        }
        body["limits"] = self.digests["limits"]
        self.feed.put("driver", "frame_final", body, arrays)
        self.bus.publish(
            "event",
            {
                "kind": "episode_ended",
                "level": "note",
                "number": self.number,
                "reason": "",
                "steps": self.step,
            },
        )

    def _rows(self, features: Values) -> dict[str, np.ndarray]:
        measured = np.concatenate([[features[p + key] for key in POSE] for p in self.prefixes])
        rows = {
            "features": _array({k: features[k] for k in sorted(features)}),
            "measured": measured,
        }
        felt = [features[p + key] for p in self.prefixes for key in WRENCH if p + key in features]
        return rows | (
            {"wrench": np.array(felt)} if len(felt) == len(WRENCH) * len(self.prefixes) else {}
        )

    def _stamps(self) -> dict[str, float]:
        return {"stamp": self.robot.state_stamp(), "host": time.monotonic()}

    def timing(self) -> dict[str, float]:
        """Intervals between ticks so far, in periods of robot time."""
        found = np.array(self.clock.intervals) / self.period
        if not len(found):
            return {}
        return {
            "tick_p50": float(np.percentile(found, 50)),
            "tick_p99": float(np.percentile(found, 99)),
            "tick_max": float(found.max()),
        }

    def _go_home(self, features: Values) -> None:
        """Move to the task's home pose; tell when the arm is there and at rest."""
        self.command = dict.fromkeys(self.prefixes, 1.0)
        there = True
        for prefix in self.prefixes:
            home = self.task.home[prefix]
            gripper = {
                "open": self.ranges[prefix].gripper_width,
                "closed": 0.0,
                "keep": features[prefix + GRIPPER],
            }
            self.target |= home.features(prefix) | {
                prefix + GRIPPER: gripper[self.task.arms[prefix].home.gripper]
            }
            pose = Pose.read(features, prefix)
            there &= bool(np.linalg.norm(pose.position - home.position) < self.task.home_tolerance)
            there &= self.filters[prefix].resting
            there &= (
                abs(features[prefix + GRIPPER] - gripper[self.task.arms[prefix].home.gripper])
                < GRIPPER_TOLERANCE
            )
        if self.homing_since is None:
            self.homing_since = self.robot.now()
        elif self.robot.now() - self.homing_since > HOMING_S:
            raise RobotError(
                "the arm or its gripper does not come home",
                remedy="look at the robot: something holds it",
            )
        if there:
            self.homing_since = None
            self.bus.publish(
                "event",
                {"kind": "homed", "level": "note", "number": self.plan["number"], "reason": ""},
            )

    def _send(self, features: Values) -> None:
        """Through the filter to the robot."""
        action: Values = {}
        for prefix, safety in self.filters.items():
            found = safety.apply(
                Pose.read(self.target, prefix),
                self.target[prefix + GRIPPER],
                Pose.read(features, prefix),
            )
            action |= found.pose.features(prefix) | {prefix + GRIPPER: found.gripper}
            self.clipped |= found.clipped
            self._react(found.events)
            if self.stopped:
                return
        self.sent = self.robot.send_action(action)

    # -- stopping and going on ---------------------------------------------------------------------

    def _stop(self, level: StopLevel) -> None:
        if level is StopLevel.HOLD:
            self.target = dict(self.sent)
            return
        # An arm may hold control though it was stopped: a hard stop always reaches it.
        if level is StopLevel.HARD or not self.stopped or level > self.stopped:
            self.robot.stop(level)
            self.stopped = int(level)
        if self.recovery_end is not None:
            self._end_recovery("the arm was stopped meanwhile")

    def _fault(self, kind: str, reason: str) -> None:
        """Stop here and now, then tell the supervisor, who decides how to go on."""
        self._react(
            [
                Event(
                    kind, Level.SOFT_STOP, reason[:MAX_TEXT], stamp=self.clock.now, recoverable=True
                )
            ]
        )

    def _answer_recover(self, asked_at: float) -> None:
        """Take control again, unless the e-stop was pressed meanwhile, or it is too long since that was asked for.

        Args:
            asked_at: On the session's clock [s].
        """
        if self.pressed_at > asked_at - APART_S:
            self._tell_recovered("the e-stop was pressed")
        elif clock.now() - asked_at > PRESS_S:
            self._tell_recovered("the driver was busy when it was asked to go on")
        else:
            self._recover()

    def _tell_recovered(self, refusal: str) -> None:
        kind = "recovery_refused" if refusal else "recovered"
        body = {
            "kind": kind,
            "level": "note",
            "reason": refusal[:MAX_TEXT],
            "number": self.number,
            "recover": self.recover_seq,
        }
        self.bus.publish("event", body)

    def _recover(self) -> None:
        """Begin to take control again, attempt by attempt, so that a stop is heard between two of them."""
        if not self.stopped:
            self._tell_recovered("")
        elif self.recovery_end is None:
            self.recovery_end, self.next_attempt = time.monotonic() + CALM_S, 0.0

    def _attempt(self) -> None:
        """Try once to take control; from a stop back to holding the pose, once nothing pushes the arm beyond its limits."""
        if time.monotonic() < self.next_attempt:
            return
        try:
            taken = self._recover_robot()
            features = self._features(senses=False) if taken else {}
        except RobotError as error:
            self._end_recovery(error.message)
            return
        if not taken:
            health = self.robot.health()
            self._end_recovery(
                f"the robot is in mode '{health.mode}' {', '.join(health.errors)} {health.detail}".rstrip()
            )
            return

        self._listen()  # whoever pressed a stop while the robot was busy is heard before it holds
        if self.recovery_end is None:
            self.robot.stop(StopLevel.HARD)
        elif self.monitor.calm(features):
            self._hold(features)
        elif time.monotonic() > self.recovery_end:
            self._end_recovery(
                "something pushes the arm harder than its limits allow: look at what touches it"
            )
        else:
            self.robot.stop(StopLevel.HARD)
            self.next_attempt = time.monotonic() + RETRY_PUSH_S

    def _hold(self, features: Values) -> None:
        """Go on from where the arm is now."""
        self.clock.restart()
        self._reset_filters(features)
        self.monitor.restart()
        self.plan_at = clock.now()  # the time this took is nobody's silence
        self.stopped = 0
        self._end_recovery("")

    def _end_recovery(self, refusal: str) -> None:
        self.recovery_end = None
        if refusal:  # one arm of two, or one whose state cannot be read, may have taken control
            self.robot.stop(StopLevel.HARD)
        self._tell_recovered(refusal)

    def _recover_robot(self) -> bool:
        """Let the robot recover; a connection that is lost is made anew."""
        if self.robot.health().mode is Mode.DISCONNECTED or not self.robot.recover():
            if self.robot.health().mode is not Mode.DISCONNECTED:
                return False
            self.robot.disconnect()
            self.robot.connect()
            normal_scheduling()
        return True

    def _hear(self, message: Message) -> None:
        if message.topic == "plan":
            self._follow(message.body)
        elif message.topic == "chunk":
            self._take(message)
        elif message.topic == "beat":
            if self.robot.simulated or message.sender == "hand" or message.body.get("pages"):
                self.monitor.beat(
                    "operator", time.monotonic()
                )  # a person's; a page that nobody has open watches nothing
        elif message.topic == "twist":
            twist, buttons = tuple(map(float, message.body["twist"])), int(message.body["buttons"])
            if len(twist) != 6 or not math.isfinite(sum(twist)) or max(map(abs, twist)) > 1:
                raise DataError(f"a twist of {twist}", remedy="six numbers from -1 to 1")
            self.felt, self.felt_at = (
                MouseState(twist, buttons),
                min(float(message.body["at"]), clock.now()),
            )
        elif message.topic == "input" and message.body.get("kind") == "estop":
            self._stop(StopLevel.HARD)  # not by way of the supervisor: nothing may stand between
            self.pressed_at = clock.now()
            if not self.pressed and self.plan["state"] != "ESTOP":
                self.pressed = True
                self._tell_estop()

    def _tell_estop(self) -> None:
        self.bus.publish(
            "event",
            {
                "kind": "estop",
                "level": "hard_stop",
                "reason": "e-stop pressed",
                "number": self.number,
            },
        )

    def _follow(self, plan: dict[str, Any]) -> None:
        """Do what the plan says once; it is repeated.  Of an old plan, only the stop counts."""
        before = self.plan["state"]
        number, stop, recover, state = (
            int(plan["number"]),
            int(plan["stop"]),
            int(plan["recover"]),
            str(plan["state"]),
        )
        if stop > self.stop_seq:
            self._stop(StopLevel(plan["stop_level"]))
        self.stop_seq = stop
        if clock.now() - plan["at"] > PLAN_AGE_S:
            return
        try:
            _check_digests(plan, self.digests)
        except EnvironmentProblem:
            self._stop(StopLevel.SOFT)
            raise

        self.plan, self.plan_at = plan, float(plan["at"])
        self.pressed = self.pressed and state != "ESTOP"
        if recover > self.recover_seq:
            self.recover_seq = recover
            self._answer_recover(float(plan["recover_at"]))
        if state == "RUNNING" and (
            number != self.number or before not in ("RUNNING", "INTERVENTION")
        ):
            self._begin(number)

    def _take(self, message: Message) -> None:
        """A chunk arrived: it is for this episode and the decision wished for, or it is dropped."""
        body = message.body
        targets = message.arrays["targets"]
        if (body["number"], body["decision"]) != (
            self.number,
            self.wished,
        ) or self.wished != self.decision:
            return
        if fault := self.action_layout.fault(targets, self.task.chunk_steps):
            self._fault("chunk_broken", f"{fault}: look into the actor's log")
            return
        self.coming = Playing(int(body["decision"]), targets)
        self.decision += 1

    def _tell(self, event: Event, *, fault: bool = False) -> None:
        self.bus.publish(
            "event", {**event.as_dict(), "number": self.number, "step": self.step, "fault": fault}
        )


def _array(values: Values) -> np.ndarray:
    return np.array(list(values.values()), np.float64)


def _health(health: Health) -> dict[str, Any]:
    return {"mode": str(health.mode), "errors": list(health.errors), "detail": health.detail}


def _await(senses: Mapping[str, LatestReader]) -> None:
    """Wait for a first reading of every sense."""
    end = time.monotonic() + FIRST_READING_S
    for reader in senses.values():
        while True:
            try:
                reader.latest(FIRST_READING_S)
                break
            except StaleSensor:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)


def _connect(robot: Robot, stopping: Stopping) -> None:
    """Connect, patiently: a person may have to release the robot first."""
    end = time.monotonic() + CONNECT_S
    while True:
        try:
            robot.connect()
        except RobotError as error:
            print(f"{error}", file=sys.stderr, flush=True)
            if stopping or time.monotonic() > end:
                raise
            time.sleep(RETRY_S)
        else:
            normal_scheduling()
            return


def normal_scheduling() -> None:
    """Leave the real-time class that vendor clients put the calling thread into: children and later threads would inherit it."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _is_plan(message: Message) -> bool:
    return message.topic == "plan"


def _await_permission(bus: Bus, under: Conditions, stopping: Stopping) -> dict[str, Any]:
    """Return the first plan under which an arm may be in control: not one that only a person can let go on.

    Connecting takes control, and control alone can make an arm jump, for example under a wrong
    load.

    Raises:
        Interrupted: asked to stop.
        EnvironmentProblem: the supervisor runs under other conditions.
    """
    beat = -math.inf
    while not stopping:
        for message in bus.poll(0.02):
            plan = message.body
            if message.topic != "plan" or clock.now() - plan["at"] > PLAN_AGE_S:
                continue
            _check_digests(plan, under.digests)
            if not plan["held"]:
                return plan
        if time.monotonic() - beat > BEAT_S:
            beat = time.monotonic()
            bus.publish("beat", {"stopped": True, "digests": under.digests})
    raise Interrupted(
        "asked to stop before it was in control", remedy="run the same command again to continue"
    )


def _check_digests(plan: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Refuse a plan of a supervisor that has another task or other limits in force.

    Raises:
        EnvironmentProblem: it has.
    """
    if plan["digests"] != own:
        raise EnvironmentProblem(
            "task or limits are not those of the supervisor",
            remedy="the driver starts again with its own",
        )


def run(settings: Settings, stopping: Stopping) -> None:
    """Wait until the arm may be in control, connect, then tick until asked to stop."""
    under = settings.conditions()
    task = under.task
    robot = task.make_robot()
    task.check_robot(robot, under.limits)
    listen = {
        "supervisor": ["plan"],
        "actor": ["chunk"],
        "console": ["input", "beat"],
        "hand": ["input", "beat", "twist"],
        "scripted": ["input", "beat"],
    }
    bus, feed = (
        Bus(settings.sockets, "driver", listen),
        ReliableQueue(settings.sockets, "recorder", reader=False),
    )
    plan = _await_permission(bus, under, stopping)
    _connect(robot, stopping)
    senses = {name: LatestReader(sense) for name, sense in task.make_senses(settings.twin).items()}
    try:
        for reader in senses.values():
            reader.start()
        _await(senses)
        driver = Driver(under, robot, senses, bus, feed, plan)
        driver.begin()
        count = 0
        while not stopping:
            if not driver.clock.wait() and not driver.stopped:
                driver._fault(
                    "state_stale", f"no state from the robot for {driver.clock.age:.2f} s"
                )
            driver.tick(count)
            count += 1
    finally:
        robot.stop(StopLevel.SOFT)
        robot.disconnect()
        for reader in senses.values():
            reader.stop()
        bus.close()
        feed.close()


if __name__ == "__main__":
    main(run)
