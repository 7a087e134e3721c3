"""The supervisor's plan: what the state machine's actions ask of each process."""

from __future__ import annotations

from collections import deque

from zprl.recordings.phases import PhaseKind
from zprl.robot.base import StopLevel
from zprl.robot.task import RealTask
from zprl.session.clock import now
from zprl.session.events import (
    Action,
    AskLabel,
    AskReset,
    CommitEpisode,
    Discard,
    Recover,
    StartEpisode,
    State,
    Stop,
    StoreLabel,
    WaitForWeights,
)
from zprl.session.messages import (
    SIM_WEIGHTS_VERSION,
    CommitRequest,
    LabelRequest,
    Plan,
    PressAnswer,
    ResetRequest,
)
from zprl.session.state_machine import Machine

ANSWERS, ANSWER_S = 100, 5.0
"""How many presses are answered in the plan, and for how long [s]: 30 at once and 10 a second from
each page at most."""
KEPT_DISCARDS = 50


class PlanBuilder:
    """The contents of the next plan.

    Args:
        task: The task of the session.

    Attributes:
        recoveries: Number of recoveries that were asked for so far.
        commits: Episodes that the recorder has not confirmed, with their labels.
        labels: Labels that the recorder has not confirmed, by nonce.
    """

    def __init__(self, task: RealTask) -> None:
        self.task = task
        self.recoveries, self.recover_at = 0, 0.0
        self.stops, self.stop_level = 0, StopLevel.HOLD
        self.episode: StartEpisode | None = None
        self.reset: ResetRequest | None = None
        self.commits: dict[int, StoreLabel | None] = {}
        self.labels: dict[str, StoreLabel] = {}
        self.discards: deque[int] = deque(maxlen=KEPT_DISCARDS)
        self.answers: deque[PressAnswer] = deque(maxlen=ANSWERS)
        self.prompt = ""

    def take(self, action: Action) -> None:
        """Take in an action of the state machine."""
        match action:
            case AskReset(episode, kind, start_number):
                self.reset = ResetRequest(
                    episode=episode, evaluation=kind.evaluation, start_number=start_number
                )
                self.prompt = self.task.reset
            case StartEpisode():
                self.reset, self.episode = None, action
                self.prompt = self.task.label.rule

            # These are counted: a plan is repeated, and each is to be done once.
            case Stop(level):
                self.stops += 1
                self.stop_level = level
            case Recover():
                self.recoveries += 1
                self.recover_at = now()

            case StoreLabel():
                self.labels[action.nonce] = action
            case CommitEpisode(number, label):
                self.commits[number] = label
            case Discard(number):
                self.discards.append(number)
            case AskLabel(episode):
                self.prompt = f"What was episode {episode} worth? {self.task.label.rule}"
            case WaitForWeights(version):
                self.prompt = f"waiting for the learner (version {version})"

    def committed(self, number: int) -> None:
        """Take in that an episode is on the disk; its label is asked for until that is, too."""
        label = self.commits.pop(number, None)
        if label is not None:
            self.labels[label.nonce] = label

    def answer(self, nonce: str, refusal: str = "") -> bool:
        """Answer a press; return False for one that was answered already."""
        if any(answer.nonce == nonce for answer in self.answers):
            return False
        self.answers.append(PressAnswer(nonce=nonce, refusal=refusal, at=now()))
        return True

    def build(self, machine: Machine, digests: dict[str, str], starting: str) -> Plan:
        """Return the plan of this moment.

        Args:
            machine: The state machine.
            digests: Digests of the task and the limits in force.
            starting: Prompt while there is no other.
        """
        episode = self.episode
        phase = episode.phase if episode else None
        weights = episode.version if episode else None
        if phase is None or phase.kind is PhaseKind.EVALUATE_BEFORE:
            weights = SIM_WEIGHTS_VERSION

        at = now()
        commits = sorted(self.commits.items())
        return Plan(
            seq=machine.seq,
            at=at,
            digests=digests,
            reason=machine.reason,
            answers=tuple(answer for answer in self.answers if at - answer.at < ANSWER_S),
            recover_at=self.recover_at,
            behind=machine.behind,
            held=machine.held,
            state=machine.state,
            mode=machine.mode,
            number=episode.number if episode else 0,
            start_number=episode.start_number if episode else 0,
            evaluation=phase.kind.evaluation if phase else True,
            explore=phase.explore if phase else False,
            weights=weights,
            kind=phase.kind if phase else "",
            recover=self.recoveries,
            stop=self.stops,
            stop_level=int(self.stop_level),
            reset=self.reset if machine.state is State.AWAIT_RESET else None,
            commit=tuple(CommitRequest(number=n, label=_request(label)) for n, label in commits),
            labels=tuple(_stored(label) for label in self.labels.values()),
            discard=tuple(self.discards),
            pending=tuple(machine.pending),
            prompt=self.prompt or starting,
            next=machine.number,
            paused=machine.paused,
        )


def _request(label: StoreLabel | None) -> LabelRequest | None:
    return None if label is None else _stored(label)


def _stored(label: StoreLabel) -> LabelRequest:
    return LabelRequest(
        episode=label.episode,
        label=label.label,
        source=label.source,
        nonce=label.nonce,
        author=label.author,
    )
