"""The session's state machine: pure, no I/O, no clock of its own.

Events go in, actions come out; the supervisor carries the actions out and tells what came of them.
What must survive a crash is on disk: a machine made from what is committed there
(:class:`Progress`) goes on where the last one was.

Choices that are not obvious:

- ``pause`` lets a running episode go on to its end (``estop`` is for stopping it) and interrupts homing.
- In ``async`` mode a training episode that ends without a label is committed at once and its label asked for while the session
  goes on; evaluations, and everything in ``sync`` mode, wait for the label before they commit.
- A phase is complete when so many of its episodes are labelled success or failure; a discarded one is repeated from the same
  start.  Phases never go back: an episode discarded after the next phase has begun is not repeated.
- ``evaluate_after`` waits for the weights that know every label given before its first episode, and names that version in all its episodes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from zprl.errors import ConfigError
from zprl.robot.base import StopLevel
from zprl.robot.limits import Recoveries, RecoveryBudget
from zprl.session.events import (
    LABELS,
    Action,
    AskLabel,
    AskReset,
    BeginIntervention,
    CommitEpisode,
    Committed,
    CommittedEpisode,
    Died,
    Discard,
    EndEpisode,
    EndIntervention,
    EStop,
    Fault,
    Finish,
    GoHome,
    Happening,
    Homed,
    Input,
    InputEvent,
    Label,
    Labelled,
    Lost,
    Phase,
    PhaseKind,
    Progress,
    Ready,
    Recover,
    Recovered,
    Restarted,
    Say,
    StartEpisode,
    State,
    Stop,
    Stopped,
    StoreLabel,
    Tick,
    TimeUp,
    VersionAvailable,
    WaitForWeights,
)

BYSTANDERS = frozenset({"learner", "console"})
"""Processes whose death stops no episode."""
REMEMBERED = 4096
"""Newest presses whose nonce is remembered: presses expire long before so many others have come."""


@dataclass
class _Open:
    """The episode that is not committed yet."""

    number: int
    phase: Phase
    start_number: int
    ended: bool = False
    label: StoreLabel | None = None
    committing: bool = False
    asked: bool = False
    later: list[StoreLabel] = field(default_factory=list)
    """Corrections that came while it was being committed."""


@dataclass
class _Fault:
    """Why nothing moves.  ``person``: only the operator can clear it.  ``recovering``: an answer is awaited."""

    reason: str
    person: bool
    recovering: bool = False


class Machine:
    """See the module.

    Args:
        plan: Phases, in order.
        progress: What is committed.
        mode: ``async``: the session goes on while the learner and the labels catch up; ``sync``: it
            waits for both (the authors' loop).
        interrupted: What becomes of an episode that a fault, an e-stop or a dead process
            interrupts.
        recoveries: How many times a robot may be recovered without asking a person.
        confirm: What a person must confirm, by ``clear``, before anything moves; empty: nothing.

    Raises:
        ConfigError: an impossible plan.
    """

    def __init__(
        self,
        plan: tuple[Phase, ...],
        progress: Progress | None = None,
        *,
        mode: Literal["async", "sync"] = "async",
        interrupted: Literal["discard", "label"] = "discard",
        recoveries: Recoveries | None = None,
        confirm: str = "",
    ) -> None:
        kinds = [phase.kind for phase in plan]
        if (
            not plan
            or any(phase.episodes < 0 for phase in plan)
            or kinds != [kind for kind in PhaseKind if kind in kinds]
        ):
            raise ConfigError(
                "a plan has each kind of phase at most once, in the order before, train, after",
                remedy="correct the plan",
            )
        progress = progress or Progress()
        self.plan, self.mode, self.interrupted = plan, mode, interrupted
        self.state = State.IDLE
        self.episodes: dict[int, CommittedEpisode] = {
            known.number: known for known in progress.episodes
        }
        self.open: _Open | None = None
        self.paused = False
        self.estopped: str | None = "the last run" if progress.estopped else None
        self.fault: _Fault | None = _Fault(confirm, person=True) if confirm else None
        self.refused = ""
        """Why the last press had no effect; empty when it had one."""
        self.seq = 0
        """Number of the present situation: a press answers exactly one."""
        self.dead: set[str] = set()
        self.now = 0.0
        self._budget = RecoveryBudget(recoveries or Recoveries())
        self._last_number = max([progress.last_number, *self.episodes])
        self._training_labels = progress.training_labels
        self._journaled = progress.nonces
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._in_flight: dict[str, StoreLabel] = {}  # labels the recorder has not confirmed
        self._asked: set[int] = set()
        self._ready = self._reset_done = False
        self._version = 0
        self._waiting: int | None = None
        self._final = progress.final
        self._asked_reset: AskReset | None = None
        self._actions: list[Action] = []
        self._situation: tuple[object, ...] = ()
        self._stops = 0

    # -- what others may want to know --------------------------------------------------------------

    @property
    def number(self) -> int:
        """The open episode, or the next one."""
        return self.open.number if self.open else self._last_number + 1

    @property
    def last_number(self) -> int:
        """The highest number ever given to an episode; keep it for :class:`Progress`."""
        return self._last_number

    @property
    def final(self) -> int | None:
        """The version that ``evaluate_after`` judges, once known; keep it for :class:`Progress`."""
        return self._final

    @property
    def pending(self) -> list[int]:
        """Committed episodes that wait for a label, oldest first."""
        return sorted(n for n, known in self.episodes.items() if known.label is None)

    @property
    def phase(self) -> Phase | None:
        """The phase of the open or the next episode; ``None`` when the plan is done."""
        if self.open:
            return self.open.phase
        begun = [
            i
            for i, phase in enumerate(self.plan)
            if any(known.kind is phase.kind for known in self.episodes.values())
        ]
        for phase in self.plan[max(begun, default=0) :]:
            if self._count(phase, pending=False) < phase.episodes:
                return phase
        return None

    @property
    def wanted(self) -> int | None:
        """The labels that the weights of the next episode must know; ``None``: any weights will do."""
        phase = self.phase
        if (
            phase is None
            or phase.kind is PhaseKind.EVALUATE_BEFORE
            or (phase.kind is PhaseKind.TRAIN and self.mode == "async")
        ):
            return None
        return (
            self._final
            if phase.kind is PhaseKind.EVALUATE_AFTER and self._final is not None
            else self._training_labels
        )

    @property
    def behind(self) -> bool:
        """True while the learner has not caught up with the labels that the next episode's weights must know."""
        wanted = self.wanted
        return wanted is not None and (bool(self._in_flight) or self._version < wanted)

    @property
    def held(self) -> bool:
        """True while only a person can let the arm go on: nobody takes control of it before."""
        return self.estopped is not None or (
            self.fault is not None and self.fault.person and not self.fault.recovering
        )

    @property
    def reason(self) -> str:
        """Return what blocks motion; empty where nothing does."""
        if self.estopped is not None:
            return f"e-stop pressed ({self.estopped})"
        return self.fault.reason if self.fault is not None else ""

    def tighten(self, recoveries: Recoveries) -> None:
        """Put a tighter budget of automatic recoveries in force; what was spent stays spent."""
        self._budget.recoveries = recoveries

    def _count(self, phase: Phase, *, pending: bool) -> int:
        good = (Label.SUCCESS, Label.FAILURE, None) if pending else (Label.SUCCESS, Label.FAILURE)
        return sum(
            known.kind is phase.kind and known.label in good for known in self.episodes.values()
        )

    # -- events ------------------------------------------------------------------------------------

    def handle(self, event: Happening) -> list[Action]:
        """Take in one event; returns what to do about it, in order."""
        self._actions, self.refused = [], ""
        match event:
            case Tick(now):
                self.now = max(self.now, now)
            case InputEvent():
                self._input(event)
            case Ready():
                self._ready = True
            case Homed() if self.state is State.HOMING:
                self.state = State.AWAIT_RESET
            case TimeUp(episode) if self._acting(episode):
                self._to(State.STOPPING, EndEpisode(episode))
            case Stopped(episode) if self._acting(episode) or (
                self.state is State.STOPPING and self._is_open(episode)
            ):
                self.open.ended = True
                self.state = State.IDLE
            case Fault(level, reason, recoverable):
                self._fail(level, reason, person=not recoverable)
            case EStop(source):
                self._estop(source)
            case Recovered(ok, reason) if (
                self.fault and self.fault.recovering and self.estopped is None
            ):
                self._recovered(ok, reason)
            case Committed(episode) if self._is_open(episode) and self.open.committing:
                self._committed()
            case Lost(episode) if self._is_open(episode) and self.open.ended:
                self._say(f"the recording of episode {episode} is lost: it will be repeated")
                self._drop()
            case Labelled(_, nonce, seq):
                self._labelled(nonce, seq)
            case VersionAvailable(version):
                self._version = max(self._version, version)
            case Died(process):
                self._died(process)
            case Restarted(process):
                self._restarted(process)
        self._advance()
        self._number_situation()
        return self._actions

    def _number_situation(self) -> None:
        """Increment ``seq`` when anything has changed that a press could answer."""
        person = self.fault is not None and self.fault.person
        situation = (
            self.state,
            self.number,
            self.paused,
            *self.pending,
            self.behind,
            self.reason,
            person,
            self._stops,
        )
        if situation != self._situation:
            self._situation = situation
            self.seq += 1

    def _is_open(self, episode: int | None) -> bool:
        return self.open is not None and self.open.number == episode

    def _acting(self, episode: int | None) -> bool:
        return self.state in (State.RUNNING, State.INTERVENTION) and self._is_open(episode)

    def _to(self, state: State, *actions: Action) -> None:
        self.state = state
        self._actions += actions

    def _say(self, text: str) -> None:
        self._actions.append(Say(text))

    def _refuse(self, text: str) -> None:
        self.refused = text
        self._say(text)

    # -- the operator ------------------------------------------------------------------------------

    def _input(self, event: InputEvent) -> None:
        if (
            event.kind is Input.ESTOP
        ):  # before anything else: a stop is never taken for a repetition
            self._estop(event.source)
            return
        if event.nonce in self._nonces or event.nonce in self._journaled:
            return

        self._nonces[event.nonce] = None
        if len(self._nonces) > REMEMBERED:
            self._nonces.popitem(last=False)

        if event.kind in LABELS:
            self._label(event)
        else:
            self._request(event)
        if self.refused:  # it has had no effect, so it may be pressed again
            del self._nonces[event.nonce]

    def _request(self, event: InputEvent) -> None:
        """Take in a press that is no label."""
        match event.kind:
            case Input.RESET_DONE if self.state is not State.AWAIT_RESET or event.episode not in (
                None,
                self.number,
            ):
                self._refuse(
                    f"reset_done is not awaited now (state {self.state}, episode {self.number})"
                )
            case Input.RESET_DONE if (
                self.behind
            ):  # the arm moves when this is pressed, not minutes later
                self._refuse("the learner is still busy: press again when it is ready")
            case Input.RESET_DONE:
                self._reset_done = True
            case Input.PAUSE:
                self._pause()
            case Input.RESUME:
                self.paused = False
            case Input.INTERVENE if self.state is State.RUNNING and event.episode in (
                None,
                self.number,
            ):
                self._to(State.INTERVENTION, BeginIntervention(self.number))
            case Input.RELEASE if self.state is State.INTERVENTION:
                self._to(State.RUNNING, EndIntervention(self.number))
            case Input.CLEAR:
                self._clear()
            case _:
                self._refuse(f"{event.kind} means nothing in state {self.state}")

    def _label(self, event: InputEvent) -> None:
        if event.episode is None:
            self._refuse(f"{event.kind}: no episode is named")
            return
        line = StoreLabel(
            event.episode, LABELS[event.kind], event.source, event.nonce, event.author
        )
        if self._is_open(event.episode):
            if self.open.committing:
                self.open.later.append(line)
                return
            self.open.label = line
            if self._acting(event.episode):
                self._to(State.STOPPING, EndEpisode(event.episode))
        elif event.episode in self.episodes:
            self._correct(line)
        else:
            known = "was discarded" if 0 < event.episode <= self._last_number else "does not exist"
            self._refuse(f"{event.kind} is refused: episode {event.episode} {known}")

    def _correct(self, line: StoreLabel) -> None:
        """A label for a committed episode: its first, or one that supersedes."""
        known = self.episodes[line.episode]
        if known.label is line.label:  # a second click
            return
        self.episodes[line.episode] = CommittedEpisode(
            known.number, known.kind, known.start_number, line.label
        )
        self._in_flight[line.nonce] = line
        self._actions.append(line)
        if known.label is not None:
            self._say(
                f"the label of episode {line.episode} is {line.label} now; it was {known.label}"
            )

    def _pause(self) -> None:
        self.paused = True
        if self.open:
            self._say(
                f"the session pauses after episode {self.open.number}; press e-stop to stop the arm now"
            )
        elif self.state is State.HOMING:
            self._to(State.IDLE, Stop(StopLevel.HOLD))

    def _clear(self) -> None:
        if self.dead - BYSTANDERS or not self._ready:
            self._refuse(
                f"cannot clear: waiting for {', '.join(sorted(self.dead - BYSTANDERS)) or 'driver'} to come back"
            )
        elif self.estopped is not None or self.fault is not None:
            self.fault = _Fault(self.reason, person=True, recovering=True)
            self.estopped = None
            self._to(State.FAULT, Recover())
        else:
            self._refuse("there is nothing to clear")

    # -- stops -------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Whatever was going on has ended; an episode that had not is discarded, or labelled where the session wants that."""
        self._forget_reset()
        if self.open and not self.open.ended:
            if self.interrupted == "label":
                self.open.ended = True
            else:
                self._say(
                    f"episode {self.open.number} was interrupted: it is discarded and repeated"
                )
                self._drop()

    def _forget_reset(self) -> None:
        """The scene must be put in order again before an episode begins."""
        self._reset_done, self._asked_reset, self._waiting = False, None, None

    def _drop(self) -> None:
        self._actions.append(Discard(self.open.number))
        self.open = None
        if self.state in (
            State.COMMIT,
            State.AWAIT_LABEL,
            State.RUNNING,
            State.INTERVENTION,
            State.STOPPING,
        ):
            self.state = State.IDLE

    def _estop(self, source: str) -> None:
        self._stops += (
            1  # also of one that is latched: a `clear` for the situation before it is refused
        )
        if self.estopped is not None and self.state is State.ESTOP:  # latched already
            return
        self._actions.append(Stop(StopLevel.HARD))
        self._interrupt()
        self.estopped, self.fault = source, None
        self._to(State.ESTOP, Say(f"e-stop pressed ({source}): press clear when it is safe"))

    def _fail(self, level: StopLevel, reason: str, *, person: bool) -> None:
        self._actions.append(Stop(level))
        self._interrupt()
        if self.estopped is None:
            person = person or (self.fault is not None and self.fault.person)
            self.fault = _Fault(reason, person)
            self._to(
                State.FAULT, Say(f"{reason}: press clear when it is safe" if person else reason)
            )

    def _died(self, process: str) -> None:
        if process in self.dead:
            return
        self.dead.add(process)
        if process in BYSTANDERS:
            self._say(f"{process} is down; the session goes on")
            return
        if process == "driver":
            self._ready = False
        self._fail(StopLevel.SOFT, f"{process} is down", person=False)
        if process == "recorder" and self.open and not self.open.committing:
            self._say(f"the recording of episode {self.open.number} is lost: it will be repeated")
            self._drop()

    def _restarted(self, process: str) -> None:
        self.dead.discard(process)
        if process == "recorder":
            self._actions += [
                line for line in self._in_flight.values() if line.episode in self.episodes
            ]

    def _recovered(self, ok: bool, reason: str) -> None:
        if ok:
            self.fault = None
            self.state = State.IDLE
        else:
            self.fault = _Fault(reason or self.fault.reason, person=True)
            self._say(
                f"the robot did not recover ({self.fault.reason}): look at it, then press clear"
            )

    def _try_recovery(self) -> None:
        fault = self.fault
        if fault.person or fault.recovering or self.dead - BYSTANDERS or not self._ready:
            return
        if self._budget.may_recover(self.now):
            self._budget.spend(self.now)
            fault.recovering = True
            self._actions.append(Recover())
        else:
            fault.person = True
            self._say(f"{fault.reason}: too many recoveries in a row, press clear when it is safe")

    # -- the recorder ------------------------------------------------------------------------------

    def _committed(self) -> None:
        done, self.open = self.open, None
        self.episodes[done.number] = CommittedEpisode(
            done.number,
            done.phase.kind,
            done.start_number,
            done.label.label if done.label else None,
        )
        if done.label:
            self._in_flight[done.label.nonce] = done.label
        for line in done.later:
            self._correct(line)
        if self.state is State.COMMIT:
            self.state = State.IDLE

    def _labelled(self, nonce: str, seq: int) -> None:
        line = self._in_flight.pop(nonce, None)
        if line is None:
            return
        if self.episodes[line.episode].kind is PhaseKind.TRAIN:
            self._training_labels = max(self._training_labels, seq)

    # -- what comes next ---------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go as far as possible without another event."""
        if self.estopped is not None:
            self.state = State.ESTOP
        elif self.fault is not None:
            self.state = State.FAULT
            self._try_recovery()
        elif self.state in (State.RUNNING, State.INTERVENTION, State.STOPPING, State.HOMING):
            return
        elif self.open:
            self._route()
        elif self._blocked():
            self._forget_reset()
        elif self.state is State.AWAIT_RESET:
            self._start()
        else:
            self._to(State.HOMING, GoHome())

    def _route(self) -> None:
        """The open episode has ended: on to its label, to the disk, or away."""
        episode = self.open
        if episode.committing:
            self.state = State.COMMIT
        elif episode.label and episode.label.label is Label.DISCARD:
            self._drop()
            self._advance()
        elif episode.label or (episode.phase.kind is PhaseKind.TRAIN and self.mode == "async"):
            episode.committing = True
            self._to(State.COMMIT, CommitEpisode(episode.number, episode.label))
        else:
            self.state = State.AWAIT_LABEL
            if not episode.asked:
                episode.asked = True
                self._actions.append(AskLabel(episode.number))

    def _blocked(self) -> bool:
        """Whether no episode can begin now; says why, and asks for the labels that are missing."""
        for number in self.pending:
            if number not in self._asked:
                self._asked.add(number)
                self._actions.append(AskLabel(number))
        phase = self.phase
        if phase is None:
            if self.pending:
                self.state = State.AWAIT_LABEL
            elif self._in_flight:
                self.state = State.COMMIT
            elif self.state is not State.DONE:
                self._to(State.DONE, Finish())
            return True
        if self.paused:
            self.state = State.PAUSED
            return True
        if not self._ready:
            self.state = State.IDLE
            return True
        if (self.pending and (phase.kind.evaluation or self.mode == "sync")) or self._count(
            phase, pending=True
        ) >= phase.episodes:
            self.state = State.AWAIT_LABEL
            return True
        return False

    def _start(self) -> None:
        """Start the next episode once the scene is in order and the weights are there."""
        phase = self.phase
        taken = {
            known.start_number
            for known in self.episodes.values()
            if known.kind is phase.kind and known.label is not Label.DISCARD
        }
        asked = self._asked_reset
        if (
            asked is None or asked.kind is not phase.kind or asked.start_number in taken
        ):  # a late label may have changed what comes next
            self._forget_reset()
            self._asked_reset = asked = AskReset(
                self.number, phase.kind, next(n for n in range(len(taken) + 1) if n not in taken)
            )
            self._actions.append(asked)
        wanted = self.wanted
        if self.behind:
            if self._waiting != wanted:
                self._waiting = wanted
                self._actions.append(WaitForWeights(wanted))
            return
        if not self._reset_done:
            return
        if phase.kind is PhaseKind.EVALUATE_AFTER:
            self._final = wanted
        self._forget_reset()
        self._last_number += 1
        self.open = _Open(self._last_number, phase, asked.start_number)
        self._to(State.RUNNING, StartEpisode(self.open.number, phase, asked.start_number, wanted))
