"""Process ``driver``: the only one that talks to the robot.  Its tick waits for no process.

Slots lie on the robot's clock; a stalled tick skips what it missed and never catches up in a burst.
While a chunk is late the arm keeps its last target, and after ``command_age_s`` it comes to rest.
Recorder, supervisor and operator have bounds of their own, beyond which the arm stops.  Taking
control again is the one step that can wait for the robot, with the arm stopped.

Three clocks, one for each question:

- The robot's (``tick_clock``): when the next slot is, and when a state or an event was.  A
  simulated robot's runs at another speed than the host's.
- The host's (``time.monotonic``): how long something in this process or beside the robot has been
  silent.  It goes on while the robot's clock stands still.
- The session's (``session_clock``): how old a plan or a press of another process is.  It goes on
  while the machine is suspended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from zprl.errors import DataError, EnvironmentProblem
from zprl.recordings.conditions import Conditions
from zprl.robot.base import Robot, RobotError, StopLevel, Values
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.robot.safety import Monitor
from zprl.robot.sensors.base import LatestReader, StaleSensor
from zprl.session import clock as session_clock
from zprl.session.bus import Bus, Message, ReliableQueue
from zprl.session.control import connection
from zprl.session.control.arms import Arms
from zprl.session.control.connection import PLAN_AGE_S, is_old
from zprl.session.control.episode import EpisodeProgress
from zprl.session.control.homing import Homing
from zprl.session.control.recovery import InControl, Recovery, RecoveryOutcome, Refusal
from zprl.session.control.tick_clock import TickClock
from zprl.session.events import Input, State
from zprl.session.inputs import PRESS_S
from zprl.session.messages import Beat, ChunkAnswer, EventMessage, Plan, Topic, Twist, notice
from zprl.session.process import Heartbeat, Settings, Stopping, main

APART_S = 0.5
"""An e-stop this shortly before a request to go on, or after it, is newer than what the person saw
who made the request."""
ACTING = (State.RUNNING, State.INTERVENTION, State.STOPPING)
ENDED = (State.STOPPING, State.AWAIT_LABEL, State.COMMIT)
"""States in which the actor may still owe the embedding of an episode's last observation."""


