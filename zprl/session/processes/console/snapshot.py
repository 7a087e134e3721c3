"""What the page shows: :class:`Snapshot` is the contract between session and page, :class:`ConsoleState` hands over the newest one."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from zprl.errors import DataError
from zprl.evaluation.intervals import wilson
from zprl.recordings.phases import PhaseKind
from zprl.session.events import LABELS, Input, Label, State
from zprl.session.inputs import EpisodeNumber, Moment, Nonce, Seq, Stamp

WINDOW = 40
"""Labelled episodes of one phase that the running success is taken over."""
MAX_FRAME = 4 * 2**20
"""Longest camera picture [bytes]."""
MAX_CAMERAS = 8

Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Line = Annotated[str, Field(max_length=500)]
Word = Annotated[str, Field(max_length=60)]


class SnapshotPart(BaseModel):
    """A part of the snapshot: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gauge(SnapshotPart):
    """A number with what is allowed: tick, state age, force, torque."""

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


class Heartbeat(SnapshotPart):
    """One process of the session."""

    name: Word
    age_s: Amount | None = Field(description="Since it was last heard; null: never.")
    limit_s: Amount = Field(description="From here on it counts as silent.")
    restarts: Count = 0


class EventRow(SnapshotPart):
    """Something that happened, newest last."""

    at: Amount = Field(description="Unix time [s].")
    level: Literal["note", "clip", "hold", "soft_stop", "hard_stop"]
    kind: Word
    reason: Line
    count: int = Field(1, ge=1, description="How often in a run; the reason is the last one's.")


class EpisodeRow(SnapshotPart):
    """A committed episode."""

    number: EpisodeNumber
    phase: PhaseKind
    label: Label | None = Field(None, description="Null: nobody has said yet.")
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
    x: Word = Field(description="What runs along x.")
    points: tuple[tuple[Finite, Finite], ...] = Field((), max_length=2000)


class Answer(SnapshotPart):
    """What became of a press."""

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
    """Everything the page shows but the pictures."""

    format_version: Literal[1] = 1
    session: Word
    task: Word
    simulated: bool = Field(description="True for a double: nothing can be hurt.")
    mode: Literal["async", "sync"]
    seq: Seq = Field(description="Number of the present situation, which a press names.")
    at: Stamp = Field(
        description="When the session told of it, on the session's clock [s]; a press names it, too."
    )
    answers: tuple[Answer, ...] = Field(
        (), max_length=128, description="What became of the newest presses."
    )
    state: State
    episode: EpisodeNumber = Field(description="The open one, or the next.")
    phase: PhaseKind | None = Field(description="Of that episode; null: the plan is done.")
    phase_done: Count = Field(description="Labelled episodes of the phase.")
    phase_episodes: Count = Field(description="Of the plan.")
    step: Count | None = Field(None, description="Control steps of the running episode so far.")
    episode_steps: Count | None = Field(None, description="When its time is up.")
    prompt: Line = Field(description="What is asked of the operator now, or what is going on.")
    rule: Line = Field("", description="What a success is.")
    label_episode: EpisodeNumber | None = Field(
        description="What a label pressed now is about: the open episode, else the oldest without label."
    )
    paused: bool = False
    behind: bool = Field(False, description="Whether the next episode waits for the learner.")
    weights: Count | None = Field(
        None, description="Version of the weights in use; null: the start policy."
    )
    clips: Count = Field(0, description="Of the running episode.")
    arms: tuple[ArmHealth, ...] = Field((), max_length=8)
    processes: tuple[Heartbeat, ...] = Field((), max_length=32)
    events: tuple[EventRow, ...] = Field((), max_length=200)
    episodes: tuple[EpisodeRow, ...] = Field((), max_length=2000)
    curves: tuple[LearningCurve, ...] = Field((), max_length=8)
    cameras: tuple[Name, ...] = Field((), max_length=MAX_CAMERAS)
    limits: tuple[LimitRow, ...] = Field((), max_length=60)
    limits_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @computed_field
    @property
    def allowed(self) -> tuple[Input, ...]:
        """What the operator can say now; the e-stop always."""
        stopped = self.state in (State.ESTOP, State.FAULT)
        found = [Input.ESTOP]
        found += [kind for kind in LABELS if self.label_episode is not None]
        found += [Input.RESET_DONE] if self.state is State.AWAIT_RESET and not self.behind else []
        found += (
            [Input.RESUME if self.paused else Input.PAUSE]
            if not stopped and self.state is not State.DONE
            else []
        )
        found += [Input.CLEAR] if stopped else []
        return tuple(found)

    @computed_field
    @property
    def recent(self) -> Success | None:
        """Over the last :data:`WINDOW` labelled training episodes; ``None`` before the first."""
        training = [point for point in self.success_curve if point.phase is PhaseKind.TRAIN]
        return (
            Success(**training[-1].model_dump(include=set(Success.model_fields)))
            if training
            else None
        )

    @computed_field
    @property
    def success_curve(self) -> tuple[SuccessPoint, ...]:
        """The running success after every labelled episode, in their order."""
        return running_success(self.episodes)

    @computed_field
    @property
    def by_phase(self) -> dict[PhaseKind, Success]:
        """Success per phase: evaluations do not explore, training does."""
        found = {}
        for kind in PhaseKind:
            labels = [
                row.label
                for row in self.episodes
                if row.phase is kind and row.label in (Label.SUCCESS, Label.FAILURE)
            ]
            if labels:
                found[kind] = _success(labels)
        return found

    @property
    def moment(self) -> Moment:
        """What a key or a pedal needs to know."""
        return Moment(self.episode, self.label_episode, self.paused, self.seq, self.at)


