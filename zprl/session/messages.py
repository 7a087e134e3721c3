"""The messages between a session's processes: a class of contents for each topic.

A message is a JSON object, in some cases with arrays; :mod:`zprl.session.bus` carries it.
:class:`Topic` lists the topics.  It imports no torch.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field

from zprl.recordings.phases import PhaseKind
from zprl.robot.events import MAX_TEXT, Event, Level
from zprl.session.contents import Contents
from zprl.session.events import Label, State
from zprl.session.inputs import Nonce, OperatorInput, Seq, Stamp

SIM_WEIGHTS_VERSION = -1
"""Version of the weights that left simulation."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Axis = Annotated[float, Field(ge=-1, le=1)]

# -- of the supervisor -----------------------------------------------------------------------------


class PressAnswer(Contents):
    """The answer to a press.

    Attributes:
        nonce: Nonce of the press.
        refusal: Why it has no effect; empty where it has one.
        at: When it was answered, on the session's clock [s].
    """

    nonce: Nonce
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
        weights: Version of its weights: -1 for exactly those that left simulation, another number
            for that one or a newer one, ``None`` for the newest published.
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

    seq: Seq
    at: Stamp
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


# -- of all processes ------------------------------------------------------------------------------


class Beat(Contents):
    """A process is alive; each fact below is of some processes only.

    Attributes:
        stopped: Of the driver: whether the arm is stopped.
        digests: Of the driver: digests of the task and the limits that it runs under.
        version: Of the actor and the learner: version of the newest weights.
        pages: Of the console: number of open pages.
    """

    stopped: bool = False
    digests: dict[str, str] = Field(default_factory=dict)
    version: int = SIM_WEIGHTS_VERSION
    pages: int = 0


class EventMessage(Contents):
    """An event of the robot, an episode or a recording.

    Attributes:
        kind: A word to count by.
        level: How serious it is, as :class:`zprl.robot.events.Level` names it.
        reason: A sentence for the operator.
        value: What was measured or asked for, in the limit's unit.
        limit: What is allowed.
        stamp: When, on the robot's clock [s].
        recoverable: Whether the robot may be recovered without asking a person.
        number: Number of the episode; 0 for none.
        step: Control steps of the episode so far.
        fault: Whether the arm was stopped because of this event and no other.
        recover: Number of the recovery that it answers.
        steps: Control steps of an episode that has ended.
    """

    model_config = ConfigDict(strict=True)

    kind: Text
    level: Literal["note", "clip", "hold", "soft_stop", "hard_stop"]
    reason: Text
    value: float | None = None
    limit: float | None = None
    stamp: float | None = None
    recoverable: bool = False
    number: int = 0
    step: int = 0
    fault: bool | None = None
    recover: int | None = None
    steps: int | None = None

    @classmethod
    def of(cls, event: Event, **more: int) -> Self:
        """Return the message of an event of the safety layer.

        Args:
            event: The event; a reason that is too long is cut.
            more: Further facts: ``number``, ``step`` and ``fault``.
        """
        return cls.parse(event.as_dict() | {"reason": event.reason[:MAX_TEXT]} | more)

    def event(self) -> Event:
        """Return the event of the safety layer."""
        return Event(
            self.kind,
            Level[self.level.upper()],
            self.reason,
            self.value,
            self.limit,
            self.stamp,
            self.recoverable,
        )

    @property
    def stops(self) -> bool:
        """Return whether the arm stops because of it; of several events, one says that it does."""
        return Level[self.level.upper()] >= Level.SOFT_STOP if self.fault is None else self.fault


# -- of the driver ---------------------------------------------------------------------------------


class ControlRow(Contents):
    """The row of one control step, with its observation and actions as arrays.

    Attributes:
        number: Number of the episode.
        step: Number of the control step in it.
        decision: Number of the decision whose chunk is played; -1 for none.
        clipped: Whether a filter has changed a target since the last control step.
        stamp: When the robot's state was measured, robot's clock [s].
        host: When it was read, host's monotonic clock [s].
        intervention: Whether a person moves the arm.
        limits: Digest of the limits in force.
    """

    number: int
    step: int
    decision: int
    clipped: bool
    stamp: float
    host: float
    intervention: bool
    limits: str


class RobotHealth(Contents):
    """Mode and error flags of the robot, as :class:`zprl.robot.base.Health` has them."""

    mode: str
    errors: tuple[str, ...]
    detail: str


class RobotState(ControlRow):
    """The robot's state at a control step, for the page and the scripted operator.

    Attributes:
        left: Actions of the chunk that are not played yet.
        health: Mode and error flags of the robot.
        features: The robot's features by name.
        digests: Digests of the task and the limits in force.
    """

    left: int
    health: RobotHealth
    features: dict[str, float]
    digests: dict[str, str]


class LastObservation(Contents):
    """The facts of an episode's last observation, which itself is sent as arrays.

    Attributes:
        number: Number of the episode.
        step: Control steps of the episode.
        features: Names of the robot's features, in order.
        sent: Names of the numbers that are sent to the robot, in order.
        stamp: When the robot's state was measured, robot's clock [s].
        host: When it was read, host's monotonic clock [s].
        tick_p50: Median interval of the ticks, in periods of robot time.
        tick_p99: Their 99th percentile.
        tick_max: Their maximum.
        limits: Digest of the limits in force.
    """

    number: int
    step: int
    features: tuple[str, ...]
    sent: tuple[str, ...]
    stamp: float
    host: float
    tick_p50: float | None = None
    tick_p99: float | None = None
    tick_max: float | None = None
    limits: str

    @property
    def timing(self) -> dict[str, float]:
        """Return the intervals of the ticks that are known, by name."""
        named = {name: getattr(self, name) for name in ("tick_p50", "tick_p99", "tick_max")}
        return {name: value for name, value in named.items() if value is not None}


