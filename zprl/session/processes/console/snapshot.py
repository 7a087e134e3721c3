"""The contract between session and page.

A :class:`Snapshot` is all that the page shows; :class:`ConsoleState` hands the newest one from the
session's thread to the server's.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, computed_field

from zprl.errors import DataError
from zprl.evaluation.intervals import wilson
from zprl.recordings.phases import PhaseKind
from zprl.session.events import LABELS, Input, Label, State
from zprl.session.inputs import EpisodeNumber, Moment, Nonce, Seq, Stamp
from zprl.strict_model import StrictModel

WINDOW = 40
"""Labelled episodes of one phase that the running success is taken over."""
MAX_FRAME = 4 * 2**20
"""Longest camera image [bytes]."""
MAX_CAMERAS = 8

Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Line = Annotated[str, Field(max_length=500)]
Word = Annotated[str, Field(max_length=60)]


class SnapshotPart(StrictModel):
    """A part of the snapshot: frozen, and an unknown key is an error."""


class Gauge(SnapshotPart):
    """A measured number with its limit: tick, state age, force, torque."""

    name: Word
    value: Finite | None = Field(None, description="Null: not known.")
    limit: Amount | None = Field(None, description="Null: not watched.")
    unit: Word = ""


class ArmHealth(SnapshotPart):
    """One robot arm."""

    name: Word
    mode: Word = Field(description="As `zprl.robot.base.Mode` has it.")
    ok: bool = Field(description="Whether it can be commanded.")
    errors: tuple[Line, ...] = Field((), max_length=50)
    gauges: tuple[Gauge, ...] = Field((), max_length=20)


class HeartbeatRow(SnapshotPart):
    """One process of the session."""

    name: Word
    age_s: Amount | None = Field(description="Since it was last heard; null: never.")
    limit_s: Amount = Field(description="From here on it counts as silent.")
    restarts: Count = 0


class EventRow(SnapshotPart):
    """An event of the session; rows stand in order, newest last."""

    at: Amount = Field(description="Unix time [s].")
    level: Literal["note", "clip", "hold", "soft_stop", "hard_stop"]
    kind: Word
    reason: Line
    count: int = Field(1, ge=1, description="How often in a run; the reason is the last one's.")


class EpisodeRow(SnapshotPart):
    """A committed episode."""

    number: EpisodeNumber
    phase: PhaseKind
    label: Label | None = Field(None, description="Null: not labelled yet.")
    author: Word | None = Field(
        None, description="Who gave the label; null: a program, or it is not known."
    )
    steps: Count = 0
    seconds: Amount = 0.0
    stop: Word = Field("", description="Why it ended.")
    version: Count | None = Field(None, description="Weights that it began with.")
    clips: Count = 0
    intervened: bool = False


class LearningCurve(SnapshotPart):
    """A learning curve."""

    name: Word
    x: Word = Field(description="Title of the x axis.")
    points: tuple[tuple[Finite, Finite], ...] = Field((), max_length=2000)


class Answer(SnapshotPart):
    """Outcome of a press."""

    nonce: Nonce
    refusal: Line = Field("", description="Why it had no effect; empty when it had one.")


class LimitRow(SnapshotPart):
    """One limit in force."""

    name: Word
    value: Word


class Success(SnapshotPart):
    """Successes of labelled episodes with Wilson's 95 % interval."""

    episodes: Count
    successes: Count
    low: Amount
    high: Amount


class SuccessPoint(Success):
    """The running success once this episode was labelled."""

    episode: EpisodeNumber
    phase: PhaseKind
    label: Label


class Snapshot(SnapshotPart):
    """Everything the page shows but the images."""

    format_version: Literal[1] = 1
    session: Word
    task: Word
    simulated: bool = Field(description="True for a simulated robot: nothing can be hurt.")
    mode: Literal["async", "sync"]
    seq: Seq = Field(description="Number of the present situation, which a press names.")
    at: Stamp = Field(
        description="When it was published, on the session's clock [s]; a press names it, too."
    )
    answers: tuple[Answer, ...] = Field(
        (), max_length=128, description="Outcomes of the newest presses."
    )
    state: State
    episode: EpisodeNumber = Field(description="The open one, or the next.")
    phase: PhaseKind | None = Field(description="Phase of that episode; null: the plan is done.")
    phase_done: Count = Field(description="Labelled episodes of the phase.")
    phase_episodes: Count = Field(description="Episodes of the phase by the plan.")
    step: Count | None = Field(None, description="Control steps of the running episode so far.")
    episode_steps: Count | None = Field(None, description="When its time is up.")
    prompt: Line = Field(description="What the operator is to do now, or what is going on.")
    rule: Line = Field("", description="What counts as a success.")
    label_episode: EpisodeNumber | None = Field(
        description="Episode that a label pressed now is about: the open one, "
        "else the oldest without label."
    )
    paused: bool = False
    behind: bool = Field(False, description="Whether the next episode waits for the learner.")
    weights: Count | None = Field(
        None, description="Version of the weights in use; null: the start policy."
    )
    clips: Count = Field(0, description="Clipped steps of the running episode.")
    arms: tuple[ArmHealth, ...] = Field((), max_length=8)
    processes: tuple[HeartbeatRow, ...] = Field((), max_length=32)
    events: tuple[EventRow, ...] = Field((), max_length=200)
    episodes: tuple[EpisodeRow, ...] = Field((), max_length=2000)
    curves: tuple[LearningCurve, ...] = Field((), max_length=8)
    cameras: tuple[Name, ...] = Field((), max_length=MAX_CAMERAS)
    limits: tuple[LimitRow, ...] = Field((), max_length=60)
    limits_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def allowed(self) -> tuple[Input, ...]:
        """Inputs that have an effect now; the e-stop always has."""
        stopped = self.state in (State.ESTOP, State.FAULT)

        inputs = [Input.ESTOP]
        if self.label_episode is not None:
            inputs += LABELS
        if self.state is State.AWAIT_RESET and not self.behind:
            inputs.append(Input.RESET_DONE)
        if not stopped and self.state is not State.DONE:
            inputs.append(Input.RESUME if self.paused else Input.PAUSE)
        if stopped:
            inputs.append(Input.CLEAR)
        return tuple(inputs)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def recent(self) -> Success | None:
        """Success of the last :data:`WINDOW` labelled training episodes; ``None`` before any."""
        training = [point for point in self.success_curve if point.phase is PhaseKind.TRAIN]
        if not training:
            return None
        return Success(**training[-1].model_dump(include=set(Success.model_fields)))

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def success_curve(self) -> tuple[SuccessPoint, ...]:
        """The running success after every labelled episode, in their order."""
        return running_success(self.episodes)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def by_phase(self) -> dict[PhaseKind, Success]:
        """Success per phase: evaluations do not explore, training does."""
        labels: dict[PhaseKind, list[Label | None]] = {kind: [] for kind in PhaseKind}
        for row in self.episodes:
            if row.label in (Label.SUCCESS, Label.FAILURE):
                labels[row.phase].append(row.label)
        return {kind: _success(given) for kind, given in labels.items() if given}

    @property
    def moment(self) -> Moment:
        """Moment that a key pressed now is about."""
        return Moment(self.episode, self.label_episode, self.paused, self.seq, self.at)


