"""Episodes as the driver plays them, control step by control step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from zprl.recordings.conditions import Conditions
from zprl.robot.base import Values
from zprl.robot.events import Event, Level
from zprl.robot.feature_mapping import ObsLayout
from zprl.session.bus import Bus, ReliableQueue
from zprl.session.contents import Contents
from zprl.session.control.arms import Arms
from zprl.session.control.chunks import NO_DECISION, ChunkPlayer
from zprl.session.control.frames import ControlFrame, observed, values
from zprl.session.control.person import Person
from zprl.session.control.tick_clock import TickClock
from zprl.session.events import Input, State
from zprl.session.messages import ChunkAnswer, ControlRow, LastObservation, Plan, notice
from zprl.session.spacemouse import Feel

REQUEST_S, FINAL_REQUEST_S = 0.1, 1.0
"""Host seconds after which a request is repeated: for a chunk, and for the embedding of an
episode's last observation."""
FIRST_CHUNK_S = 10.0
"""Patience with an episode's first chunk: the arm has not moved yet."""


class EpisodeProgress:
    """The episode being played: its step, its chunks, its rows.

    Args:
        in_force: The task and the limits that the session runs under.
        arms: The arms.
        clock: The robot's clock.
        bus: Bus of the process.
        feed: Line to the recorder.
        publish: Publishes an event.
        fault: Stops the arm: kind and reason.

    Attributes:
        number: Number of the episode; 0 before the first.
        step: Control steps so far.
        finished: Whether its last observation is recorded.
    """

    def __init__(
        self,
        in_force: Conditions,
        arms: Arms,
        clock: TickClock,
        bus: Bus,
        feed: ReliableQueue,
        *,
        publish: Callable[[Event], None],
        fault: Callable[[str, str], None],
    ) -> None:
        self.task, self.limits = in_force.task, in_force.limits
        self.limits_digest = in_force.digests["limits"]
        self.arms, self.clock, self.bus, self.feed = arms, clock, bus, feed
        self.publish, self.fault = publish, fault

        self.layout = ObsLayout(self.task.observation)
        self.history: deque[dict[str, np.ndarray]] = deque(maxlen=max(self.task.obs_steps, 1))
        self.chunks = ChunkPlayer(bus)
        self.person_arm = arms.prefixes[0]
        """Prefix of the arm that a person leads with the SpaceMouse; of two, the first."""
        feel = Feel.within(self.limits.arms[self.person_arm], self.task.rate_hz)
        self.person = Person(bus, feel)
        self.begin(0)

    def begin(self, number: int) -> None:
        """Be ready for an episode."""
        self.number, self.step, self.finished = number, 0, False
        self.chunks.begin()
        self.clock.intervals.clear()
        self.arms.clipped = False  # on the way home it may have been
        self.action = np.zeros(self.arms.layout.width, np.float32)

    def control_step(self, plan: Plan, features: Values) -> ControlFrame | None:
        """Choose the target of a control step: a person's, or the next action of the chunk.

        Args:
            plan: The supervisor's newest plan.
            features: The robot's features by name.

        Returns:
            The row to record; ``None``: the step has not begun, or the episode has ended.
        """
        obs = self.layout.read(features)
        if self.step == 0 and self.chunks.requested == NO_DECISION:
            self.history.clear()
        self.history.append(obs)

        stopping = plan.state is State.STOPPING
        if not stopping and self.step >= self.task.episode_steps:
            self.bus.publish(notice("time_out", self.number, "the time is up"))
            stopping = True
        if stopping:
            self._finish(plan, features, obs)
            return None

        intervention = self._follow_person(plan)
        if not intervention and not self._play_chunk(plan):
            self.history.pop()  # the step has not begun: its observation is read again
            return None

        frame = self._frame(features, obs, intervention=intervention)
        self.arms.clipped = False
        self.step += 1
        return frame

    def _follow_person(self, plan: Plan) -> bool:
        """Choose the target of a person at the SpaceMouse; return whether one has the arm."""
        command = self.person.step()
        if command.edge is Input.INTERVENE:
            # From where the arm is sent to, not from where the policy wanted it.
            self.arms.hold()
            self.chunks.abandon()
        self.person.report(plan, self.number, engaged=command.engaged)
        if command.engaged:
            self.action = self.arms.lead(self.person_arm, command)
        return command.engaged

    def _play_chunk(self, plan: Plan) -> bool:
        """Choose the next action of the chunk; hold where there is none.

        Returns:
            False where the step must wait for a chunk.
        """
        waits = plan.mode == "sync"
        self.chunks.switch()
        if self.chunks.due(0 if waits else self.task.lead_steps):
            self._request(plan)
        if self.chunks.playing.left == 0:
            self._wait_for_chunk(waits=waits)
            self.action = self.arms.layout.held(self.action)
            return self.step > 0 and not waits

        self.action = self.chunks.playing.next()
        self.arms.play(self.action)
        return True

    def _request(self, plan: Plan, *, final: bool = False) -> None:
        missing = self.task.obs_steps - len(self.history)
        history = [self.history[0]] * missing + list(self.history)
        stamp = self.arms.robot.state_stamp()
        self.chunks.request(plan, history, step=self.step, stamp=stamp, final=final)

    def repeat_final_request(self) -> None:
        """Request the embedding of the last observation again: a new actor has not received it."""
        self.chunks.repeat(FINAL_REQUEST_S)

    def _wait_for_chunk(self, *, waits: bool) -> None:
        """Keep the last target while there is no chunk; come to rest when it takes too long."""
        now = self.clock.now
        self.chunks.repeat(REQUEST_S)
        if self.chunks.late_since is None:
            self.chunks.late_since = now
            if self.step > 0 and not waits:
                reason = "the next chunk is not there: holding"
                self.publish(Event("chunk_late", Level.HOLD, reason, stamp=now))
            return

        late = now - self.chunks.late_since
        if late > (self.limits.command_age_s if self.step else FIRST_CHUNK_S):
            self.fault("chunk_missing", f"no chunk for {late:.2f} s")

    def take_chunk(self, chunk: ChunkAnswer, targets: np.ndarray) -> None:
        """Take in a chunk of this episode and the requested decision; drop any other.

        Args:
            chunk: The facts of the chunk.
            targets: Its actions (C, A).
        """
        if chunk.number != self.number or not self.chunks.awaits(chunk.decision):
            return
        defect = self.arms.layout.defect(targets, self.task.chunk_steps)
        if defect:
            self.fault("chunk_broken", f"{defect}: look into the actor's log")
        else:
            self.chunks.take(targets)

    def _frame(
        self, features: Values, obs: dict[str, np.ndarray], *, intervention: bool
    ) -> ControlFrame:
        """Return the row of this step: its action, and what had been sent until then."""
        plays = not intervention and self.chunks.late_since is None
        row = ControlRow(
            number=self.number,
            step=self.step,
            decision=self.chunks.playing.decision if plays else NO_DECISION,
            clipped=self.arms.clipped,
            stamp=self.arms.robot.state_stamp(),
            host=time.monotonic(),
            intervention=intervention,
            limits=self.limits_digest,
        )
        arrays = observed(features, obs, self.arms.prefixes)
        arrays["commanded"] = np.asarray(self.action, np.float32)
        arrays["sent"] = values(self.arms.sent)
        health = self.arms.robot.health()
        return ControlFrame(row, arrays, features, self.chunks.playing.left, health)

    def record(self, frame: ControlFrame, digests: dict[str, str]) -> None:
        """Send the row of a control step to the recorder, and the state to the others."""
        self._put(frame.row, frame.arrays)
        self.bus.publish(frame.state(digests))

    def _put(self, contents: Contents, arrays: dict[str, np.ndarray]) -> None:
        if not self.feed.put("driver", contents, arrays):
            self.fault("recorder_full", "the recorder does not keep up")

    def _finish(self, plan: Plan, features: Values, obs: dict[str, np.ndarray]) -> None:
        """Record the episode's last observation, and have the actor embed it."""
        self.finished = True
        # A chunk may be under way under the present number: the last observation takes the next
        # one, so that no answer is taken for the other.
        self.chunks.decision += 1
        self._request(plan, final=True)

        last = LastObservation(
            number=self.number,
            step=self.step,
            features=tuple(sorted(features)),
            sent=tuple(self.arms.sent),
            stamp=self.arms.robot.state_stamp(),
            host=time.monotonic(),
            limits=self.limits_digest,
        )
        timed = last.model_copy(update=self.clock.timing())
        self._put(timed, observed(features, obs, self.arms.prefixes))
        self.bus.publish(notice("episode_ended", self.number, steps=self.step))
