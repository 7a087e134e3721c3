"""A person who leads the arm with the SpaceMouse."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from zprl.session import clock
from zprl.session.bus import Bus
from zprl.session.events import Input, State
from zprl.session.inputs import OperatorInput
from zprl.session.messages import Plan, Twist
from zprl.session.spacemouse import (
    REST,
    STALE_S,
    Feel,
    Intervention,
    InterventionCommand,
    MouseState,
    SpaceMouse,
)

REPEAT_S = 0.2
"""Host seconds after which the supervisor is informed again that a person has the arm, or has it no
more."""


class Person:
    """Commands of a person at the SpaceMouse, and who has the arm.

    Args:
        bus: Bus of the process.
        feel: Scale of the commands.
    """

    def __init__(self, bus: Bus, feel: Feel) -> None:
        self.bus = bus
        self.intervention = Intervention(feel)
        self.mouse, self.mouse_at = REST, -math.inf
        self.sent_at = -math.inf

    def take(self, twist: Twist) -> None:
        """Take in the state of the mouse; a time to come counts as the present moment."""
        self.mouse = MouseState(twist.twist, twist.buttons)
        self.mouse_at = min(twist.at, clock.now())

    def step(self) -> InterventionCommand:
        """Return what the person asks for in this control step; a silent mouse is at rest."""
        fresh = clock.now() - self.mouse_at < STALE_S
        mouse = self.mouse if fresh else replace(self.mouse, twist=REST.twist)
        return self.intervention.step(mouse)

    def report(self, plan: Plan, number: int, *, engaged: bool) -> None:
        """Inform the supervisor who has the arm until its plan says the same.

        A press for a state that has changed is lost.

        Args:
            plan: The supervisor's newest plan.
            number: Number of the episode.
            engaged: Whether the person has the arm.
        """
        differs = plan.state is (State.RUNNING if engaged else State.INTERVENTION)
        if not differs or time.monotonic() - self.sent_at < REPEAT_S:
            return
        self.sent_at = time.monotonic()
        press = OperatorInput(
            kind=Input.INTERVENE if engaged else Input.RELEASE,
            episode=number,
            source=SpaceMouse.name,
            seq=plan.seq,
            at=plan.at,
        )
        self.bus.publish(press)
