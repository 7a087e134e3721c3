"""Tracking of a run's metrics, files and tags.

The store is MLflow.  It may fail; training goes on.

``tracker.log`` only fills a buffer; full or old buffers go out as one batch, because single calls
cost 10 to 100 ms and batches are a hundred times cheaper per metric (measured).  When the store
cannot be reached, one warning is printed, points are kept (up to a limit) and sending is tried
again later.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from zprl.errors import Interrupted, ZprlError

if TYPE_CHECKING:
    from zprl.run_dir import RunDir

PARENT_VARIABLE = "ZPRL_PARENT_RUN"
SWITCH_VARIABLE = "ZPRL_TRACKING"
FLUSH_POINTS = 500
FLUSH_SECONDS = 5.0
KEEP_POINTS = 200_000
MAX_BACK_OFF_DOUBLINGS = 6
"""Makes the longest wait between two tries about five minutes."""

Point = tuple[str, float, int, int]
"""A metric: name, value, step, unix time in milliseconds."""

log = logging.getLogger(__name__)


class Backend(Protocol):
    """Interface of a tracking store's run; every method may raise."""

    run_id: str

    def last_steps(self) -> dict[str, int]:
        """Return the last step stored per metric, of a continued run."""

    def send(self, points: list[Point]) -> None:
        """Store a batch of metrics."""

    def send_path(self, path: Path, folder: str) -> None:
        """Store a file, or a folder's contents, under ``folder``."""

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Store tags by name."""

    def end(self, status: str) -> None:
        """Close the run: ``FINISHED``, ``FAILED`` or ``KILLED``."""


class Tracker:
    """A run in the tracking store, or nothing when there is none.

    A context manager; its methods never raise.

    Args:
        backend: The store's run; ``None`` tracks nothing.
        clock: Monotonic seconds; tests pass their own.
    """

    def __init__(
        self, backend: Backend | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._points: list[Point] = []
        self._next_flush = clock() + FLUSH_SECONDS
        self._failures = 0
        self._warned = False
        self._sent_before: dict[str, int] = {}
        if backend is not None:
            self.attempt(lambda: self._sent_before.update(backend.last_steps()))

    @property
    def run_id(self) -> str | None:
        """Return the run's id in the store, if there is one.  Never write it into a DVC output."""
        return None if self._backend is None else self._backend.run_id

    def log(self, step: int, **metrics: float) -> None:
        """Log metrics at ``step``; a continued run drops the steps it already stored."""
        if self._backend is None:
            return

        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self._sent_before.get(name, -1):
                self.attempt(partial(self._keep, name, value, step, now))
        del self._points[:-KEEP_POINTS]

        if self._clock() >= self._next_flush or (
            len(self._points) >= FLUSH_POINTS and not self._failures
        ):
            self.flush()

    def _keep(self, name: str, value: float, step: int, milliseconds: int) -> None:
        """Buffer a point; raises where its value or step is no number."""
        self._points.append((name, float(value), int(step), milliseconds))

    def flush(self) -> None:
        """Send what is buffered; keep it for later when the store does not answer."""
        backend = self._backend
        if backend is not None and self._points:
            points = self._points
            if self.attempt(lambda: backend.send(points)):
                self._points, self._failures = [], 0
            else:
                self._failures += 1
        # Back off, so that an absent server costs next to nothing.
        self._next_flush = self._clock() + FLUSH_SECONDS * 2 ** min(
            self._failures, MAX_BACK_OFF_DOUBLINGS
        )

    def log_file(self, path: Path | str, folder: str = "") -> None:
        """Attach one file to the run."""
        if (backend := self._backend) is not None:
            self.attempt(lambda: backend.send_path(Path(path), folder))

    def log_dir(self, path: Path | str, folder: str) -> None:
        """Attach a folder's contents under ``folder``."""
        self.log_file(path, folder)

    def tag(self, **tags: Any) -> None:
        """Set tags on the run."""
        if (backend := self._backend) is not None:
            self.attempt(
                lambda: backend.send_tags({name: str(value) for name, value in tags.items()})
            )

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if (backend := self._backend) is None:
            return

        self.flush()
        # An interrupted stage continues this very run later; a failed one starts a new attempt in
        # the same run.
        killed = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit | GeneratorExit)
        if error is not None and not killed:
            unexpected = f"{type(error).__name__}: {error}"[:500]
            message = error.message if isinstance(error, ZprlError) else unexpected
            self.tag(**{"zprl.error": message})
        status = "FINISHED" if error is None else "KILLED" if killed else "FAILED"
        self.attempt(lambda: backend.end(status))

    def attempt(self, action: Callable[[], object]) -> bool:
        """Call ``action``; return False and warn once where it raises."""
        try:
            action()
        # A tracking store can fail in any way; training goes on (P8).
        except Exception as error:  # noqa: BLE001
            if not self._warned:
                self._warned = True
                first = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                log.warning("warning: tracking failed, the stage goes on: %s", first)
            return False
        return True


def _open(
    name: str,
    run_dir: RunDir | None,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    parent: str | None,
) -> Tracker:
    switch = os.environ.get(SWITCH_VARIABLE, "")
    if switch.lower() in {"off", "0", "false"}:
        return Tracker()

    from zprl.tracking.file_tracker import PREFIX, FileRun

    if switch.startswith(PREFIX):
        return Tracker(FileRun(Path(switch.removeprefix(PREFIX))))

    tracker = Tracker()

    def connect() -> None:
        nonlocal tracker
        from zprl.tracking import mlflow_tracker

        known = None if run_dir is None else run_dir.notes().get("mlflow_run")
        run = mlflow_tracker.open_run(
            name, known=known, parent=parent, params=params, inputs=inputs
        )
        if run_dir is not None and run.run_id != known:
            run_dir.note(mlflow_run=run.run_id)
        tracker = Tracker(run)

    tracker.attempt(connect)
    return tracker


def open_tracker(
    stage: str, *, run_dir: RunDir, params: Mapping[str, Any], inputs: Mapping[str, str]
) -> Tracker:
    """Open the stage's run, and again that of a killed attempt if there was one.

    The run is a child of ``ZPRL_PARENT_RUN`` where that is set.

    Args:
        stage: The stage's name.
        run_dir: Resume folder; its note ``mlflow_run`` keeps the run's id.
        params: Parameters of the stage by section; logged flattened, once.
        inputs: Digest by path of what the stage reads.

    Returns:
        A tracker; with ``ZPRL_TRACKING=off``, or when the store cannot be opened, one that tracks
        nothing; with ``file:PATH`` one that writes a file (:mod:`zprl.tracking.file_tracker`).
    """
    return _open(stage, run_dir, params, inputs, os.environ.get(PARENT_VARIABLE) or None)


def open_pipeline_tracker(
    name: str, *, params: Mapping[str, Any], inputs: Mapping[str, str], parent: str | None = None
) -> Tracker:
    """Open the parent run of a pipeline run.

    The caller exports its ``run_id`` as ``ZPRL_PARENT_RUN`` for the stages below.
    """
    return _open(name, None, params, inputs, parent or None)