def _success(labels: Collection[Label | None]) -> Success:
    successes = sum(label is Label.SUCCESS for label in labels)
    low, high = wilson(successes, len(labels))
    return Success(episodes=len(labels), successes=successes, low=low, high=high)


def running_success(episodes: Sequence[EpisodeRow]) -> tuple[SuccessPoint, ...]:
    """Return the success after each labelled episode, over the last :data:`WINDOW` of its phase.

    Phases do not mix: training explores, evaluations do not.  Discarded episodes and those without
    label do not count.
    """
    windows: dict[PhaseKind, deque[Label | None]] = {
        kind: deque(maxlen=WINDOW) for kind in PhaseKind
    }
    points = []
    for row in episodes:
        if row.label not in (Label.SUCCESS, Label.FAILURE):
            continue
        window = windows[row.phase]
        window.append(row.label)
        success = _success(window).model_dump()
        points.append(SuccessPoint(**success, episode=row.number, phase=row.phase, label=row.label))
    return tuple(points)


@dataclass(frozen=True)
class Frame:
    """A camera image: JPEG bytes, and when it came, on the clock of :class:`ConsoleState` [s]."""

    jpeg: bytes
    stamp: float


class ConsoleState:
    """The newest snapshot and images, from the session's thread to the server's.

    Args:
        clock: Monotonic [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._json = "null"
        self._stamp = -float("inf")
        self._seq = 0
        self._frames: dict[str, Frame] = {}

    # -- the session's side ------------------------------------------------------------------------

    def publish(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the newest; it is encoded here, once for all readers."""
        encoded = snapshot.model_dump_json()
        with self._lock:
            self._snapshot = snapshot
            self._json = encoded
            self._stamp = self._clock()
            self._seq += 1

    def publish_frame(self, camera: str, jpeg: bytes) -> None:
        """Make ``jpeg`` the newest image of a camera.

        Raises:
            DataError: not a name, not a JPEG, too long, or one camera too many.
        """
        if not NAME.fullmatch(camera):
            raise DataError(
                f"{camera[:60]!r} is no name of a camera",
                remedy="use letters, digits, point, dash and underscore",
            )
        if not jpeg.startswith(b"\xff\xd8\xff") or len(jpeg) > MAX_FRAME:
            raise DataError(
                f"camera {camera}: not a JPEG of at most {MAX_FRAME} bytes",
                remedy="encode images as JPEG",
            )
        with self._lock:
            if camera not in self._frames and len(self._frames) >= MAX_CAMERAS:
                raise DataError(f"more than {MAX_CAMERAS} cameras", remedy="show fewer")
            self._frames[camera] = Frame(jpeg, self._clock())

    # -- the page's side ---------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot | None:
        """Newest snapshot; ``None`` before the first."""
        return self._snapshot

    def frame(self, camera: str) -> Frame | None:
        """Return the newest image of a camera; ``None`` before the first."""
        with self._lock:
            return self._frames.get(camera)

    def message(self, known: int) -> tuple[int, str]:
        """Return the stream's next message: a sequence number, and JSON for the page.

        ``age_s`` is the time since the session's last snapshot (null: there was none), ``frames``
        the age of each camera's image [s].

        Args:
            known: Sequence number that the page has; that snapshot is left out.
        """
        with self._lock:
            now = self._clock()
            age = f"{now - self._stamp:.3f}" if self._seq else "null"
            frames = ",".join(
                f'"{name}":{now - frame.stamp:.3f}' for name, frame in self._frames.items()
            )
            body = f',"snapshot":{self._json}' if self._seq != known else ""
            return self._seq, f'{{"seq":{self._seq},"age_s":{age},"frames":{{{frames}}}{body}}}'
