"""Process ``console``: the operator's page.

Messages of the bus become the page's snapshot; presses on the page become ``input`` messages.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterable

from zprl import durable
from zprl.errors import EnvironmentProblem
from zprl.server_limits import raise_open_files
from zprl.session.bus import Bus
from zprl.session.camera_history import CameraHistory
from zprl.session.events import Input, State
from zprl.session.input_publisher import InputPublisher
from zprl.session.inputs import PRESS_S, OperatorInput
from zprl.session.messages import Beat, PressAnswer
from zprl.session.process import Settings, Stopping, main
from zprl.session.processes.console import listen
from zprl.session.processes.console.access import ADDRESS, Access, Secrets
from zprl.session.processes.console.app import RefusedPress, SendInput
from zprl.session.processes.console.serve import Console
from zprl.session.processes.console.snapshot import ConsoleState
from zprl.session.processes.console.snapshot_builder import TOPICS, Watch

POLL_S, BEAT_S, SHOW_S, CAMERA_S = 0.02, 0.2, 0.2, 0.2
"""Seconds between two polls of the bus, beats, snapshots and camera images."""
ANSWER_S = PRESS_S + 0.5
"""Seconds to wait for the outcome of a press: past its age the session refuses it."""
COLLECT = (700, 2, 1)
"""Garbage collection: new objects, and younger collections, before the next older one; Python's are
700, 10, 10."""
SWITCH_S = 0.0005
"""A tenth of Python's own: the server's thread must not wait for the one that makes a snapshot."""


class Handover:
    """Presses on their way to the session, each with the page's request that waits for it.

    Args:
        publisher: Publishes them.
    """

    def __init__(self, publisher: InputPublisher) -> None:
        self.publisher = publisher
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[str]]] = {}

    async def send(self, press: OperatorInput) -> None:
        """Publish a press and wait for the session's answer; nobody waits for an e-stop's.

        Raises:
            RefusedPress: the session refused it.
            EnvironmentProblem: the session did not answer while the press counted.
        """
        if press.kind is Input.ESTOP:
            self.publisher.publish(press)
            return

        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        self._waiting[press.nonce] = loop, future
        try:
            self.publisher.publish(press)
            async with asyncio.timeout(ANSWER_S):
                refusal = await future
        except TimeoutError as error:
            raise EnvironmentProblem(
                "the session did not answer in time", remedy="look at its state, then press again"
            ) from error
        finally:
            del self._waiting[press.nonce]

        if refusal:
            raise RefusedPress(refusal)

    def take(self, answers: Iterable[PressAnswer]) -> None:
        """Settle presses with the plan's answers; called in another thread than :meth:`send`."""
        for answer in answers:
            waiting = self._waiting.get(answer.nonce)
            if waiting is not None:
                loop, future = waiting
                loop.call_soon_threadsafe(_settle, future, answer.refusal)


def _settle(future: asyncio.Future[str], refusal: str) -> None:
    if not future.done():
        future.set_result(refusal)


def serve(settings: Settings, shown: ConsoleState, send: SendInput) -> Console:
    """Return the page's server, at the socket that the supervisor has handed down."""
    access = Access(Secrets.load(settings.work))
    return Console(
        shown,
        send,
        access=access,
        host=settings.console_host,
        listening=listen.handed_down(settings),
    )


def prefer_answers() -> None:
    """Keep this process's other work from holding up an answer; call it once all is imported.

    A full garbage collection looks at every object of every imported module, and frees what a
    flood has left behind: 100 ms in which no press is answered.  Imported objects stay, so it need
    not look at them, and it runs more often, so that it finds less.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


def run(settings: Settings, stopping: Stopping) -> None:
    """Serve the page until asked to stop.

    Raises:
        EnvironmentProblem: the page's server has ended.
    """
    raise_open_files()
    prefer_answers()
    watch = Watch(settings)
    shown = ConsoleState()
    bus = Bus(settings.sockets, "console", TOPICS)
    publisher = InputPublisher(bus)
    handover = Handover(publisher)
    cameras = CameraHistory(watch.task, settings.rings, max_age_s=1.0)
    cameras.start()
    beat_at = 0.0
    snapshot_at = 0.0
    images_at = 0.0

    with serve(settings, shown, handover.send) as console:
        durable.write_json(settings.work / ADDRESS, {"url": console.url})
        while not stopping:
            for message in bus.poll(POLL_S):
                watch.take(message)
            handover.take(watch.answers)
            publisher.flush()

            now = time.monotonic()
            if now - beat_at > BEAT_S:
                beat_at = now
                _check_alive(console)
                stopped = watch.plan is not None and watch.plan.state is State.ESTOP
                publisher.beat(Beat(pages=console.pages), stopped=stopped)
            if now - snapshot_at > SHOW_S:
                snapshot_at = now
                watch.read_disk()
                if (snapshot := watch.snapshot()) is not None:
                    shown.publish(snapshot)
            if cameras.readers and now - images_at > CAMERA_S:
                images_at = now
                _show_cameras(cameras, shown)
    cameras.stop()
    bus.close()


def _check_alive(console: Console) -> None:
    """End a process without a page, and its beat: the operator could not stop the arm."""
    if not console.alive:
        raise EnvironmentProblem(
            "the operator's page has ended",
            remedy="the supervisor starts it again; look into its log",
        )


def _show_cameras(cameras: CameraHistory, shown: ConsoleState) -> None:
    """Publish the newest image of each camera; an old one stays, and the page shows its age."""
    import cv2

    from zprl.robot.sensors.base import StaleSensor

    for camera, reader in cameras.readers.items():
        try:
            image = reader.latest(cameras.max_age_s).value
        except StaleSensor:
            continue
        done, jpeg = cv2.imencode(".jpg", image[..., ::-1])
        if done:
            shown.publish_frame(camera, jpeg.tobytes())


if __name__ == "__main__":
    main(run)
