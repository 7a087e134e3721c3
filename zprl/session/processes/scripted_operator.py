"""Process ``scripted``: the operator of a simulated robot.

It puts the cube back, watches, and labels; nothing of what it knows reaches the policy.
"""

from __future__ import annotations

import contextlib
import time

import numpy as np

from zprl.errors import EnvironmentProblem
from zprl.robot.base import Pose, Values
from zprl.robot.task import GoalPosition
from zprl.robot_sim.control import SimControl
from zprl.session.bus import Bus
from zprl.session.events import Input, State
from zprl.session.inputs import OperatorInput
from zprl.session.messages import Beat, Plan, ResetRequest, RobotState, Topic
from zprl.session.process import Settings, Stopping, main, turns

REPEAT_S = 0.2
"""Seconds after which the same press is sent again."""
POLL_S = 0.01
"""Wall seconds between looks at the simulated robot while the policy acts."""


class ScriptedOperator:
    """Answers what the plan asks for.

    Args:
        settings: Settings of the session.
        bus: Bus of the process.
        control: The simulated Franka's control channel, where there is a cube to watch.
        place: Where a tool has to come to, where there is no cube.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        control: SimControl | None = None,
        place: GoalPosition | None = None,
    ) -> None:
        self.settings, self.bus, self.control, self.place = settings, bus, control, place
        self.arrived = False
        self.plan: Plan | None = None
        self.placed: ResetRequest | None = None
        self.sent = ("", 0)
        """Nonce and situation of the last press."""
        self.sent_at = 0.0
        self.asked = ""
        """Names the present wait for a reset: the same episode is asked for again after a fault."""

    def step(self) -> None:
        """Take in what has arrived, then answer the plan."""
        for message in self.bus.poll(POLL_S):
            match message.contents:
                case RobotState(features=features):
                    self._locate_tool(features)
                case Plan() as plan:
                    self._follow(plan)

        if self.plan is not None:
            self._answer(self.plan)

    def beat(self) -> None:
        """Publish a beat."""
        self.bus.publish(Beat())

    def _follow(self, plan: Plan) -> None:
        before = State.IDLE if self.plan is None else self.plan.state
        if plan.state is State.AWAIT_RESET and before is not State.AWAIT_RESET:
            self.asked = f"-{time.monotonic_ns()}"
            self.arrived = False  # the arm is at home; its next states are of the new episode
        self.plan = plan

    def _answer(self, plan: Plan) -> None:
        match plan.state:
            case State.AWAIT_RESET if plan.reset is not None and not plan.behind:
                self._reset(plan, plan.reset)
            case State.RUNNING if self._succeeded():
                self._press(plan, Input.SUCCESS, plan.number)
            case State.AWAIT_LABEL:
                # A success is pressed while it happens: what is left has failed.
                for number in plan.pending or (plan.number,):
                    self._press(plan, Input.FAILURE, number)

    def _reset(self, plan: Plan, wanted: ResetRequest) -> None:
        """Put the scene in order, once for each episode, and confirm it."""
        if self.placed != wanted:
            config = self.settings.config
            seed = config.evaluation_seed if wanted.evaluation else self.settings.seed
            if self.control is not None:
                self.control.reset(seed, wanted.start_number)
            self.placed = wanted
        self._press(plan, Input.RESET_DONE, wanted.episode, self.asked)

    def _succeeded(self) -> bool:
        return self.arrived if self.control is None else self.control.state().lifted

    def _locate_tool(self, features: Values) -> None:
        if self.place is not None:
            offset = Pose.read(features, self.place.arm).position - np.array(self.place.position)
            self.arrived = bool(np.linalg.norm(offset) <= self.place.radius)

    def _press(self, plan: Plan, kind: Input, number: int, more: str = "") -> None:
        """Send a press; its nonce names what it says, so that sending it again is harmless."""
        nonce = f"{kind}-{number}{more}"
        if self.sent == (nonce, plan.seq) and time.monotonic() - self.sent_at < REPEAT_S:
            return
        self.sent, self.sent_at = (nonce, plan.seq), time.monotonic()

        press = OperatorInput(
            kind=kind, episode=number, nonce=nonce, source="scripted", seq=plan.seq, at=plan.at
        )
        self.bus.publish(press)


def run(settings: Settings, stopping: Stopping) -> None:
    """Operate until asked to stop."""
    if settings.robot_sim is None:
        raise EnvironmentProblem(
            "a scripted operator needs a simulated robot",
            remedy="leave it out where the robot is real",
        )
    rule = settings.conditions().task.label.simulated
    place = rule if isinstance(rule, GoalPosition) else None
    listen = {"supervisor": [Topic.PLAN]}
    if place is not None:
        listen["driver"] = [Topic.STATE]
    bus = Bus(settings.sockets, "scripted", listen)

    with contextlib.ExitStack() as stack:
        control = None if place else stack.enter_context(SimControl(settings.robot_sim))
        operator = ScriptedOperator(settings, bus, control, place)
        for _ in turns(stopping, operator.beat):
            operator.step()
    bus.close()


if __name__ == "__main__":
    main(run)
