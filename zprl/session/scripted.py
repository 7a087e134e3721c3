"""Process ``scripted``: the operator of a double.

It puts the cube back, watches, and labels; nothing of what it knows reaches the policy.
"""

from __future__ import annotations

import time

from zprl.errors import EnvironmentProblem
from zprl.robot.twin.control import TwinControl
from zprl.session.bus import Bus
from zprl.session.child import Settings, Stopping, main

BEAT_S = 0.2
LOOK_S = 0.01
"""Wall seconds between looks at the double while the policy acts."""


class Operator:
    """Answers what the plan asks for.

    Args:
        settings: Of the session.
        bus: To speak on.
        control: The double's control channel.
    """

    def __init__(self, settings: Settings, bus: Bus, control: TwinControl) -> None:
        self.settings, self.bus, self.control = settings, bus, control
        self.plan: dict = {"state": "IDLE"}
        self.placed: tuple[int, int, int] | None = None
        self.asked = ""
        """Names the present wait for a reset: the same episode is asked for again after a fault."""

    def act(self) -> None:
        """One look at plan and double."""
        for message in self.bus.poll(LOOK_S):
            if message.body["state"] == "AWAIT_RESET" != self.plan["state"]:
                self.asked = f"-{time.monotonic_ns()}"
            self.plan = message.body
        match self.plan["state"]:
            case "AWAIT_RESET" if self.plan.get("reset"):
                self._reset(self.plan["reset"])
            case "RUNNING" | "STOPPING":
                self._watch(int(self.plan["number"]))
            case "AWAIT_LABEL":
                for number in self.plan["pending"] or [int(self.plan["number"])]:
                    self._say("failure", number)  # a success is seen while it happens

    def _reset(self, wanted: dict) -> None:
        place = (int(wanted["evaluation"]), int(wanted["start_number"]))
        if self.placed != (int(wanted["episode"]), *place):
            seed = self.settings.config.evaluation_seed if wanted["evaluation"] else self.settings.seed
            self.control.reset(seed, place[1])
            self.placed = (int(wanted["episode"]), *place)
        self._say("reset_done", int(wanted["episode"]), self.asked)

    def _watch(self, number: int) -> None:
        if self.plan["state"] == "RUNNING" and self.control.state().lifted:
            self._say("success", number)

    def _say(self, kind: str, number: int, more: str = "") -> None:
        """The nonce names what is said, so that saying it again is harmless."""
        self.bus.publish("input", {"kind": kind, "episode": number, "nonce": f"{kind}-{number}{more}", "source": "scripted"})


def run(settings: Settings, stopping: Stopping) -> None:
    """Operate until asked to stop."""
    if settings.twin is None:
        raise EnvironmentProblem("a scripted operator needs a double", remedy="leave it out where the robot is real")
    bus = Bus(settings.sockets, "scripted", {"supervisor": ["plan"]})
    with TwinControl(settings.twin) as control:
        operator, beat = Operator(settings, bus, control), 0.0
        while not stopping:
            operator.act()
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                bus.publish("beat", {})
    bus.close()


if __name__ == "__main__":
    main(run)
