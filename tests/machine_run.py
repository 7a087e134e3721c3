"""A session's state machine, and those around it, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zprl.session.events import (
    Action,
    CommitEpisode,
    Committed,
    Happening,
    Homed,
    Input,
    InputEvent,
    Labelled,
    Phase,
    PhaseKind,
    Ready,
    State,
    Stopped,
    StoreLabel,
)
from zprl.session.state_machine import Machine

BEFORE, TRAIN, AFTER = PhaseKind.EVALUATE_BEFORE, PhaseKind.TRAIN, PhaseKind.EVALUATE_AFTER


def phases(before: int, train: int, after: int) -> tuple[Phase, ...]:
    """Return a plan of so many episodes in each phase; a phase of none is left out."""
    plan = (
        Phase(BEFORE, before),
        Phase(TRAIN, train, explore=True, learn=True),
        Phase(AFTER, after),
    )
    return tuple(phase for phase in plan if phase.episodes)


class MachineRun:
    """A machine with its operator, its driver and its recorder.

    Args:
        machine: The machine.

    Attributes:
        presses: Presses so far; the nonce of the n-th is ``press`` and n.
        lines: Labels that the recorder has stored.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.presses = 0
        self.lines = 0

    @property
    def state(self) -> State:
        return self.machine.state

    def handle(self, event: Happening) -> list[Action]:
        return self.machine.handle(event)

    def press(
        self, kind: Input | str, episode: int | None = None, nonce: str | None = None
    ) -> list[Action]:
        """Press a key."""
        self.presses += 1
        nonce = nonce or f"press{self.presses}"
        return self.handle(InputEvent(Input(kind), nonce, "test", episode))

    def to_reset(self) -> list[Action]:
        """Bring the arm home."""
        if self.state is State.IDLE:
            self.handle(Ready())
        assert self.state is State.HOMING
        return self.handle(Homed())

    def to_running(self) -> list[Action]:
        """Bring the arm home, put the scene in order and begin an episode."""
        self.to_reset()
        return self.press(Input.RESET_DONE, self.machine.number)

    def store(self, actions: Iterable[Action]) -> list[Action]:
        """Do what a recorder does."""
        out: list[Action] = []
        for action in actions:
            label: Any = action
            if isinstance(action, CommitEpisode):
                out += self.handle(Committed(action.number))
                label = action.label
            if isinstance(label, StoreLabel):
                self.lines += 1
                out += self.handle(Labelled(label.episode, label.nonce, self.lines))
        return out

    def play(self, label: str = "success") -> list[Action]:
        """Play one episode from homing to its stored label."""
        self.to_running()
        number = self.machine.number
        self.press(label, number)
        return self.store(self.handle(Stopped(number)))


def of(kind: type | tuple[type, ...], actions: Iterable[Action]) -> list[Any]:
    """Return the actions of a kind."""
    return [action for action in actions if isinstance(action, kind)]