def _success(labels: Collection[Label | None]) -> Success:
    successes = sum(label is Label.SUCCESS for label in labels)
    low, high = wilson(successes, len(labels))
    return Success(episodes=len(labels), successes=successes, low=low, high=high)


def running_success(episodes: Sequence[EpisodeRow]) -> tuple[SuccessPoint, ...]:
    """Success over the last :data:`WINDOW` labelled episodes of the same phase: evaluations do not explore, training does.

    Discarded ones and those without label do not count.
    """
    windows: dict[PhaseKind, deque[Label | None]] = {
        kind: deque(maxlen=WINDOW) for kind in PhaseKind
    }
    points = []
    for row in episodes:
        if row.label in (Label.SUCCESS, Label.FAILURE):
            window = windows[row.phase]
            window.append(row.label)
            points.append(
                SuccessPoint(
                    **_success(window).model_dump(),
                    episode=row.number,
                    phase=row.phase,
                    label=row.label,
                )
            )
    return tuple(points)


@dataclass(frozen=True)
class Frame:
    """A camera picture: JPEG bytes, and when it came, on the clock of :class:`ConsoleState` [s]."""

    jpeg: bytes
    stamp: float


class ConsoleState:
    """The newest snapshot and pictures, from the session's thread to the server's.

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
        """Make ``snapshot`` the newest; encoded here, once for all readers."""
        encoded = snapshot.model_dump_json()
        with self._lock:
            self._snapshot, self._json, self._stamp = snapshot, encoded, self._clock()
            self._seq += 1

    def publish_frame(self, camera: str, jpeg: bytes) -> None:
        """Make ``jpeg`` the newest picture of a camera.

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
                remedy="encode pictures as JPEG",
            )
        with self._lock:
            if camera not in self._frames and len(self._frames) >= MAX_CAMERAS:
                raise DataError(f"more than {MAX_CAMERAS} cameras", remedy="show fewer")
            self._frames[camera] = Frame(jpeg, self._clock())

    # -- the page's side ---------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest; ``None`` before the first."""
        return self._snapshot

    def frame(self, camera: str) -> Frame | None:
        """The newest picture of a camera."""
        with self._lock:
            return self._frames.get(camera)

    def message(self, known: int) -> tuple[int, str]:
        """What the stream says: a sequence number and JSON; the snapshot is left out where the page has it (``known``).

        ``age_s`` is how long the session has been silent (null: it has never spoken), ``frames``
        the age of each camera's picture [s].
        """
        with self._lock:
            now = self._clock()
            age = f"{now - self._stamp:.3f}" if self._seq else "null"
            frames = ",".join(
                f'"{name}":{now - frame.stamp:.3f}' for name, frame in self._frames.items()
            )
            body = f',"snapshot":{self._json}' if self._seq != known else ""
            return self._seq, f'{{"seq":{self._seq},"age_s":{age},"frames":{{{frames}}}{body}}}'
