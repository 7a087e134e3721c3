"""The supervisor: spawns the session's processes, watches them, and carries out what the state machine says.  It imports no driver.

What it wants of the others stands in one message, the plan, that is sent again and again: a process
that was restarted knows within a tenth of a second where the session is, and doing something twice
is the same as doing it once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zprl import child_processes, durable
from zprl.errors import DataError, EnvironmentProblem, Interrupted, ZprlError
from zprl.recordings import conditions
from zprl.recordings.store import LIMITS, SessionStore
from zprl.robot.base import StopLevel
from zprl.robot.events import Event, Level
from zprl.session import state_machine as m
from zprl.session.bus import Bus, Message
from zprl.session.camera_history import ring_name
from zprl.session.chunk_policy import SIM_WEIGHTS_VERSION
from zprl.session.clock import now
from zprl.session.events import CONFIRM_CELL
from zprl.session.inputs import PEDAL, OperatorInput
from zprl.session.process import Settings
from zprl.session.processes.console import listen
from zprl.session.processes.console.access import page_link

PLAN_S = 0.1
FROZEN_S = 20.0
"""Silence after which a process that is alive counts as frozen and is replaced."""
BEGINNING_S = 300.0
"""The same for one that has not begun to speak: a busy machine takes its time to load libraries."""
RESTARTS, RESTART_WINDOW_S = 6, 60.0
STOP_S = 8.0
TOPICS = {
    "driver": ["event", "state", "input", "beat"],
    "actor": ["event", "beat"],
    "learner": ["weights", "learning", "beat"],
    "recorder": ["committed", "labelled", "lost", "beat"],
    "console": ["input", "beat"],
    "hand": ["input", "beat"],
    "scripted": ["input", "beat"],
}
PROGRESS, EVENTS = "progress.json", "events.jsonl"
ACTING = (m.State.RUNNING, m.State.INTERVENTION, m.State.STOPPING)
ANSWERS, ANSWER_S = 100, 5.0
"""How many presses are answered in the plan, and for how long [s]: 30 at once and 10 a second from
each page at most."""
LAST = "driver"
CAMERA = "camera-"


class Kept(BaseModel):
    """What the supervisor keeps of a session beside its episodes and labels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    last_number: int = Field(0, ge=0, le=999_999)
    final: int | None = Field(None, ge=0)
    estopped: bool = False


@dataclass
class SessionProcess:
    """One process of the session."""

    name: str
    process: subprocess.Popen[bytes]
    heard: float
    back: bool = False
    replaces: bool = False
    """Whether another of its name ran before it."""
    tightened: bool = False
    """Whether it was asked to end, to start again with tighter limits."""
    starts: deque[float] = field(default_factory=deque)


