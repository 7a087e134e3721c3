"""Process ``hand``: a foot pedal and a SpaceMouse beside the robot.  It runs where ``ZPRL_PEDAL`` or ``ZPRL_SPACEMOUSE`` name a device.

A pedal's press becomes an ``input`` as on the operator's page.  What is felt at the SpaceMouse goes
to the driver as it is (``twist``), which alone decides who has the arm.  A device that is lost ends
the process, and with it the arm's motion, until it is back.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time

from zprl.errors import EnvironmentProblem
from zprl.session import clock
from zprl.session.bus import Bus
from zprl.session.events import State
from zprl.session.input_publisher import InputPublisher
from zprl.session.inputs import Moment, OperatorInput, Pedal, open_device, this_user
from zprl.session.process import Settings, Stopping, main
from zprl.session.spacemouse import REST, MouseState, SpaceMouse

PEDAL, SPACEMOUSE = "ZPRL_PEDAL", "ZPRL_SPACEMOUSE"
"""Environment: a device file each; ``auto`` takes the first SpaceMouse there is."""
TICK_S, BEAT_S = 0.01, 0.2


def wanted() -> bool:
    """Whether this workstation has such a device."""
    return bool(os.environ.get(PEDAL) or os.environ.get(SPACEMOUSE))


def moment(plan: dict) -> Moment:
    """What a press is about now: the open episode, and the oldest one without a label."""
    number, pending = int(plan["number"]), plan["pending"]
    open_ = plan["state"] in (State.RUNNING, State.INTERVENTION, State.STOPPING, State.AWAIT_LABEL)
    return Moment(
        episode=int(plan["next"]) if plan["state"] == State.AWAIT_RESET else number or None,
        label_episode=pending[0] if pending else number if open_ else None,
        paused=bool(plan["paused"]),
        seq=int(plan["seq"]),
        at=float(plan["at"]),
    )


class Felt:
    """Publishes the mouse's state while it is not at rest, and once when it comes to rest.

    Args:
        bus: To speak on.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._last = REST

    def tell(self, state: MouseState) -> None:
        """Tell the state of this moment."""
        if state != REST or self._last != REST:
            self.bus.publish(
                "twist", {"twist": list(state.twist), "buttons": state.buttons, "at": clock.now()}
            )
        self._last = state


def run(settings: Settings, stopping: Stopping) -> None:
    """Pass on what hands and feet do until asked to stop."""
    bus = Bus(settings.sockets, "hand", {"supervisor": ["plan"]})
    mouth, felt, presses, lost = (
        InputPublisher(bus),
        Felt(bus),
        queue.SimpleQueue[OperatorInput](),
        queue.SimpleQueue[str](),
    )
    now, mouse, beat = [Moment()], None, 0.0
    plan: dict = {"state": State.IDLE}
    with contextlib.ExitStack() as stack:
        if path := os.environ.get(PEDAL):
            stack.enter_context(
                Pedal(open_device(path), presses.put, lambda: now[0], on_lost=lost.put)
            )
        if path := os.environ.get(SPACEMOUSE):
            mouse = stack.enter_context(
                SpaceMouse.open(None if path == "auto" else path, on_lost=lost.put)
            )
        while not stopping:
            for message in bus.poll(TICK_S):
                plan = message.body
                now[0] = moment(plan)
            while not presses.empty():
                mouth.publish(presses.get().model_copy(update={"author": this_user()}))
            mouth.flush()
            if mouse is not None:
                felt.tell(mouse.read())
            if not lost.empty():
                raise EnvironmentProblem(
                    f"an operator's device is gone: {lost.get()}", remedy="plug it in again"
                )
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                mouth.beat(stopped=plan["state"] == State.ESTOP)
    bus.close()


if __name__ == "__main__":
    main(run)