class Driver:
    """Plays chunks on one robot, tick by tick; see the module.

    Args:
        in_force: The task and the limits that the session runs under.
        robot: The robot, connected.
        sensors: Latest readings beside the robot's own state, by name.
        bus: Bus of the process.
        feed: Line to the recorder.
        plan: The plan that allowed to take control of the robot.
    """

    def __init__(
        self,
        in_force: Conditions,
        robot: Robot,
        sensors: Mapping[str, LatestReader],
        bus: Bus,
        feed: ReliableQueue,
        plan: Plan,
    ) -> None:
        task, limits = in_force.task, in_force.limits
        self.robot, self.bus = robot, bus
        self.digests = in_force.digests
        self.ticks_per_step = round(task.tick_hz / task.rate_hz)
        self.tick_clock = TickClock(robot, 1 / task.tick_hz, limits.state_age_s)
        self.heartbeat = Heartbeat(self._beat)

        self.monitor = Monitor(limits)
        self.arms = Arms(robot, sensors, in_force)
        self.homing = Homing(task, self.arms.ranges)
        self.episode = EpisodeProgress(
            in_force,
            self.arms,
            self.tick_clock,
            bus,
            feed,
            publish=self._publish,
            fault=self._fault,
        )
        self.recovery = Recovery(
            robot,
            self.monitor,
            read=lambda: self.arms.read(sensors=False),
            listen=self._listen,
            report=self._report_recovery,
        )

        self.plan = plan.model_copy(update={"state": State.IDLE, "number": 0})
        self.plan_at = session_clock.now()
        self.recover_seq, self.stop_seq = plan.recover, plan.stop
        self.stopped = 0
        """Level of the stop that the arm is under; 0: of none."""
        self.pressed = False
        """Whether the e-stop was pressed and the supervisor does not know of it yet."""
        self.pressed_at = -math.inf

    def begin(self) -> None:
        """Report that the arm is in control: what the first plan asked for is done."""
        self.bus.publish(notice("ready", 0))
        self._report_recovery(InControl())
        if not self.robot.simulated:
            self.monitor.beat("operator", time.monotonic())  # from now on a person is watched for

    # -- one tick ----------------------------------------------------------------------------------

    def tick(self, count: int) -> None:
        """Do everything between two slots: listen, recover from a stop, or move.

        Args:
            count: Ticks so far; every ``tick_hz / rate_hz``-th is a control step.
        """
        self._listen()
        if self.plan.state is State.ESTOP and self.stopped < StopLevel.HARD:
            self._stop(StopLevel.HARD)
        if self.recovery.active:
            self._recover()
        self.heartbeat.tick()
        if self.stopped:
            return

        try:
            self._run_tick(count)
        except StaleSensor as error:
            self._fault("sensor_stale", error.message)
        except DataError as error:
            self._fault("refused", error.message)
        except RobotError as error:
            self._fault("robot", error.message)

    def report_silence(self) -> None:
        """Stop, because the robot's clock stands still."""
        self._fault("state_stale", f"no state from the robot for {self.tick_clock.age:.2f} s")

    def _beat(self) -> None:
        self.bus.publish(Beat(stopped=bool(self.stopped), digests=self.digests))
        if self.pressed:
            self._report_estop()

    def _run_tick(self, count: int) -> None:
        """Read the state, check safety, choose a target, filter it, send it, record the step."""
        acting = self.plan.state in ACTING and not self.episode.finished
        if self.plan.state is not State.HOMING:
            self.homing.cancel()

        features = self.arms.read(sensors=acting)
        self._check_safety(features)
        if self.stopped:
            return

        frame = None
        if acting and count % self.ticks_per_step == 0:
            frame = self.episode.control_step(self.plan, features)
        else:
            self._between_control_steps(features)

        action = None if self.stopped else self._filter_target(features)
        if action is not None:
            self.arms.send(action)
        if frame is not None:
            self.episode.record(frame, self.digests)

    def _check_safety(self, features: Values) -> None:
        """Run the monitors, and stop where one of them says so."""
        host_time = time.monotonic()  # by the robot's own clock, a robot at a standstill is not old
        robot_stamp = self.robot.state_stamp()
        events = self.monitor.check(features, robot_stamp, host_time, self.robot.health())
        if not math.isfinite(sum(features.values())):
            reason = "the robot's state is not finite"
            stamp = self.tick_clock.now
            events.append(Event("state_not_finite", Level.SOFT_STOP, reason, stamp=stamp))

        silence = session_clock.now() - self.plan_at  # the plan's time is another process's
        if silence > PLAN_AGE_S:
            silent = Event(
                "supervisor_silent",
                Level.SOFT_STOP,
                f"no plan from the supervisor for {silence:.1f} s",
                value=silence,
                limit=PLAN_AGE_S,
                stamp=self.tick_clock.now,
                recoverable=True,
            )
            events.append(silent)
        self._react(events)

    def _between_control_steps(self, features: Values) -> None:
        """Move home, or repeat what the actor owes; do nothing while an episode runs."""
        if self.plan.state is State.HOMING:
            self.arms.forget_gripper_commands()
            self.arms.target |= self.homing.target(features)
            if self.homing.arrived(features, self.arms.filters, self.robot.now()):
                self.bus.publish(notice("homed", self.plan.number))
        elif self.episode.finished and self.plan.state in ENDED:
            self.episode.repeat_final_request()

    def _filter_target(self, features: Values) -> Values | None:
        """Return the action that is safe to send; ``None`` where a filter stops the arm."""
        action: Values = {}
        for safe, events in self.arms.filter(features):
            action |= safe
            self._react(events)
            if self.stopped:
                return None
        return action

    # -- stopping and going on ---------------------------------------------------------------------

    def _react(self, events: Sequence[Event]) -> None:
        """Stop where an event says so, and publish all.

        The worst one is the fault: one stop asks for one recovery.
        """
        serious = [event for event in events if event.level >= Level.SOFT_STOP]
        worst = max(serious, key=lambda event: event.level, default=None)
        if worst is not None:
            self._stop(StopLevel.HARD if worst.level >= Level.HARD_STOP else StopLevel.SOFT)

        for event in events:
            if event is not worst:
                self._publish(event)
        if worst is not None:
            recoverable = all(event.recoverable for event in serious)
            self._publish(replace(worst, recoverable=recoverable), fault=True)

    def _fault(self, kind: str, reason: str) -> None:
        """Stop here and now, then inform the supervisor, who decides how to go on."""
        stamp = self.tick_clock.now
        self._react(
            [Event(kind, Level.SOFT_STOP, reason[:MAX_TEXT], stamp=stamp, recoverable=True)]
        )

    def _stop(self, level: StopLevel) -> None:
        if level is StopLevel.HOLD:
            self.arms.hold()
            return
        # An arm may hold control though it was stopped: a hard stop always reaches it.
        if level is StopLevel.HARD or level > self.stopped:
            self.robot.stop(level)
            self.stopped = int(level)
        self.recovery.cancel("the arm was stopped meanwhile")

    def _recover(self) -> None:
        """Try to take control again; then go on from where the arm is now."""
        features = self.recovery.attempt()
        if features is None:
            return
        self.tick_clock.restart()
        self.arms.restart(features)
        self.monitor.restart()
        self.plan_at = session_clock.now()  # what this took is no silence of the supervisor
        self.stopped = 0
        self.recovery.succeed()

    def _answer_recover(self, asked_at: float) -> None:
        """Begin to take control again, unless the e-stop was pressed meanwhile or it is too late.

        Args:
            asked_at: When it was asked for, on the session's clock [s].
        """
        if self.pressed_at > asked_at - APART_S:
            self._report_recovery(Refusal("the e-stop was pressed"))
        elif session_clock.now() - asked_at > PRESS_S:
            self._report_recovery(Refusal("the driver was busy when it was asked to go on"))
        elif not self.stopped:
            self._report_recovery(InControl())
        else:
            self.recovery.begin()

    # -- messages ----------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take in what has arrived; a press that stops the arm comes before any plan."""
        for message in sorted(self.bus.poll(), key=lambda message: message.topic == Topic.PLAN):
            try:
                self._take(message)
            except (DataError, KeyError, TypeError, ValueError) as error:
                self._fault("message_broken", f"'{message.topic}' of '{message.sender}': {error}")

    def _take(self, message: Message) -> None:
        if message.topic == Topic.INPUT:
            # An e-stop counts whatever else is wrong with its message; other presses are the
            # supervisor's.
            if message.body.get("kind") == Input.ESTOP:
                self._press_estop()
            return

        match message.contents:
            case Plan() as plan:
                self._follow(plan)
            case ChunkAnswer() as chunk:
                self.episode.take_chunk(chunk, message.arrays["targets"])
            case Beat() as beat:
                # A person's beat counts; a page that nobody has open watches nothing.
                person = message.sender == "operator_devices" or beat.pages > 0
                if self.robot.simulated or person:
                    self.monitor.beat("operator", time.monotonic())
            case Twist() as twist:
                self.episode.person.take(twist)

    def _press_estop(self) -> None:
        """Stop, not by way of the supervisor: nothing may stand between."""
        self._stop(StopLevel.HARD)
        self.pressed_at = session_clock.now()
        if not self.pressed and self.plan.state is not State.ESTOP:
            self.pressed = True
            self._report_estop()

    def _follow(self, plan: Plan) -> None:
        """Do what the plan says once; it is repeated.  Of an old plan, only the stop counts."""
        before = self.plan.state
        if plan.stop > self.stop_seq:
            self._stop(StopLevel(plan.stop_level))
        self.stop_seq = plan.stop
        if is_old(plan.at):
            return
        try:
            connection.check_digests(plan.digests, self.digests)
        except EnvironmentProblem:
            self._stop(StopLevel.SOFT)
            raise

        self.plan, self.plan_at = plan, plan.at
        self.pressed = self.pressed and plan.state is not State.ESTOP
        if plan.recover > self.recover_seq:
            self.recover_seq = plan.recover
            self._answer_recover(plan.recover_at)
        goes_on = (
            before in (State.RUNNING, State.INTERVENTION) and plan.number == self.episode.number
        )
        if plan.state is State.RUNNING and not goes_on:
            self.episode.begin(plan.number)

    def _publish(self, event: Event, *, fault: bool = False) -> None:
        number, step = self.episode.number, self.episode.step
        self.bus.publish(EventMessage.of(event, number=number, step=step, fault=fault))

    def _report_estop(self) -> None:
        event = notice("estop", self.episode.number, "e-stop pressed", level=Level.HARD_STOP)
        self.bus.publish(event)

    def _report_recovery(self, outcome: RecoveryOutcome) -> None:
        kind, reason = "recovered", ""
        if isinstance(outcome, Refusal):
            kind, reason = "recovery_refused", outcome.reason[:MAX_TEXT]
        event = notice(kind, self.episode.number, reason, recover=self.recover_seq)
        self.bus.publish(event)


