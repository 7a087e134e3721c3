"""Process ``operator_devices``: a foot pedal and a SpaceMouse beside the robot.

It runs where ``ZPRL_PEDAL`` or ``ZPRL_SPACEMOUSE`` name a device.  A pedal's press becomes an
``input`` as on the operator's page.  The SpaceMouse's state goes to the driver as it is
(``twist``), which alone decides who has the arm.  A device that is lost ends the process, and with
it the arm's motion, until it is back.
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
from zprl.session.inputs import Moment, OperatorInput, open_device, this_user
from zprl.session.messages import Beat, Plan, Topic, Twist
from zprl.session.pedal import Pedal
from zprl.session.process import Settings, Stopping, main
from zprl.session.spacemouse import REST, MouseState, SpaceMouse

PEDAL, SPACEMOUSE = "ZPRL_PEDAL", "ZPRL_SPACEMOUSE"
"""Environment: a device file each; ``auto`` takes the first SpaceMouse there is."""
TICK_S, BEAT_S = 0.01, 0.2
OPEN = (State.RUNNING, State.INTERVENTION, State.STOPPING, State.AWAIT_LABEL)
"""States in which an episode is open."""


def wanted() -> bool:
    """Return whether this workstation has such a device."""
    return bool(os.environ.get(PEDAL) or os.environ.get(SPACEMOUSE))


def moment(plan: Plan) -> Moment:
    """Return the present moment: a label is about the oldest episode without one, or the open one.

    Args:
        plan: The supervisor's newest plan.
    """
    open_number = plan.number if plan.state in OPEN else None
    return Moment(
        episode=plan.next if plan.state is State.AWAIT_RESET else plan.number or None,
        label_episode=plan.pending[0] if plan.pending else open_number,
        paused=plan.paused,
        seq=plan.seq,
        at=plan.at,
    )


class TwistPublisher:
    """Publisher of the mouse's state while it is not at rest, and once when it comes to rest.

    Args:
        bus: Bus of this process.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._last = REST

    def publish(self, state: MouseState) -> None:
        """Publish the present state, unless the mouse rests as before."""
        if state != REST or self._last != REST:
            x, y, z, roll, pitch, yaw = state.twist
            twist = (x, y, z, roll, pitch, yaw)
            self.bus.publish(Twist(twist=twist, buttons=state.buttons, at=clock.now()))
        self._last = state


def run(settings: Settings, stopping: Stopping) -> None:
    """Publish presses and the mouse's state until asked to stop.

    Raises:
        EnvironmentProblem: a device is missing or lost.
    """
    bus = Bus(settings.sockets, "operator_devices", {"supervisor": [Topic.PLAN]})
    inputs = InputPublisher(bus)
    twists = TwistPublisher(bus)
    # The devices' threads put into these, so that one thread uses the bus.
    presses = queue.SimpleQueue[OperatorInput]()
    lost = queue.SimpleQueue[str]()
    now = Moment()
    mouse: SpaceMouse | None = None
    beat = 0.0
    stopped = False

    with contextlib.ExitStack() as stack:
        if path := os.environ.get(PEDAL):
            pedal = Pedal(open_device(path), presses.put, lambda: now, on_lost=lost.put)
            stack.enter_context(pedal)
        if path := os.environ.get(SPACEMOUSE):
            device = None if path == "auto" else path
            mouse = stack.enter_context(SpaceMouse.open(device, on_lost=lost.put))

        while not stopping:
            for message in bus.poll(TICK_S):
                if isinstance(plan := message.contents, Plan):
                    now = moment(plan)
                    stopped = plan.state is State.ESTOP

            while not presses.empty():
                inputs.publish(presses.get().model_copy(update={"author": this_user()}))
            inputs.flush()
            if mouse is not None:
                twists.publish(mouse.read())

            if not lost.empty():
                raise EnvironmentProblem(
                    f"an operator's device is gone: {lost.get()}", remedy="plug it in again"
                )
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                inputs.beat(Beat(), stopped=stopped)
    bus.close()


if __name__ == "__main__":
    main(run)
