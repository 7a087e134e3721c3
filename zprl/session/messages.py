"""The messages between a session's processes: topics and contents.  It imports no torch.

A message is a JSON object; :mod:`zprl.session.bus` carries it.  Topics are listed in
:class:`Topic`.  A class of contents gives the object with ``body()`` and reads it with ``parse()``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal, Self

from zprl.recordings.phases import PhaseKind
from zprl.robot.events import Level
from zprl.session.events import Label, State
from zprl.strict_model import FiniteModel

SIM_WEIGHTS_VERSION = -1
"""Version of the weights that left simulation."""


class Topic(enum.StrEnum):
    """The subject of a message."""

    PLAN = "plan"
    """From the supervisor: where the session is, and what each process has to do."""
    INPUT = "input"
    """A press of the operator (:class:`zprl.session.inputs.OperatorInput`)."""
    BEAT = "beat"
    """A process is alive."""
    EVENT = "event"
    """Something happened to the robot, an episode or a recording."""
    STATE = "state"
    """From the driver: the robot's state at a control step."""
    TWIST = "twist"
    """State of the SpaceMouse."""
    CHUNK_REQUEST = "chunk_request"
    """From the driver: the observations from which the next chunk is made."""
    CHUNK = "chunk"
    """From the actor: the actions of one decision."""
    FINAL = "final"
    """From the actor: embedding and anchor of an episode's last observation."""
    FRAME = "frame"
    """From the driver: the row of one control step."""
    FRAME_FINAL = "frame_final"
    """From the driver: an episode's last observation."""
    WEIGHTS = "weights"
    """From the learner: a version of the weights is on the disk."""
    LEARNING = "learning"
    """From the learner: a row of the learning curve."""
    COMMITTED = "committed"
    """From the recorder: an episode is on the disk."""
    LABELLED = "labelled"
    """From the recorder: a label is on the disk."""
    LOST = "lost"
    """From the recorder: there is no such episode to commit."""


class Contents(FiniteModel):
    """The contents of a message; an unknown key is refused."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read the JSON object of a message.

        Raises:
            ValueError: it is something else.
        """
        return cls.model_validate(body)

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the message."""
        return self.model_dump(mode="json")


class PressAnswer(Contents):
    """The answer to a press.

    Attributes:
        nonce: Nonce of the press.
        refusal: Why it has no effect; empty where it has one.
        at: When it was answered, on the session's clock [s].
    """

    nonce: str
    refusal: str
    at: float


class ResetRequest(Contents):
    """The scene that is to be put in order: an episode and its start position."""

    episode: int
    evaluation: bool
    start_number: int


class LabelRequest(Contents):
    """A label that is to be stored; the same nonce twice is one label."""

    episode: int
    label: Label
    source: str
    nonce: str
    author: str | None


class CommitRequest(Contents):
    """An episode that is to become permanent, with its label where it has one."""

    number: int
    label: LabelRequest | None


class Plan(Contents):
    """The state of the session, and what the supervisor wants of each process; sent repeatedly.

    Attributes:
        seq: Number of the present situation, which a press names.
        at: When it was sent, on the session's clock [s].
        digests: Digests of the task and the limits in force.
        reason: What blocks motion; empty where nothing does.
        answers: Answers to the newest presses.
        recover_at: When the last recovery was asked for, on the session's clock [s].
        behind: Whether the learner has not caught up with the labels that the next episode needs.
        held: Whether only a person can let the arm go on.
        state: State of the session.
        mode: ``async``, or ``sync`` where the session waits for learner and labels.
        number: Number of the running episode, or of the last one; 0 before the first.
        start_number: Number of its start position within its kind of phase.
        evaluation: Whether it is judged, not learned from.
        explore: Whether the policy explores.
        weights: Version that its weights must have at least; ``None`` for any.
        kind: Kind of its phase; empty before the first episode.
        recover: Number of recoveries that were asked for so far.
        stop: Number of stops that were asked for so far.
        stop_level: Level of the last stop (:class:`zprl.robot.base.StopLevel`).
        reset: The scene that is waited for, in ``AWAIT_RESET``.
        commit: Episodes that are to become permanent.
        labels: Labels that are to be stored.
        discard: Episodes whose recordings are to be thrown away.
        pending: Committed episodes without label.
        prompt: A sentence for the operator.
        next: Number of the open episode, or of the next one.
        paused: Whether the session is paused.
    """

    seq: int
    at: float
    digests: dict[str, str]
    reason: str
    answers: tuple[PressAnswer, ...]
    recover_at: float
    behind: bool
    held: bool
    state: State
    mode: Literal["async", "sync"]
    number: int
    start_number: int
    evaluation: bool
    explore: bool
    weights: int | None
    kind: PhaseKind | Literal[""]
    recover: int
    stop: int
    stop_level: int
    reset: ResetRequest | None
    commit: tuple[CommitRequest, ...]
    labels: tuple[LabelRequest, ...]
    discard: tuple[int, ...]
    pending: tuple[int, ...]
    prompt: str
    next: int
    paused: bool


def notice(
    kind: str, number: int, reason: str = "", *, level: Level = Level.NOTE, **more: int
) -> dict[str, Any]:
    """Return the contents of an ``event`` message about an episode.

    Args:
        kind: A word to count by.
        number: Number of the episode; 0 for none.
        reason: A sentence for the operator.
        level: How serious it is.
        more: Further facts.
    """
    facts = {"kind": kind, "level": level.name.lower(), "reason": reason, "number": number}
    return {**facts, **more}
