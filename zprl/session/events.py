"""The vocabulary of the state machine: states, phases, events, actions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from zprl.recordings.phases import PhaseKind
from zprl.robot.base import StopLevel


class State(enum.StrEnum):
    """State of a session."""

    IDLE = "IDLE"
    HOMING = "HOMING"
    AWAIT_RESET = "AWAIT_RESET"
    RUNNING = "RUNNING"
    INTERVENTION = "INTERVENTION"
    STOPPING = "STOPPING"
    AWAIT_LABEL = "AWAIT_LABEL"
    COMMIT = "COMMIT"
    PAUSED = "PAUSED"
    FAULT = "FAULT"
    ESTOP = "ESTOP"
    DONE = "DONE"


class Label(enum.StrEnum):
    """Worth of an episode; ``discard``: it does not count."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"


class Input(enum.StrEnum):
    """Kinds of presses of an operator."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    RESET_DONE = "reset_done"
    PAUSE = "pause"
    RESUME = "resume"
    ESTOP = "estop"
    CLEAR = "clear"
    INTERVENE = "intervene"
    RELEASE = "release"


CONFIRM_CELL = "Confirm that the cell is clear and the stop is in your hand"
"""What a person confirms, by ``clear``, before a real arm moves at the start of every run of a
session."""
LABELS = {Input.SUCCESS: Label.SUCCESS, Input.FAILURE: Label.FAILURE, Input.DISCARD: Label.DISCARD}


@dataclass(frozen=True)
class Phase:
    """A part of the plan.

    Attributes:
        kind: Each kind stands in a plan at most once, in the order before, train, after.
        episodes: Labelled episodes it takes.
        explore: Whether the policy explores.
        learn: Whether the learner learns from them.
    """

    kind: PhaseKind
    episodes: int
    explore: bool = False
    learn: bool = False


@dataclass(frozen=True)
class CommittedEpisode:
    """A committed episode, as it is on disk."""

    number: int
    kind: PhaseKind
    start_number: int
    label: Label | None = None


@dataclass(frozen=True)
class Progress:
    """State of a session on disk.

    Attributes:
        episodes: All committed ones.
        last_number: The highest number ever given to an episode, discarded ones included.
        training_labels: The last stored label, counted from 1, that is about a training episode;
            0 for none.
        nonces: Nonces of the stored labels: an input that comes again after a restart is still the
            same input.
        final: What ``evaluate_after`` episodes name as their version, once there is one.
        estopped: Whether the e-stop was latched.
    """

    episodes: tuple[CommittedEpisode, ...] = ()
    last_number: int = 0
    training_labels: int = 0
    nonces: frozenset[str] = frozenset()
    final: int | None = None
    estopped: bool = False


# -- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """The time, host's monotonic clock [s]."""

    now: float


@dataclass(frozen=True)
class InputEvent:
    """A press; the same nonce twice is one input."""

    kind: Input
    nonce: str
    source: str
    episode: int | None = None
    author: str | None = None


@dataclass(frozen=True)
class Ready:
    """The driver is connected and holds its pose."""


@dataclass(frozen=True)
class Homed:
    """The arm rests at the task's home pose."""


@dataclass(frozen=True)
class TimeUp:
    """The episode's steps are used up."""

    episode: int


@dataclass(frozen=True)
class Stopped:
    """The episode has ended and the arm with it; its last observation is recorded."""

    episode: int


@dataclass(frozen=True)
class Fault:
    """The driver stopped the arm, or something else must."""

    level: StopLevel
    reason: str
    recoverable: bool = False


@dataclass(frozen=True)
class EStop:
    """The e-stop was pressed where the driver noticed it first."""

    source: str


@dataclass(frozen=True)
class Recovered:
    """Result of :class:`Recover`."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Committed:
    """The recorder has the episode on disk."""

    episode: int


@dataclass(frozen=True)
class Lost:
    """The recorder has no such episode: it died before the commit."""

    episode: int


@dataclass(frozen=True)
class Labelled:
    """A label is stored as line ``seq``, counted from 1."""

    episode: int
    nonce: str
    seq: int


@dataclass(frozen=True)
class VersionAvailable:
    """Weights that know the first ``version`` labels are on the disk."""

    version: int


@dataclass(frozen=True)
class Died:
    """A process ended or froze."""

    process: str


@dataclass(frozen=True)
class Restarted:
    """It is back and has caught up with what is on disk."""

    process: str


Happening = (
    Tick
    | InputEvent
    | Ready
    | Homed
    | TimeUp
    | Stopped
    | Fault
    | EStop
    | Recovered
    | Committed
    | Lost
    | Labelled
    | VersionAvailable
    | Died
    | Restarted
)

# -- actions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoHome:
    """Move to the home pose."""


@dataclass(frozen=True)
class AskReset:
    """Ask the operator to put the scene for this episode in order."""

    episode: int
    kind: PhaseKind
    start_number: int


@dataclass(frozen=True)
class StartEpisode:
    """Let the policy act.

    Attributes:
        number: Number of the episode.
        phase: Its phase.
        start_number: Number of its start position within its kind of phase.
        version: Version that its weights must have; ``None``: the newest, or the start policy
            before training.
    """

    number: int
    phase: Phase
    start_number: int
    version: int | None


@dataclass(frozen=True)
class EndEpisode:
    """Come to rest and record the last observation; then :class:`Stopped` comes."""

    number: int


@dataclass(frozen=True)
class Stop:
    """Stop the arm."""

    level: StopLevel


@dataclass(frozen=True)
class Recover:
    """Recover the robot, holding its pose; then :class:`Recovered` comes."""


@dataclass(frozen=True)
class BeginIntervention:
    """A person takes over."""

    episode: int


@dataclass(frozen=True)
class EndIntervention:
    """The policy goes on, from where the person left the arm."""

    episode: int


@dataclass(frozen=True)
class StoreLabel:
    """Store a label, unless one with this nonce is there; then :class:`Labelled` comes."""

    episode: int
    label: Label
    source: str
    nonce: str
    author: str | None = None


@dataclass(frozen=True)
class CommitEpisode:
    """Make the episode permanent, then store its label.

    :class:`Committed` comes, then :class:`Labelled`.
    """

    number: int
    label: StoreLabel | None


@dataclass(frozen=True)
class Discard:
    """Discard the open episode's recording."""

    number: int


@dataclass(frozen=True)
class AskLabel:
    """Ask the operator what this episode was worth."""

    episode: int


@dataclass(frozen=True)
class WaitForWeights:
    """Inform the operator that the session waits for the learner."""

    version: int


@dataclass(frozen=True)
class Finish:
    """The plan is done."""


@dataclass(frozen=True)
class Say:
    """A sentence for the operator."""

    text: str


Action = (
    GoHome
    | AskReset
    | StartEpisode
    | EndEpisode
    | Stop
    | Recover
    | BeginIntervention
    | EndIntervention
    | StoreLabel
    | CommitEpisode
    | Discard
    | AskLabel
    | WaitForWeights
    | Finish
    | Say
)