class ChunkRequest(Contents):
    """A request for the chunk of a decision; the observations are sent as arrays ``obs/KEY``.

    Attributes:
        number: Number of the episode.
        start_number: Number of its start position within its kind of phase.
        evaluation: Whether it is judged, not learned from.
        explore: Whether the policy explores.
        weights: Version of its weights: -1 for exactly those that left simulation, another number
            for that one or a newer one, ``None`` for the newest published.
        decision: Number of the decision within the episode.
        step: Control step within the episode.
        stamp: Stamp of the newest observation on the robot's clock [s].
        final: Whether it is the episode's last observation, which is embedded only.
    """

    number: int
    start_number: int
    evaluation: bool
    explore: bool
    weights: int | None
    decision: int
    step: int
    stamp: float
    final: bool


# -- of the operator's devices ---------------------------------------------------------------------


class Twist(Contents):
    """State of the SpaceMouse.

    Attributes:
        twist: x, y, z, roll, pitch, yaw in [-1, 1], z up.
        buttons: A bit each.
        at: When it was read, on the session's clock [s].
    """

    twist: tuple[Axis, Axis, Axis, Axis, Axis, Axis]
    buttons: int
    at: float


# -- of the actor ----------------------------------------------------------------------------------


class LastEmbedding(Contents):
    """The facts of the embedding of an episode's last observation, which is sent as arrays.

    Attributes:
        number: Number of the episode.
        decision: Number of the request.
        version: Version of the weights.
        digest: Digest of the weights.
        limits: Digest of the limits that the actor runs under.
    """

    number: int
    decision: int
    version: int
    digest: str
    limits: str


class ChunkAnswer(LastEmbedding):
    """The facts of a chunk, whose ``targets`` (C, A) are sent as an array.

    Attributes:
        step: Control step of the observation that it was made from.
        stamp: Stamp of that observation on the robot's clock [s].
    """

    step: int
    stamp: float


# -- of the learner --------------------------------------------------------------------------------


class WeightsVersion(Contents):
    """A version of the weights is on the disk."""

    version: int


class LearningRow(Contents):
    """A row of the learning curve, as :class:`zprl.rl.session_learner.SessionLearner` keeps it."""

    episodes: int
    chunk_steps: int
    updates: int
    version: int
    success_rate: float
    q_mean: float
    critic_loss: float
    actor_loss: float
    alpha: float
    entropy: float


# -- of the recorder -------------------------------------------------------------------------------


class EpisodeCommitted(Contents):
    """An episode is on the disk.

    Attributes:
        number: Number of the episode.
        digest: Its digest; left out where it was on the disk already.
    """

    number: int
    digest: str = ""


class LabelStored(Contents):
    """A label is on the disk.

    Attributes:
        episode: Number of the episode.
        nonce: Nonce of the label.
        seq: Number of its line.
        label: The label.
    """

    episode: int
    nonce: str
    seq: int
    label: Label


class EpisodeLost(Contents):
    """There is no such episode to commit."""

    number: int


# -- topics ----------------------------------------------------------------------------------------


class Topic(enum.StrEnum):
    """The subject of a message, and the class of its contents."""

    contents: type[Contents]

    def __new__(cls, name: str, contents: type[Contents]) -> Self:
        """Return the topic of this name."""
        topic = str.__new__(cls, name)
        topic._value_ = name
        topic.contents = contents
        return topic

    PLAN = "plan", Plan
    INPUT = "input", OperatorInput
    BEAT = "beat", Beat
    EVENT = "event", EventMessage
    STATE = "state", RobotState
    TWIST = "twist", Twist
    CHUNK_REQUEST = "chunk_request", ChunkRequest
    CHUNK = "chunk", ChunkAnswer
    LAST_EMBEDDING = "final", LastEmbedding
    CONTROL_ROW = "frame", ControlRow
    LAST_OBSERVATION = "frame_final", LastObservation
    WEIGHTS = "weights", WeightsVersion
    LEARNING = "learning", LearningRow
    COMMITTED = "committed", EpisodeCommitted
    LABELLED = "labelled", LabelStored
    LOST = "lost", EpisodeLost

    @classmethod
    def of(cls, contents: Contents) -> Topic:
        """Return the topic of contents."""
        return _TOPICS[type(contents)]


_TOPICS = {topic.contents: topic for topic in Topic}


def notice(
    kind: str, number: int, reason: str = "", *, level: Level = Level.NOTE, **more: int
) -> EventMessage:
    """Return an event about an episode.

    Args:
        kind: A word to count by.
        number: Number of the episode; 0 for none.
        reason: A sentence for the operator.
        level: How serious it is.
        more: Further facts: ``recover`` or ``steps``.
    """
    facts = {"kind": kind, "level": level.name.lower(), "reason": reason, "number": number}
    return EventMessage.parse(facts | more)
