"""Process ``console``: the operator's page.  What the bus says becomes the page's snapshot; what is pressed becomes an ``input``."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.session.bus import Bus
from zprl.session.child import Settings, Stopping, main
from zprl.session.console.app import SendInput
from zprl.session.console.serve import Console
from zprl.session.console.state import ConsoleState
from zprl.session.console.watch import TOPICS, Watch
from zprl.session.eyes import Eyes
from zprl.session.inputs import OperatorInput
from zprl.session.signals import Input, State

POLL_S, BEAT_S, SHOW_S, CAMERA_S = 0.02, 0.2, 0.2, 0.2
REPEATS, STOP_REPEATS = 3, 150
"""How often a press is said again, every ``BEAT_S``: who has just started does not hear the first one.  A nonce makes it one press."""
ADDRESS = "console.json"


@dataclass
class _Said:
    press: OperatorInput
    left: int


class Mouth:
    """Says presses on the bus, from any thread and without waiting for whatever else this process does.

    Args:
        bus: Of the process; nobody else publishes on it.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._lock = threading.Lock()
        self._said: list[_Said] = []

    def say(self, press: OperatorInput) -> None:
        """Say it now."""
        with self._lock:
            self.bus.publish("input", press.model_dump(mode="json"))
            self._said.append(_Said(press, STOP_REPEATS if press.kind is Input.ESTOP else REPEATS))

    def beat(self, *, stopped: bool) -> None:
        """Say that the process is alive, and every press again that may not have been heard.

        Args:
            stopped: Whether the session tells that the e-stop is latched: then it needs no repetition.
        """
        with self._lock:
            self.bus.publish("beat", {})
            self._said = [said for said in self._said if said.left > 0 and not (stopped and said.press.kind is Input.ESTOP)]
            for said in self._said:
                said.left -= 1
                self.bus.publish("input", said.press.model_dump(mode="json"))


def serve(settings: Settings, shown: ConsoleState, send: SendInput) -> Console:
    """The page's server, at the port it had before if that is free: who has the page open finds it again after a restart."""
    if not settings.console_port and (before := _port(settings.work / ADDRESS)):
        try:
            return Console(shown, send, host=settings.console_host, port=before)
        except EnvironmentProblem:  # taken by now
            pass
    return Console(shown, send, host=settings.console_host, port=settings.console_port)


def _port(path: Path) -> int | None:
    try:
        return urlsplit(durable.read_json(path)["url"]).port
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return None


def run(settings: Settings, stopping: Stopping) -> None:
    """Serve the page until asked to stop."""
    watch, shown = Watch(settings), ConsoleState()
    bus = Bus(settings.sockets, "console", TOPICS)
    mouth = Mouth(bus)
    eyes = Eyes(watch.task, settings.rings, max_age_s=1.0)
    eyes.start()
    beat = show = look = 0.0
    with serve(settings, shown, mouth.say) as console:
        durable.write_json(settings.work / ADDRESS, {"url": console.url})
        print(f"operator's page: {console.url}", flush=True)
        while not stopping:
            for message in bus.poll(POLL_S):
                watch.take(message)
            now = time.monotonic()
            if now - beat > BEAT_S:
                beat = now
                if not console.alive:  # no page, no beat: an operator who cannot stop the arm is not there
                    raise EnvironmentProblem("the operator's page has ended", remedy="the supervisor starts it again; look into its log")
                mouth.beat(stopped=watch.plan.get("state") is State.ESTOP)
            if now - show > SHOW_S:
                show = now
                watch.look()
                if (snapshot := watch.snapshot()) is not None:
                    shown.publish(snapshot)
            if eyes.readers and now - look > CAMERA_S:
                look = now
                _show_cameras(eyes, shown)
    eyes.stop()
    bus.close()


def _show_cameras(eyes: Eyes, shown: ConsoleState) -> None:
    """The newest picture of each camera; one that shows nothing new is left as it is, and grows old on the page."""
    import cv2

    from zprl.robot.senses.base import StaleSense

    for camera, reader in eyes.readers.items():
        try:
            picture = reader.latest(eyes.max_age_s).value
        except StaleSense:
            continue
        done, jpeg = cv2.imencode(".jpg", picture[..., ::-1])
        if done:
            shown.publish_frame(camera, jpeg.tobytes())


if __name__ == "__main__":
    main(run)