def run(settings: Settings, stopping: Stopping) -> None:
    """Wait until the arm may be in control, connect, then tick until asked to stop."""
    in_force = settings.conditions()
    task = in_force.task
    robot = task.make_robot()
    task.check_robot(robot, in_force.limits)
    listen = {
        "supervisor": [Topic.PLAN],
        "actor": [Topic.CHUNK],
        "console": [Topic.INPUT, Topic.BEAT],
        "operator_devices": [Topic.INPUT, Topic.BEAT, Topic.TWIST],
        "scripted": [Topic.INPUT, Topic.BEAT],
    }
    bus = Bus(settings.sockets, "driver", listen)
    feed = ReliableQueue(settings.sockets, "recorder", reader=False)

    plan = connection.await_permission(bus, in_force, stopping)
    connection.connect(robot, stopping)
    made = task.make_sensors(settings.robot_sim)
    sensors = {name: LatestReader(sensor) for name, sensor in made.items()}
    try:
        for reader in sensors.values():
            reader.start()
        connection.await_readings(sensors)
        driver = Driver(in_force, robot, sensors, bus, feed, plan)
        driver.begin()
        count = 0
        while not stopping:
            if not driver.tick_clock.wait() and not driver.stopped:
                driver.report_silence()
            driver.tick(count)
            count += 1
    finally:
        robot.stop(StopLevel.SOFT)
        robot.disconnect()
        for reader in sensors.values():
            reader.stop()
        bus.close()
        feed.close()


if __name__ == "__main__":
    main(run)