class Supervisor:
    """See the module.

    Args:
        settings: What every child is told.
        names: Processes to run; ``scripted`` on doubles only.
        say: Receives sentences for whoever watches.
        stopping: True once the session is to stop; it can be resumed.
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
        self.names = (*names, *(CAMERA + camera for camera in self.task.images))
        self.store = SessionStore.open(settings.session)
        self._check_last_episode()
        self.machine = m.Machine(
            plan_of(settings),
            self._progress(),
            mode=settings.config.mode,
            recoveries=self.conditions.limits.recoveries,
            confirm="" if settings.twin is not None else CONFIRM_CELL,
        )
        self.bus = Bus(
            settings.sockets, "supervisor", {name: TOPICS[name] for name in names if name in TOPICS}
        )
        self.children: dict[str, SessionProcess] = {}
        self.counter = {"recover": 0, "stop": 0}
        self.stop_level = int(StopLevel.HOLD)
        self.current: dict[str, Any] = {
            "number": 0,
            "start_number": 0,
            "evaluation": True,
            "explore": False,
            "weights": SIM_WEIGHTS_VERSION,
            "kind": "",
        }
        self.reset: dict[str, Any] | None = None
        self.commits: dict[int, m.StoreLabel | None] = {}
        self.labels: dict[str, m.StoreLabel] = {}
        self.discards: deque[int] = deque(maxlen=50)
        self.answers: deque[dict[str, Any]] = deque(maxlen=ANSWERS)
        self.recover_at = 0.0
        self.prompt = ""
        self.finished = False
        self._sent = 0.0

    def _check_last_episode(self) -> None:
        """Refuse to go on under limits that are looser than those of the last episode.

        Raises:
            DataError: the list of changes has lost some.
        """
        numbers = self.store.numbers()
        known = {self.store.digests[LIMITS], *self.conditions.history}
        if numbers and self.store.episode(numbers[-1]).facts.limits_digest not in known:
            raise DataError(
                f"the last episode was recorded under limits that {conditions.TIGHTENED} does not know",
                remedy=f"restore {self.settings.session / conditions.TIGHTENED} from a copy",
            )

    def _progress(self) -> m.Progress:
        """What is on disk of this session."""
        self.kept = kept = self._kept()
        labels = self.store.labels.current()
        kinds = {e.number: m.PhaseKind(e.phase) for e in self.store.episodes()}
        known = [
            m.Known(
                e.number,
                kinds[e.number],
                e.start_number,
                m.Label(labels[e.number]) if e.number in labels else None,
            )
            for e in self.store.episodes()
        ]
        lines = self.store.labels.in_order()
        training = [line.seq for line in lines if kinds.get(line.episode) is m.PhaseKind.TRAIN]
        return m.Progress(
            episodes=tuple(known),
            last_number=kept.last_number,
            training_labels=max(training, default=0),
            nonces=frozenset(line.nonce for line in lines),
            final=kept.final,
            estopped=kept.estopped,
        )

    def _kept(self) -> Kept:
        """Read what the last run kept; a file that nobody can understand may have held a pressed e-stop."""
        path = self.settings.work / PROGRESS
        if not os.path.lexists(path):
            return Kept()
        try:
            return Kept.model_validate(durable.read_json(path))
        except (DataError, ValidationError):
            self.say(f"{path} is damaged: the session starts with the e-stop pressed")
            return Kept(estopped=True)

    def _keep(self) -> None:
        value = Kept(
            last_number=self.machine.last_number,
            final=self.machine.final,
            estopped=self.machine.estopped is not None,
        )
        if value != self.kept:
            durable.write_json(self.settings.work / PROGRESS, value.model_dump())
            self.kept = value

    # -- processes ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the plan is done.

        Raises:
            Interrupted: asked to stop; running again continues.
            EnvironmentProblem: a process does not stay alive.
        """
        page = (
            listen.open_for(self.settings) if "console" in self.names else None
        )  # held to the end: the port is never free
        self.settings = self.settings.model_copy(update={"console_fd": page and page.fileno()})
        self._write_settings()
        try:
            # The driver comes last: a robot that is in control takes processor time at the highest
            # priority.
            for name in self.names:
                if name != LAST:
                    self._spawn(name)
            while not self.finished:
                if LAST not in self.children and all(
                    child.back or n.startswith(CAMERA) for n, child in self.children.items()
                ):
                    self._spawn(LAST)
                for message in self.bus.poll(0.01):
                    self._hear(message)
                self._watch()
                self._watch_limits()
                self._do(self.machine.handle(m.Tick(time.monotonic())))
                if time.monotonic() - self._sent > PLAN_S:
                    self._publish()
                if self.stopping():
                    raise Interrupted(
                        "the session stopped on request",
                        remedy="run the same command again to continue",
                    )
        finally:
            self._end()
            if page is not None:
                page.close()

    def _write_settings(self) -> None:
        durable.write_json(
            self.settings.work / "settings.json", self.settings.model_dump(mode="json")
        )

    def _watch_limits(self) -> None:
        """Take limits that were tightened meanwhile into force; whatever else became of the files changes nothing."""
        if (at := _changed_at(self.settings.session / conditions.TIGHTENED)) == self.tightened_at:
            return
        self.tightened_at = at
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
        for name in ("driver", "actor"):
            if name in self.children:
                self.children[name].starts.clear()  # it has not failed
                self.children[name].tightened = True
                self.children[name].process.terminate()

    def _spawn(self, name: str) -> None:
        begun = time.monotonic()
        child = self.children.get(name)
        starts = child.starts if child else deque(maxlen=RESTARTS)
        if len(starts) == RESTARTS and begun - starts[0] < RESTART_WINDOW_S:
            raise EnvironmentProblem(
                f"process '{name}' ended {RESTARTS} times within {RESTART_WINDOW_S:.0f} s: {self._last_words(name)}",
                remedy=f"read {self._log(name)}; the same command continues",
            )
        starts.append(begun)
        env = child_processes.environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
        with open(self._log(name), "ab") as log:
            process = subprocess.Popen(
                child_processes.python("-m", *self._command(name)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
                pass_fds=[self.settings.console_fd] if name == "console" else [],
            )
        self.children[name] = SessionProcess(
            name, process, begun, replaces=child is not None, starts=starts
        )

    def _command(self, name: str) -> list[str]:
        """Module and arguments of a process."""
        if name.startswith(CAMERA):
            camera = name.removeprefix(CAMERA)
            spec = self.task.senses[camera]
            sense = (self.settings.twin and spec.double) or spec
            config = sense.config | (
                {"twin": str(self.settings.twin)} if sense.kind.startswith("twin") else {}
            )
            ring = ring_name(self.settings.rings, camera)
            return [
                "zprl.robot.sensors.shared_memory_ring",
                "--ring",
                ring,
                "--kind",
                sense.kind,
                "--config",
                json.dumps(config),
            ]
        module = (
            "zprl.session.processes.console.process"
            if name == "console"
            else f"zprl.session.{name}"
        )
        return [module, str(self.settings.work / "settings.json"), str(os.getpid())]

    def _log(self, name: str) -> Path:
        return self.settings.work / f"{name}.log"

    def _last_words(self, name: str) -> str:
        try:
            lines = self._log(name).read_text(errors="replace").splitlines()
            return [line for line in lines if line.strip() and not line.startswith("  remedy:")][
                -1
            ][:300]
        except (OSError, IndexError):
            return "no last words"

    def _watch(self) -> None:
        """Replace what died or froze."""
        for name, child in list(self.children.items()):
            speaks = not name.startswith(
                CAMERA
            )  # a camera is heard through its pictures: the actor refuses old ones
            if speaks and time.monotonic() - child.heard > (
                FROZEN_S if child.back else BEGINNING_S
            ):
                child.process.kill()
                child.process.wait()
            if child.process.poll() is not None:
                ended = f"ended ({child.process.returncode}): {self._last_words(name)}"
                known = "starts again with the tightened limits"
                self.say(f"process '{name}' {known if child.tightened else ended}")
                for (
                    message
                ) in self.bus.poll():  # the dead one's last messages are not its successor's first
                    self._hear(message)
                if speaks:
                    self._do(self.machine.handle(m.Died(name)))
                self._spawn(name)

    def _end(self) -> None:
        """End all children: politely, then not."""
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_S
        for child in self.children.values():
            try:
                child.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.bus.close()

    # -- from messages to events -------------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        child = self.children[message.sender]
        child.heard = time.monotonic()
        if not child.back:
            child.back = True
            if child.name == "console":
                self._say_page()
            if child.replaces:
                self._do(self.machine.handle(m.Restarted(child.name)))
        try:
            event = self._event(message)
        except (ZprlError, KeyError, TypeError, ValueError) as error:
            self.say(
                f"a message of '{message.sender}' about '{message.topic}' was not understood: {error}"
            )
            return
        if event is not None:
            self._do(self.machine.handle(event))
        answered = isinstance(event, m.OperatorInput) and event.kind is not m.Input.ESTOP
        if answered and self._answer(event.nonce, self.machine.refused):
            self._publish()

    def _say_page(self) -> None:
        try:
            link = page_link(self.settings.work)
            # A link logs in: it belongs into the terminal beside the robot, and into no log.
            seen = link if sys.stdout.isatty() else "run `zprl session page` for a link to it"
            self.say(f"operator's page: {seen}")
        except ZprlError as error:  # the session can go on without it
            self.say(f"operator's page: {error}")

    def _event(self, message: Message) -> m.Happening | None:
        body = message.body
        match message.topic:
            case "input":
                return self._press(body)
            case "committed":
                label = self.commits.pop(int(body["number"]), None)
                if label is not None:
                    self.labels[label.nonce] = label
                return m.Committed(int(body["number"]))
            case "labelled":
                self.labels.pop(str(body["nonce"]), None)
                return m.Labelled(int(body["episode"]), str(body["nonce"]), int(body["seq"]))
            case "lost":
                self.commits.pop(int(body["number"]), None)
                return m.Lost(int(body["number"]))
            case "weights":
                return m.VersionAvailable(int(body["version"]))
            case "beat":
                return self._beat(message)
            case "event":
                return self._told(message.sender, body)
        return None

    def _press(self, body: dict[str, Any]) -> m.Happening | None:
        """Return the press, or ``None`` where it is refused because it answers what is no more."""
        press = OperatorInput.model_validate(body)
        refusal = press.refusal(self.machine.seq, now())
        if not refusal:
            return press.as_event()
        if press.source == PEDAL:  # who presses there sees no answer
            self.say(f"{press.kind} of the pedal is refused: {refusal}")
        self._answer(press.nonce, refusal)
        return None

    def _answer(self, nonce: str, refusal: str = "") -> bool:
        """Answer a press in the plan; return False for one that was answered already."""
        if any(answer["nonce"] == nonce for answer in self.answers):
            return False
        self.answers.append({"nonce": nonce, "refusal": refusal, "at": now()})
        return True

    def _beat(self, message: Message) -> m.Happening | None:
        """What a heartbeat says besides: it is repeated, so nothing depends on one message arriving."""
        if message.sender == "learner":
            return m.VersionAvailable(int(message.body["version"]))
        return m.Ready() if message.sender == "driver" else None

    def _told(self, sender: str, body: dict[str, Any]) -> m.Happening | None:
        """What an event of the driver or the actor means; those that changed anything are kept for people to read."""
        number = int(body.get("number", 0))
        match body["kind"]:
            case "ready":
                return m.Ready()
            case "homed":
                return m.Homed()
            case "time_out" if self.task.label.time_out == "failure" and not (
                self.machine.open and self.machine.open.label
            ):
                return m.OperatorInput(m.Input.FAILURE, f"time-out-{number}", "time-out", number)
            case "time_out":
                return m.TimeUp(number)
            case "episode_ended":
                return m.Stopped(number)
            case "recovered" | "recovery_refused" if (
                int(body["recover"]) != self.counter["recover"]
            ):
                return None  # the answer to an older request
            case "recovered" | "recovery_refused":
                return m.Recovered(body["kind"] == "recovered", str(body["reason"]))
            case "estop":
                return m.EStop(str(body["reason"]))
        event = Event.from_dict(body)
        if event.level > Level.NOTE:
            with open(self.settings.work / EVENTS, "a") as log:
                log.write(json.dumps({"time": time.time(), "from": sender, **body}) + "\n")
        if sender != "driver" and self.machine.state not in ACTING:
            return None  # it stands already
        if body.get("fault", event.level >= Level.SOFT_STOP):
            return m.Fault(event.level.stop or StopLevel.SOFT, event.reason, event.recoverable)
        return None

    def _starting(self) -> str:
        """Which processes have not been heard of yet."""
        silent = [
            name
            for name, child in self.children.items()
            if not (child.back or name.startswith(CAMERA))
        ]
        return f"waiting for {', '.join(silent)} to start" if silent else ""

    # -- from actions to the plan ------------------------------------------------------------------

    def _do(self, actions: list[m.Action]) -> None:
        for action in actions:
            match action:
                case m.AskReset(episode, kind, start_number):
                    self.reset = {
                        "episode": episode,
                        "evaluation": kind.evaluation,
                        "start_number": start_number,
                    }
                    self.prompt = self.task.reset
                case m.StartEpisode(number, phase, start_number, version):
                    simulated = phase.kind is m.PhaseKind.EVALUATE_BEFORE
                    self.reset = None
                    self.current = {
                        "number": number,
                        "start_number": start_number,
                        "evaluation": phase.kind.evaluation,
                        "explore": phase.explore,
                        "weights": SIM_WEIGHTS_VERSION if simulated else version,
                        "kind": str(phase.kind),
                    }
                    self.prompt = self.task.label.rule
                case m.Stop(level):
                    self.counter["stop"] += 1
                    self.stop_level = int(level)
                case m.Recover():
                    self.counter["recover"] += 1
                    self.recover_at = now()
                case m.StoreLabel():
                    self.labels[action.nonce] = action
                case m.CommitEpisode(number, label):
                    self.commits[number] = label
                case m.Discard(number):
                    self.discards.append(number)
                case m.AskLabel(episode):
                    self.prompt = f"What was episode {episode} worth? {self.task.label.rule}"
                case m.WaitForWeights(version):
                    self.prompt = f"waiting for the learner (version {version})"
                case m.Say(text):
                    self.say(text)
                case m.Finish():
                    self.finished = True
        if actions:
            self._keep()
            self._publish()

    def _publish(self) -> None:
        """Tell everybody where the session is."""
        self._sent = time.monotonic()
        plan = {
            "seq": self.machine.seq,
            "at": now(),
            "digests": self.conditions.digests,
            "reason": self.machine.reason,
            "answers": [answer for answer in self.answers if now() - answer["at"] < ANSWER_S],
            "recover_at": self.recover_at,
            "behind": self.machine.behind,
            "held": self.machine.held,
            "state": str(self.machine.state),
            "mode": self.settings.config.mode,
            **self.current,
            **self.counter,
            "stop_level": self.stop_level,
            "reset": self.reset if self.machine.state is m.State.AWAIT_RESET else None,
            "commit": [
                {"number": n, "label": _line(label) if label else None}
                for n, label in sorted(self.commits.items())
            ],
            "labels": [_line(label) for label in self.labels.values()],
            "discard": list(self.discards),
            "pending": self.machine.pending,
            "prompt": self.prompt or self._starting(),
            "next": self.machine.number,
            "paused": self.machine.paused,
        }
        self.bus.publish("plan", plan)


def _changed_at(path: Path) -> int:
    """Return when a file was written last [ns]; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _line(label: m.StoreLabel) -> dict[str, Any]:
    return {
        "episode": label.episode,
        "label": str(label.label),
        "source": label.source,
        "nonce": label.nonce,
        "author": label.author,
    }


def plan_of(settings: Settings) -> tuple[m.Phase, ...]:
    """Evaluation, training, evaluation; phases of no episodes are left out."""
    config = settings.config
    phases = (
        m.Phase(m.PhaseKind.EVALUATE_BEFORE, config.evaluate_episodes),
        m.Phase(m.PhaseKind.TRAIN, config.train_episodes, explore=True, learn=True),
        m.Phase(m.PhaseKind.EVALUATE_AFTER, config.evaluate_episodes),
    )
    return tuple(phase for phase in phases if phase.episodes)
