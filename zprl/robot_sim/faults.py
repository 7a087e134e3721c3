"""Faults of a robot, as messages of the operator's channel; the unmodified client sees each.

Durations are seconds of the robot's clock, but for ``freeze``, which stops that clock and lasts
seconds of the wall's.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from zprl import seeding
from zprl.robot_sim.state_packet import FLAG_INDEX
from zprl.strict_model import FiniteModel

Component = Annotated[float, Field(ge=-200.0, le=200.0)]
Seconds = Annotated[float, Field(ge=0.0, le=600.0)]


class Reflex(FiniteModel):
    """The arm's own safety stops it, with this error flag."""

    fault: Literal["reflex"] = "reflex"
    # The names stand in one place, the packet's layout, which mypy cannot read.
    flag: Literal[tuple(FLAG_INDEX)] = "cartesian_reflex"  # type: ignore[valid-type]


class UserStop(FiniteModel):
    """The stop button is pressed, or let go."""

    fault: Literal["user_stop"] = "user_stop"
    pressed: bool = True


class RefuseRecovery(FiniteModel):
    """Error recovery is answered with "manual recovery required", or no longer."""

    fault: Literal["refuse_recovery"] = "refuse_recovery"
    on: bool = True


class Push(FiniteModel):
    """A wrench at the tool in the base frame that really acts on the arm.

    It rises linearly during ``ramp``, then stays for ``seconds``.
    """

    fault: Literal["push"] = "push"
    force: tuple[Component, Component, Component]
    torque: tuple[Component, Component, Component] = (0.0, 0.0, 0.0)
    ramp: Seconds = 0.0
    seconds: Seconds = 1.0


class LoseStates(FiniteModel):
    """A share of the state packets does not arrive; 1 mutes the robot.

    Motion goes on with the last command.
    """

    fault: Literal["lose_states"] = "lose_states"
    share: float = Field(1.0, ge=0.0, le=1.0)
    seconds: Seconds = 0.2


class Freeze(FiniteModel):
    """The robot's computer hangs: nothing is answered, time stands still.

    ``seconds`` are those of the wall clock.
    """

    fault: Literal["freeze"] = "freeze"
    seconds: Seconds = 2.0


class BadGripper(FiniteModel):
    """Gripper commands start late [s], or fail without a motion."""

    fault: Literal["gripper"] = "gripper"
    delay: Seconds = 0.0
    fail: bool = False


class Clear(FiniteModel):
    """End every fault but a reflex that has happened: the client must recover from it."""

    fault: Literal["clear"] = "clear"


Fault = Annotated[
    Reflex | UserStop | RefuseRecovery | Push | LoseStates | Freeze | BadGripper | Clear,
    Field(discriminator="fault"),
]


class Faults:
    """Faults that are on."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.clear()

    def clear(self) -> None:
        """End all faults."""
        self.pressed = False
        self.refuse_recovery = False
        self.gripper = BadGripper()
        self._push: Push | None = None
        self._push_start = 0.0
        self._mute_end = 0.0
        self._share = 0.0
        self._frozen_until = 0.0

    def switch(self, fault: Fault, now: float) -> None:
        """Begin a fault at robot time ``now``; reflexes are the server's task."""
        match fault:
            case UserStop():
                self.pressed = fault.pressed
            case RefuseRecovery():
                self.refuse_recovery = fault.on
            case Push():
                self._push = fault
                self._push_start = now
            case LoseStates():
                self._share = fault.share
                self._mute_end = now + fault.seconds
            case Freeze():
                self._frozen_until = time.monotonic() + fault.seconds
            case BadGripper():
                self.gripper = fault
            case Clear():
                self.clear()

    @property
    def frozen(self) -> bool:
        """True while the robot hangs."""
        return self._frozen_until > 0.0 and time.monotonic() < self._frozen_until

    def loses(self, step: int, now: float) -> bool:
        """Return True where the state packet of this step is lost.

        It is a pure function of seed and step.
        """
        if now >= self._mute_end:
            return False
        if self._share >= 1.0:
            return True
        return seeding.derive(self._seed, "lost-state", step) < self._share * 2**63

    def wrench(self, now: float) -> np.ndarray | None:
        """Return the wrench that acts at this moment (6,), or ``None``."""
        push = self._push
        if push is None:
            return None

        age = now - self._push_start
        if age > push.ramp + push.seconds:
            self._push = None
            return np.zeros(6)
        scale = 1.0 if age >= push.ramp else age / push.ramp
        return scale * np.array((*push.force, *push.torque))
