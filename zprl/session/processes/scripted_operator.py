"""Process ``scripted``: the operator of a double.

It puts the cube back, watches, and labels; nothing of what it knows reaches the policy.
"""

from __future__ import annotations

import contextlib
import time

import numpy as np

from zprl.errors import EnvironmentProblem
from zprl.robot.base import Pose
from zprl.robot.task import GoalPosition
from zprl.robot_sim.control import SimControl
from zprl.session.bus import Bus
from zprl.session.process import Settings, Stopping, main

BEAT_S, REPEAT_S = 0.2, 0.2
LOOK_S = 0.01
"""Wall seconds between looks at the double while the policy acts."""


class ScriptedOperator:
    """Answers what the plan asks for.

    Args:
        settings: Of the session.
        bus: To speak on.
        control: The Franka double's control channel, where there is a cube to watch.
        place: Where a tool has to come to, where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        control: SimControl | None = None,
        place: GoalPosition | None = None,
    ) -> None:
        self.settings, self.bus, self.control, self.place = settings, bus, control, place
        self.there = False
        self.plan: dict = {"state": "IDLE"}
        self.placed: tuple[int, int, int] | None = None
        self.told, self.told_at = ("", 0), 0.0
        self.asked = ""
        """Names the present wait for a reset: the same episode is asked for again after a fault."""

    def act(self) -> None:
        """One look at plan and double."""
        for message in self.bus.poll(LOOK_S):
            if message.topic == "state":
                self._see(message.body["features"])
                continue
            if message.body["state"] == "AWAIT_RESET" != self.plan["state"]:
                self.asked = f"-{time.monotonic_ns()}"
                self.there = False  # the arm is at home; what it says next is of the new episode
            self.plan = message.body
        match self.plan["state"]:
            case "AWAIT_RESET" if self.plan.get("reset") and not self.plan["behind"]:
                self._reset(self.plan["reset"])
            case "RUNNING" | "STOPPING":
                self._watch(int(self.plan["number"]))
            case "AWAIT_LABEL":
                for number in self.plan["pending"] or [int(self.plan["number"])]:
                    self._say("failure", number)  # a success is seen while it happens

    def _reset(self, wanted: dict) -> None:
        place = (int(wanted["evaluation"]), int(wanted["start_number"]))
        if self.placed != (int(wanted["episode"]), *place):
            seed = (
                self.settings.config.evaluation_seed if wanted["evaluation"] else self.settings.seed
            )
            if self.control is not None:
                self.control.reset(seed, place[1])
            self.placed = (int(wanted["episode"]), *place)
        self._say("reset_done", int(wanted["episode"]), self.asked)

    def _watch(self, number: int) -> None:
        if self.plan["state"] == "RUNNING" and (
            self.there if self.control is None else self.control.state().lifted
        ):
            self._say("success", number)

    def _see(self, features: dict) -> None:
        """Where the tool is."""
        if self.place is not None:
            off = Pose.read(features, self.place.arm).position - np.array(self.place.position)
            self.there = bool(np.linalg.norm(off) <= self.place.radius)

    def _say(self, kind: str, number: int, more: str = "") -> None:
        """The nonce names what is said, so that saying it again is harmless."""
        press = {
            "kind": kind,
            "episode": number,
            "nonce": f"{kind}-{number}{more}",
            "source": "scripted",
        }
        if (
            self.told == (press["nonce"], self.plan["seq"])
            and time.monotonic() - self.told_at < REPEAT_S
        ):
            return
        self.told, self.told_at = (press["nonce"], self.plan["seq"]), time.monotonic()
        self.bus.publish("input", press | {"seq": self.plan["seq"], "at": self.plan["at"]})


def run(settings: Settings, stopping: Stopping) -> None:
    """Operate until asked to stop."""
    if settings.twin is None:
        raise EnvironmentProblem(
            "a scripted operator needs a double", remedy="leave it out where the robot is real"
        )
    rule = settings.conditions().task.label.double
    place = rule if isinstance(rule, GoalPosition) else None
    bus = Bus(
        settings.sockets,
        "scripted",
        {"supervisor": ["plan"]} | ({"driver": ["state"]} if place else {}),
    )
    with contextlib.ExitStack() as stack:
        control = None if place else stack.enter_context(SimControl(settings.twin))
        operator, beat = ScriptedOperator(settings, bus, control, place), 0.0
        while not stopping:
            operator.act()
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                bus.publish("beat", {})
    bus.close()


if __name__ == "__main__":
    main(run)
