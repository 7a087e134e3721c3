"""The session's state machine: pure, no I/O, no clock of its own.

Events go in, actions come out; the supervisor carries the actions out and reports their results.
What must survive a crash is on disk: a machine made from what is committed there
(:class:`Progress`) goes on where the last one was.

Choices that are not obvious:

- ``pause`` lets a running episode go on to its end (``estop`` is for stopping it) and interrupts
  homing.
- In ``async`` mode a training episode that ends without a label is committed at once and its label
  asked for while the session goes on; evaluations, and everything in ``sync`` mode, wait for the
  label before they commit.
- ``evaluate_after`` waits for the weights that know every label given before its first episode,
  and names that version in all its episodes.

:mod:`zprl.session.schedule` says when a phase is complete.
"""

from __future__ import annotations

from zprl.recordings.phases import PhaseKind
from zprl.robot.base import StopLevel
from zprl.robot.limits import Recoveries
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
from zprl.session.situation import ACTING, MOVING, Blockage, OpenEpisode, SessionSituation

NON_CRITICAL = frozenset({"learner", "console"})
"""Processes whose death stops no episode."""
REMEMBERED = 4096
"""Newest presses whose nonce is remembered: presses expire long before so many others have come."""


class Machine(SessionSituation):
    """The transitions of a session; see the module.

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

    def tighten(self, recoveries: Recoveries) -> None:
        """Put a tighter budget of automatic recoveries in force; what was spent stays spent."""
        self._budget.recoveries = recoveries

    # -- events ------------------------------------------------------------------------------------

    def handle(self, event: Happening) -> list[Action]:
        """Take in one event; return what to do about it, in order."""
        self._actions, self.refused = [], ""
        self._take(event)
        self._advance()
        self._number_situation()
        return self._actions

    def _take(self, event: Happening) -> None:
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
            case Stopped(episode):
                self._stopped(episode)

            case Fault(level, reason, recoverable):
                self._fail(level, reason, person=not recoverable)
            case EStop(source):
                self._estop(source)
            case Recovered(ok, reason):
                self._recovered(reason, ok=ok)
            case Died(process):
                self._died(process)
            case Restarted(process):
                self._restarted(process)

            case Committed(episode):
                self._committed(episode)
            case Lost(episode):
                self._lost(episode)
            case Labelled(_, nonce, seq):
                self.schedule.labelled(nonce, seq)
            case VersionAvailable(version):
                self.schedule.version = max(self.schedule.version, version)

    # -- the operator ------------------------------------------------------------------------------

    def _input(self, event: InputEvent) -> None:
        # Before anything else: a stop is never taken for a repetition.
        if event.kind is Input.ESTOP:
            self._estop(event.source)
            return
        if event.nonce in self._nonces or event.nonce in self._stored_nonces:
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
        present = event.episode in (None, self.number)
        match event.kind:
            case Input.RESET_DONE:
                self._confirm_reset(present=present)
            case Input.PAUSE:
                self._pause()
            case Input.RESUME:
                self.paused = False
            case Input.CLEAR:
                self._clear()

            case Input.INTERVENE if self.state is State.RUNNING and present:
                self._to(State.INTERVENTION, BeginIntervention(self.number))
            case Input.RELEASE if self.state is State.INTERVENTION:
                self._to(State.RUNNING, EndIntervention(self.number))
            case _:
                self._refuse(f"{event.kind} means nothing in state {self.state}")

    def _confirm_reset(self, *, present: bool) -> None:
        if self.state is not State.AWAIT_RESET or not present:
            situation = f"state {self.state}, episode {self.number}"
            self._refuse(f"reset_done is not awaited now ({situation})")
        elif self.behind:  # the arm moves when this is pressed, not minutes later
            self._refuse("the learner is still busy: press again when it is ready")
        else:
            self._reset_done = True

    def _label(self, event: InputEvent) -> None:
        if event.episode is None:
            self._refuse(f"{event.kind}: no episode is named")
            return
        line = StoreLabel(
            event.episode, LABELS[event.kind], event.source, event.nonce, event.author
        )

        episode = self._opened(event.episode)
        if episode is not None and episode.committing:
            episode.later.append(line)
        elif episode is not None:
            episode.label = line
            if self.state in ACTING:
                self._to(State.STOPPING, EndEpisode(episode.number))
        elif event.episode in self.episodes:
            self._correct(line)
        else:
            discarded = 0 < event.episode <= self.last_number
            known = "was discarded" if discarded else "does not exist"
            self._refuse(f"{event.kind} is refused: episode {event.episode} {known}")

    def _correct(self, line: StoreLabel) -> None:
        """Label a committed episode: for the first time, or superseding a label."""
        before = self.episodes[line.episode].label
        if before is line.label:  # a second click
            return
        self.schedule.label(line)
        self._actions.append(line)
        if before is not None:
            self._say(f"the label of episode {line.episode} is {line.label} now; it was {before}")

    def _pause(self) -> None:
        self.paused = True
        if self.open:
            after = f"the session pauses after episode {self.open.number}"
            self._say(f"{after}; press e-stop to stop the arm now")
        elif self.state is State.HOMING:
            self._to(State.IDLE, Stop(StopLevel.HOLD))

    def _clear(self) -> None:
        missing = sorted(self.dead - NON_CRITICAL)
        if missing or not self._ready:
            waits = ", ".join(missing) or "driver"
            self._refuse(f"cannot clear: waiting for {waits} to come back")
        elif self.estopped is not None or self.fault is not None:
            self.fault = Blockage(self.reason, person=True, recovering=True)
            self.estopped = None
            self._to(State.FAULT, Recover())
        else:
            self._refuse("there is nothing to clear")

    # -- stops -------------------------------------------------------------------------------------

    def _estop(self, source: str) -> None:
        # Counted also where one is latched: a `clear` for the situation before it is refused.
        self._stops += 1
        if self.estopped is not None and self.state is State.ESTOP:
            return
        self._actions.append(Stop(StopLevel.HARD))
        self._interrupt()
        self.estopped, self.fault = source, None
        self._to(State.ESTOP, Say(f"e-stop pressed ({source}): press clear when it is safe"))

    def _fail(self, level: StopLevel, reason: str, *, person: bool) -> None:
        self._actions.append(Stop(level))
        self._interrupt()
        if self.estopped is not None:
            return
        person = person or (self.fault is not None and self.fault.person)
        self.fault = Blockage(reason, person)
        text = f"{reason}: press clear when it is safe" if person else reason
        self._to(State.FAULT, Say(text))

    def _died(self, process: str) -> None:
        if process in self.dead:
            return
        self.dead.add(process)
        if process in NON_CRITICAL:
            self._say(f"{process} is down; the session goes on")
            return

        if process == "driver":
            self._ready = False
        self._fail(StopLevel.SOFT, f"{process} is down", person=False)
        episode = self.open
        if process == "recorder" and episode is not None and not episode.committing:
            self._say(f"the recording of episode {episode.number} is lost: it will be repeated")
            self._drop(episode)

    def _restarted(self, process: str) -> None:
        self.dead.discard(process)
        if process == "recorder":
            lines = self.schedule.in_flight.values()
            self._actions += [line for line in lines if line.episode in self.episodes]

    def _recovered(self, reason: str, *, ok: bool) -> None:
        if self.fault is None or not self.fault.recovering or self.estopped is not None:
            return
        if ok:
            self.fault = None
            self.state = State.IDLE
            return
        self.fault = Blockage(reason or self.fault.reason, person=True)
        why = self.fault.reason
        self._say(f"the robot did not recover ({why}): look at it, then press clear")

    def _try_recovery(self, fault: Blockage) -> None:
        if fault.person or fault.recovering or self.dead - NON_CRITICAL or not self._ready:
            return
        if self._budget.may_recover(self.now):
            self._budget.spend(self.now)
            fault.recovering = True
            self._actions.append(Recover())
        else:
            fault.person = True
            self._say(f"{fault.reason}: too many recoveries in a row, press clear when it is safe")

    # -- the episode -------------------------------------------------------------------------------

    def _stopped(self, number: int) -> None:
        episode = self._opened(number)
        if episode is not None and self.state in (*ACTING, State.STOPPING):
            episode.ended = True
            self.state = State.IDLE

    def _committed(self, number: int) -> None:
        episode = self._opened(number)
        if episode is None or not episode.committing:
            return
        self.open = None
        label = episode.label.label if episode.label else None
        self.episodes[number] = CommittedEpisode(
            number, episode.phase.kind, episode.start_number, label
        )
        if episode.label:
            self.schedule.in_flight[episode.label.nonce] = episode.label

        for line in episode.later:
            self._correct(line)
        if self.state is State.COMMIT:
            self.state = State.IDLE

    def _lost(self, number: int) -> None:
        episode = self._opened(number)
        if episode is not None and episode.ended:
            self._say(f"the recording of episode {number} is lost: it will be repeated")
            self._drop(episode)

    # -- what comes next ---------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go as far as possible without another event."""
        if self.estopped is not None:
            self.state = State.ESTOP
        elif self.fault is not None:
            self.state = State.FAULT
            self._try_recovery(self.fault)
        elif self.state in MOVING:
            return
        elif self.open is not None:
            self._route(self.open)
        else:
            self._begin_next()

    def _route(self, episode: OpenEpisode) -> None:
        """Send the open episode, which has ended, on: to its label, to the disk, or away."""
        training = episode.phase.kind is PhaseKind.TRAIN

        if episode.committing:
            self.state = State.COMMIT
        elif episode.label and episode.label.label is Label.DISCARD:
            self._drop(episode)
            self._advance()
        elif episode.label or (training and self.mode == "async"):
            episode.committing = True
            self._to(State.COMMIT, CommitEpisode(episode.number, episode.label))
        else:
            self.state = State.AWAIT_LABEL
            if not episode.asked:
                episode.asked = True
                self._actions.append(AskLabel(episode.number))

    def _begin_next(self) -> None:
        """Go towards the next episode: home, to the reset, to its start."""
        self._ask_labels()
        phase = self.phase

        if phase is None:
            self._forget_reset()
            self._end()
        elif (blocked := self._blocked(phase)) is not None:
            self._forget_reset()
            self.state = blocked
        elif self.state is State.AWAIT_RESET:
            self._start(phase)
        else:
            self._to(State.HOMING, GoHome())

    def _ask_labels(self) -> None:
        for number in self.pending:
            if number not in self._asked_labels:
                self._asked_labels.add(number)
                self._actions.append(AskLabel(number))

    def _end(self) -> None:
        """Finish the plan, once all labels are given and stored."""
        if self.pending:
            self.state = State.AWAIT_LABEL
        elif self.schedule.in_flight:
            self.state = State.COMMIT
        elif self.state is not State.DONE:
            self._to(State.DONE, Finish())

    def _blocked(self, phase: Phase) -> State | None:
        """Return the state in which the session waits; ``None`` where an episode can begin."""
        if self.paused:
            return State.PAUSED
        if not self._ready:
            return State.IDLE
        waits = phase.kind.evaluation or self.mode == "sync"
        if (self.pending and waits) or self.schedule.full(phase):
            return State.AWAIT_LABEL
        return None

    def _start(self, phase: Phase) -> None:
        """Start the next episode once the scene is in order and the weights are there."""
        reset = self._ask_reset(phase)
        wanted = self.schedule.wanted(phase)
        if wanted is not None and self.behind:
            if self._waiting != wanted:
                self._waiting = wanted
                self._actions.append(WaitForWeights(wanted))
            return
        if not self._reset_done:
            return

        if phase.kind is PhaseKind.EVALUATE_AFTER:
            self.schedule.final = wanted
        self._forget_reset()
        self.schedule.last_number += 1
        self.open = OpenEpisode(self.last_number, phase, reset.start_number)
        self._to(State.RUNNING, StartEpisode(self.last_number, phase, reset.start_number, wanted))

    def _ask_reset(self, phase: Phase) -> AskReset:
        """Return the reset that is asked for; a late label may have changed what comes next."""
        taken = self.schedule.taken_starts(phase.kind)
        asked = self._asked_reset
        if asked is None or asked.kind is not phase.kind or asked.start_number in taken:
            self._forget_reset()
            free = next(n for n in range(len(taken) + 1) if n not in taken)
            self._asked_reset = asked = AskReset(self.number, phase.kind, free)
            self._actions.append(asked)
        return asked
