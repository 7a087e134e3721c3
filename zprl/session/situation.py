"""The situation of a session: its state, its open episode, and what blocks it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from zprl.robot.limits import Recoveries, RecoveryBudget
from zprl.session.events import (
    Action,
    AskReset,
    CommittedEpisode,
    Discard,
    Phase,
    Progress,
    Say,
    State,
    StoreLabel,
)
from zprl.session.schedule import Mode, Schedule

ACTING = (State.RUNNING, State.INTERVENTION)
MOVING = (*ACTING, State.STOPPING, State.HOMING)
"""States that end by an event only."""
OPEN = (*ACTING, State.STOPPING, State.AWAIT_LABEL, State.COMMIT)
"""States of an open episode."""


@dataclass
class OpenEpisode:
    """The episode that is not committed yet.

    Attributes:
        number: Number of the episode.
        phase: Its phase.
        start_number: Number of its start position within its kind of phase.
        ended: Whether its last observation is recorded.
        label: Its label, once there is one.
        committing: Whether the recorder is to make it permanent.
        asked: Whether the operator was asked for its label.
        later: Corrections that came while it was being committed.
    """

    number: int
    phase: Phase
    start_number: int
    ended: bool = False
    label: StoreLabel | None = None
    committing: bool = False
    asked: bool = False
    later: list[StoreLabel] = field(default_factory=list)


@dataclass
class Blockage:
    """A fault, because of which nothing moves.

    Attributes:
        reason: A sentence for the operator.
        person: Whether only the operator can clear it.
        recovering: Whether the driver's answer to a recovery is awaited.
    """

    reason: str
    person: bool
    recovering: bool = False


class SessionSituation:
    """The data of the state machine, and the elementary changes of it.

    Arguments as in :class:`zprl.session.state_machine.Machine`.
    """

    def __init__(
        self,
        plan: tuple[Phase, ...],
        progress: Progress | None = None,
        *,
        mode: Mode = "async",
        interrupted: Literal["discard", "label"] = "discard",
        recoveries: Recoveries | None = None,
        confirm: str = "",
    ) -> None:
        progress = progress or Progress()
        self.schedule = Schedule(plan, progress, mode)
        self.mode, self.interrupted = mode, interrupted
        self.state = State.IDLE
        self.open: OpenEpisode | None = None
        self.paused = False
        self.estopped: str | None = "the last run" if progress.estopped else None
        self.fault = Blockage(confirm, person=True) if confirm else None
        self.dead: set[str] = set()
        self.now = 0.0
        self.refused = ""
        """Why the last press had no effect; empty when it had one."""
        self.seq = 0
        """Number of the present situation: a press answers exactly one."""

        self._budget = RecoveryBudget(recoveries or Recoveries())
        self._stored_nonces = progress.nonces
        self._nonces: OrderedDict[str, None] = OrderedDict()
        self._asked_labels: set[int] = set()
        self._asked_reset: AskReset | None = None
        self._ready = self._reset_done = False
        self._waiting: int | None = None
        self._actions: list[Action] = []
        self._situation: tuple[object, ...] = ()
        self._stops = 0

    @property
    def episodes(self) -> dict[int, CommittedEpisode]:
        """Return the committed episodes by number."""
        return self.schedule.episodes

    @property
    def number(self) -> int:
        """Return the number of the open episode, or of the next one."""
        return self.open.number if self.open else self.last_number + 1

    @property
    def last_number(self) -> int:
        """Return the highest number ever given to an episode; keep it for :class:`Progress`."""
        return self.schedule.last_number

    @property
    def final(self) -> int | None:
        """Return the version that ``evaluate_after`` judges; keep it for :class:`Progress`."""
        return self.schedule.final

    @property
    def pending(self) -> list[int]:
        """Return the committed episodes that wait for a label, oldest first."""
        return self.schedule.pending

    @property
    def phase(self) -> Phase | None:
        """Return the phase of the open or the next episode; ``None`` when the plan is done."""
        return self.open.phase if self.open else self.schedule.next_phase

    @property
    def behind(self) -> bool:
        """Return whether the next episode's weights do not know all the labels that they must."""
        return self.schedule.behind(self.phase)

    @property
    def held(self) -> bool:
        """Return whether only a person can let the arm go on: nobody takes control of it before."""
        waits = self.fault is not None and self.fault.person and not self.fault.recovering
        return self.estopped is not None or waits

    @property
    def reason(self) -> str:
        """Return what blocks motion; empty where nothing does."""
        if self.estopped is not None:
            return f"e-stop pressed ({self.estopped})"
        return self.fault.reason if self.fault is not None else ""

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

    def _opened(self, number: int | None) -> OpenEpisode | None:
        """Return the open episode if it has this number."""
        return self.open if self.open is not None and self.open.number == number else None

    def _acting(self, number: int | None) -> bool:
        return self.state in ACTING and self._opened(number) is not None

    def _to(self, state: State, *actions: Action) -> None:
        self.state = state
        self._actions += actions

    def _say(self, text: str) -> None:
        self._actions.append(Say(text))

    def _refuse(self, text: str) -> None:
        self.refused = text
        self._say(text)

    def _interrupt(self) -> None:
        """End what was going on; an open episode is discarded, or labelled where that is wanted."""
        self._forget_reset()
        episode = self.open
        if episode is None or episode.ended:
            return
        if self.interrupted == "label":
            episode.ended = True
            return
        self._say(f"episode {episode.number} was interrupted: it is discarded and repeated")
        self._drop(episode)

    def _forget_reset(self) -> None:
        """Have the scene put in order again before an episode begins."""
        self._reset_done = False
        self._asked_reset = self._waiting = None

    def _drop(self, episode: OpenEpisode) -> None:
        self._actions.append(Discard(episode.number))
        self.open = None
        if self.state in OPEN:
            self.state = State.IDLE
