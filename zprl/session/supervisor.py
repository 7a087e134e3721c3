"""The supervisor: starts the session's processes, watches them, and does what the machine decides.

What it wants of the others stands in one message, the plan, that is sent again and again: a process
that was restarted knows within a tenth of a second where the session is, and doing something twice
is the same as doing it once.  It imports no driver and no torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zprl import durable
from zprl.errors import DataError, Interrupted, ZprlError
from zprl.recordings import conditions
from zprl.recordings.phases import PhaseKind
from zprl.recordings.store import LIMITS, SessionStore
from zprl.robot.base import StopLevel
from zprl.robot.events import Level
from zprl.session import process_group
from zprl.session.bus import Bus, Message
from zprl.session.clock import now
from zprl.session.events import (
    CONFIRM_CELL,
    Committed,
    Died,
    EStop,
    Fault,
    Finish,
    Happening,
    Homed,
    Input,
    InputEvent,
    Labelled,
    Lost,
    Phase,
    Ready,
    Recovered,
    Restarted,
    Say,
    State,
    Stopped,
    Tick,
    TimeUp,
    VersionAvailable,
)
from zprl.session.inputs import PEDAL, OperatorInput
from zprl.session.messages import (
    Beat,
    EpisodeCommitted,
    EpisodeLost,
    EventMessage,
    LabelStored,
    Topic,
    WeightsVersion,
)
from zprl.session.plan_builder import PlanBuilder
from zprl.session.process import Settings
from zprl.session.process_group import CAMERA, ProcessGroup, SessionProcess
from zprl.session.processes.console import listen
from zprl.session.processes.console.access import page_link
from zprl.session.progress_file import PROGRESS, ProgressFile
from zprl.session.state_machine import Machine

PLAN_S = 0.1
"""Seconds between two plans."""
POLL_S = 0.01
TOPICS = {
    "driver": [Topic.EVENT, Topic.STATE, Topic.INPUT, Topic.BEAT],
    "actor": [Topic.EVENT, Topic.BEAT],
    "learner": [Topic.WEIGHTS, Topic.LEARNING, Topic.BEAT],
    "recorder": [Topic.COMMITTED, Topic.LABELLED, Topic.LOST, Topic.BEAT],
    "console": [Topic.INPUT, Topic.BEAT],
    "operator_devices": [Topic.INPUT, Topic.BEAT],
    "scripted": [Topic.INPUT, Topic.BEAT],
}
EVENTS = "events.jsonl"
ACTING = (State.RUNNING, State.INTERVENTION, State.STOPPING)
NOTICES = frozenset(
    {"ready", "homed", "time_out", "episode_ended", "recovered", "recovery_refused", "estop"}
)
"""Events by which the driver answers what was asked of it, or informs of the e-stop."""
LAST = "driver"
"""The process that is started last: a robot that is in control takes processor time at the highest
priority."""


class Supervisor:
    """The supervisor of one run of a session.

    Args:
        settings: Settings of every child.
        names: Processes to run; ``scripted`` on simulated robots only.
        say: Receives sentences for the user.
        stopping: True once the session is to stop; it can be resumed.

    Raises:
        DataError: the session's folder is damaged.
    """

    def __init__(
        self,
        settings: Settings,
        names: tuple[str, ...],
        *,
        say: Callable[[str], None] = print,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.tightened_at = _changed_at(settings.session / conditions.TIGHTENED)
        self.conditions = conditions.load(settings.session)
        self.settings = settings.model_copy(update={"digests": self.conditions.digests})
        self.say, self.stopping, self.task = say, stopping, self.conditions.task
        self.store = SessionStore.open(settings.session)
        self._check_last_episode()

        self.progress_file = ProgressFile(settings.work / PROGRESS, say)
        self.machine = Machine(
            plan_of(settings),
            self.progress_file.progress(self.store),
            mode=settings.config.mode,
            recoveries=self.conditions.limits.recoveries,
            confirm="" if settings.robot_sim is not None else CONFIRM_CELL,
        )
        self.plan = PlanBuilder(self.task)
        self.finished = False
        self._sent_at = 0.0

        self.names = (*names, *(CAMERA + camera for camera in self.task.images))
        self.group = ProcessGroup(settings.work, self._command)
        self.children = self.group.children
        topics = {name: TOPICS[name] for name in names if name in TOPICS}
        self.bus = Bus(settings.sockets, "supervisor", topics)

    def _check_last_episode(self) -> None:
        """Refuse to go on under limits that are looser than those of the last episode.

        Raises:
            DataError: the list of changes has lost some.
        """
        numbers = self.store.numbers()
        known = {self.store.digests[LIMITS], *self.conditions.history}
        if numbers and self.store.episode(numbers[-1]).facts.limits_digest not in known:
            tightened = conditions.TIGHTENED
            raise DataError(
                f"the last episode was recorded under limits that {tightened} does not know",
                remedy=f"restore {self.settings.session / tightened} from a copy",
            )

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the plan is done.

        Raises:
            Interrupted: asked to stop; running again continues.
            EnvironmentProblem: a process does not stay alive.
        """
        # The page's socket is held to the end: the port is never free.
        page = listen.open_for(self.settings) if "console" in self.names else None
        self.group.console_fd = page.fileno() if page is not None else None
        self.settings = self.settings.model_copy(update={"console_fd": self.group.console_fd})
        self._write_settings()

        try:
            for name in self.names:
                if name != LAST:
                    self.group.spawn(name)

            while not self.finished:
                self._turn()
                if self.stopping():
                    raise Interrupted(
                        "the session stopped on request",
                        remedy="run the same command again to continue",
                    )
        finally:
            self.group.end()
            self.bus.close()
            if page is not None:
                page.close()

    def _turn(self) -> None:
        """Take in what has come, look after the processes, send the plan when it is due."""
        if LAST not in self.children and not self.group.silent():
            self.group.spawn(LAST)
        for message in self.bus.poll(POLL_S):
            self._take_message(message)
        self._watch()
        self._watch_limits()
        self._handle(Tick(time.monotonic()))
        if time.monotonic() - self._sent_at > PLAN_S:
            self._publish()

    def _command(self, name: str) -> list[str]:
        return process_group.command(name, self.settings, self.task)

    def _write_settings(self) -> None:
        value = self.settings.model_dump(mode="json")
        durable.write_json(self.settings.work / "settings.json", value)

    def _watch_limits(self) -> None:
        """Take limits that were tightened meanwhile into force.

        Whatever else became of the files changes nothing.
        """
        changed_at = _changed_at(self.settings.session / conditions.TIGHTENED)
        if changed_at == self.tightened_at:
            return
        self.tightened_at = changed_at
        try:
            new = conditions.load(self.settings.session)
            self.conditions.check_tighter(new)
        except ZprlError as error:
            self.say(f"changed limits are refused: {error}")
            return
        if new.digests == self.conditions.digests:
            return

        self.conditions = new
        self.machine.tighten(new.limits.recoveries)
        self.settings = self.settings.model_copy(update={"digests": new.digests})
        self._write_settings()
        self.say("the limits were tightened: driver and actor start again with them")
        self._publish()
        self.group.terminate("driver", "actor")

    def _watch(self) -> None:
        """Replace the processes that have died or frozen."""
        for name, child in list(self.children.items()):
            child.kill_if_frozen()
            code = child.process.poll()
            if code is None:
                continue
            if child.tightened:
                self.say(f"process '{name}' starts again with the tightened limits")
            else:
                self.say(f"process '{name}' ended ({code}): {self.group.last_log_line(name)}")
            for message in self.bus.poll():  # its last messages are not its successor's first
                self._take_message(message)
            if child.sends_messages:
                self._handle(Died(name))
            self.group.spawn(name)

    # -- from messages to events -------------------------------------------------------------------

    def _take_message(self, message: Message) -> None:
        """Take in a message; one that is not understood changes nothing."""
        self._note_alive(self.children[message.sender])
        try:
            event = self._event(message)
        except (ZprlError, KeyError, TypeError, ValueError) as error:
            subject = f"a message of '{message.sender}' about '{message.topic}'"
            self.say(f"{subject} was not understood: {error}")
            return
        if event is not None:
            self._take_event(event)

    def _note_alive(self, child: SessionProcess) -> None:
        child.last_message_at = time.monotonic()
        if child.back:
            return
        child.back = True
        if child.name == "console":
            self._say_page()
        if child.replaces:
            self._handle(Restarted(child.name))

    def _take_event(self, event: Happening) -> None:
        """Hand an event to the machine; a press is answered at once."""
        self._handle(event)
        if not isinstance(event, InputEvent) or event.kind is Input.ESTOP:
            return
        if self.plan.answer(event.nonce, self.machine.refused):
            self._publish()

    def _say_page(self) -> None:
        try:
            link = page_link(self.settings.work)
            # A link logs in: it is for the terminal beside the robot, and for no log.
            shown = link if sys.stdout.isatty() else "run `zprl session page` for a link to it"
            self.say(f"operator's page: {shown}")
        except ZprlError as error:  # the session can go on without it
            self.say(f"operator's page: {error}")

    def _event(self, message: Message) -> Happening | None:
        """Return what a message means to the machine; ``None`` where it means nothing.

        Raises:
            ZprlError, KeyError, TypeError, ValueError: it is not understood.
        """
        match message.contents:
            case OperatorInput() as press:
                return self._press(press)
            case EpisodeCommitted(number=number):
                self.plan.committed(number)
                return Committed(number)
            case LabelStored() as stored:
                self.plan.labels.pop(stored.nonce, None)
                return Labelled(stored.episode, stored.nonce, stored.seq)
            case EpisodeLost(number=number):
                self.plan.commits.pop(number, None)
                return Lost(number)
            case WeightsVersion(version=version):
                return VersionAvailable(version)
            # A beat is repeated, so nothing depends on one message arriving.
            case Beat(version=version) if message.sender == "learner":
                return VersionAvailable(version)
            case Beat() if message.sender == "driver":
                return Ready()
            case EventMessage() as event if event.kind in NOTICES:
                return self._notice(event)
            case EventMessage() as event:
                return self._alarm(event, message.sender)
        return None

    def _press(self, press: OperatorInput) -> Happening | None:
        """Return the press; ``None`` where it is refused: it answers what is no more."""
        refusal = press.refusal(self.machine.seq, now())
        if not refusal:
            return press.as_event()
        if press.source == PEDAL:  # a person there sees no answer
            self.say(f"{press.kind} of the pedal is refused: {refusal}")
        self.plan.answer(press.nonce, refusal)
        return None

    def _notice(self, event: EventMessage) -> Happening | None:
        """Return what a notice of the driver means."""
        number = event.number
        match event.kind:
            case "ready":
                return Ready()
            case "homed":
                return Homed()
            case "time_out" if self._fails_by_time_out():
                return InputEvent(Input.FAILURE, f"time-out-{number}", "time-out", number)
            case "time_out":
                return TimeUp(number)
            case "episode_ended":
                return Stopped(number)
            case "estop":
                return EStop(event.reason)
        if event.recover != self.plan.recoveries:
            return None  # the answer to an older request
        return Recovered(event.kind == "recovered", event.reason)

    def _fails_by_time_out(self) -> bool:
        """Return whether the end of the time is a failure: an episode has no other label yet."""
        labelled = self.machine.open is not None and self.machine.open.label is not None
        return self.task.label.time_out == "failure" and not labelled

    def _alarm(self, message: EventMessage, sender: str) -> Happening | None:
        """Keep an event of the safety layer that changed anything; return the fault it means."""
        event = message.event()
        if event.level > Level.NOTE:
            row = {"time": time.time(), "from": sender, **message.body()}
            with open(self.settings.work / EVENTS, "a") as log:
                log.write(json.dumps(row) + "\n")

        if sender != "driver" and self.machine.state not in ACTING:
            return None  # the arm stands already
        if message.stops:
            return Fault(event.level.stop or StopLevel.SOFT, event.reason, event.recoverable)
        return None

    # -- from actions to the plan ------------------------------------------------------------------

    def _handle(self, event: Happening) -> None:
        """Hand an event to the machine and do what it decides; most of that changes the plan."""
        actions = self.machine.handle(event)
        for action in actions:
            match action:
                case Say(text):
                    self.say(text)
                case Finish():
                    self.finished = True
                case _:
                    self.plan.take(action)
        if actions:
            self._keep()
            self._publish()

    def _keep(self) -> None:
        self.progress_file.write(self.machine)

    def _publish(self) -> None:
        """Send the plan to all processes."""
        self._sent_at = time.monotonic()
        silent = self.group.silent()
        starting = f"waiting for {', '.join(silent)} to start" if silent else ""
        plan = self.plan.build(self.machine, self.conditions.digests, starting)
        self.bus.publish(plan)


def _changed_at(path: Path) -> int:
    """Return when a file was written last [ns]; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def plan_of(settings: Settings) -> tuple[Phase, ...]:
    """Return evaluation, training, evaluation; phases of no episodes are left out."""
    config = settings.config
    phases = (
        Phase(PhaseKind.EVALUATE_BEFORE, config.evaluate_episodes),
        Phase(PhaseKind.TRAIN, config.train_episodes, explore=True, learn=True),
        Phase(PhaseKind.EVALUATE_AFTER, config.evaluate_episodes),
    )
    return tuple(phase for phase in phases if phase.episodes)
