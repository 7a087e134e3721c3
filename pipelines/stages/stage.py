"""Frame of every stage: parameters, resume folder, tracking, progress, signals, exit codes.

A stage module is a function of one :class:`Stage`::

    def pretrain(stage: Stage) -> None: ...

    if __name__ == "__main__":
        main("pretrain", pretrain, sections=("run", "policy", "vib", "pretrain"),
        inputs=(EPISODES,))

and runs alike under ``dvc repro``, under Prefect and by hand (``python -m
pipelines.stages.pretrain``).
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipelines import container
from zprl import code_closure, config, durable, logs, terminal
from zprl.errors import Interrupted, ZprlError
from zprl.logs import StageLogger
from zprl.parent_death import die_with_parent
from zprl.run_dir import RunDir
from zprl.tracking import Tracker, open_tracker

ARTIFACTS = Path("artifacts")
METRICS = Path("metrics")
PLOTS = Path("plots")
RUNS = Path("runs")
SESSION = Path("session")

EPISODES = ARTIFACTS / "episodes"
BASE = ARTIFACTS / "base"
STEERING = ARTIFACTS / "steering"
LEARNER = ARTIFACTS / "learner"
EVALUATION = ARTIFACTS / "evaluation"
PROMOTION = ARTIFACTS / "promotion.json"
PROMOTION_REAL = ARTIFACTS / "promotion_real.json"
REPORT = ARTIFACTS / "report"
EXPLAIN = ARTIFACTS / "explain"
TRANSFER = ARTIFACTS / "transfer"

log = logging.getLogger(__name__)


class Stage:
    """One run of one stage.

    Attributes:
        name: The stage's name in ``dvc.yaml``.
        params: All of ``params.yaml``.
        run_dir: Resume state; its key holds the declared sections, the inputs' digests and the
            code's digest.
        tracker: Where metrics and artifacts of this stage go.
        log: Logger whose lines begin with the stage's name; they stream through DVC and Prefect.
        stopping: True once SIGTERM or Ctrl-C asked the stage to stop.
    """

    def __init__(self, name: str, params: config.Params, run_dir: RunDir, tracker: Tracker) -> None:
        self.name = name
        self.params = params
        self.run_dir = run_dir
        self.tracker = tracker
        self.log = StageLogger(name, log)
        self.stopping = False
        self._started = time.monotonic()
        self._before = float(run_dir.notes().get("wall_s", 0.0))

    def wall_s(self) -> float:
        """Return the seconds this stage has worked, interrupted attempts included."""
        return round(self._before + time.monotonic() - self._started, 1)

    def stop_if_asked(self) -> None:
        """Note the time spent, and end the stage where it was asked to stop.

        Called after each committed generation.

        Raises:
            Interrupted: the stage was asked to stop.
        """
        self.run_dir.note(wall_s=self.wall_s())
        if self.stopping:
            raise Interrupted(
                f"{self.name} stopped on request", remedy="run the same command again to continue"
            )

    def log_numbers(self, values: Mapping[str, Any]) -> None:
        """Track the numbers among the values of a metrics file, without a step."""
        numbers = {
            key: float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self.tracker.log(0, **numbers)

    def made(self, *paths: Path) -> None:
        """Tag the run with the outputs' digests.

        `zprl lineage` connects it by them with the later runs that read the outputs.
        """
        if self.tracker.run_id is not None:
            digests = {path.as_posix(): durable.digest(path) for path in paths}
            self.tracker.tag(**{f"zprl.output.{path}": value for path, value in digests.items()})


def execute(
    name: str,
    body: Callable[[Stage], None],
    *,
    sections: Sequence[str],
    inputs: Sequence[Path],
    folder: str | None = None,
    source: Path | None = None,
) -> None:
    """Run one stage to its end or raise.

    Args:
        name: The stage's name.
        body: What it does.
        sections: Sections of the parameters that it reads.
        inputs: Files and folders that it reads.
        folder: Its folder below ``runs``; the stage's name unless given.
        source: Source file whose closure is the stage's code; that of ``body`` unless given.
    """
    logs.configure()
    params = config.load()
    os.environ["OMP_NUM_THREADS"] = str(params.run.threads)
    chosen = params.model_dump(mode="json", include=set(sections))
    digests = {path.as_posix(): durable.digest(path) for path in inputs}
    key = {
        "params": chosen,
        "inputs": digests,
        "code": code_closure.digest(source or _source(body)),
    }

    with (
        RunDir(RUNS, folder or name, key) as run_dir,
        open_tracker(name, run_dir=run_dir, params=chosen, inputs=digests) as tracker,
    ):
        stage = Stage(name, params, run_dir, tracker)
        with _stoppable(stage):
            body(stage)


@contextmanager
def _stoppable(stage: Stage) -> Iterator[None]:
    """Have SIGTERM and Ctrl-C ask the stage to stop; asked twice, the process ends at once."""

    def ask(number: int, _: FrameType | None) -> None:
        if stage.stopping:
            os._exit(Interrupted.exit_code)
        stage.stopping = True
        stage.log.info("stopping at the next resume point (ask again to stop at once)")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        stage.run_dir.note(wall_s=stage.wall_s())
        for number, handler in previous.items():
            signal.signal(number, handler)


def _source(body: Callable[[Stage], None]) -> Path:
    return Path(inspect.getfile(body))


def main(
    name: str,
    body: Callable[[Stage], None],
    *,
    sections: Sequence[str],
    inputs: Sequence[Path] = (),
    world: bool = False,
) -> NoReturn:
    """Entry point of a stage's module: run it and exit with the contract's exit code.

    Args:
        name: The stage's name.
        body: What it does.
        sections: Sections of the parameters that it reads.
        inputs: Files and folders that it reads.
        world: Whether it steps a world, and may so run in an image (:mod:`pipelines.container`).
    """
    die_with_parent()  # dvc's
    code = 0
    folder, source = None, _source(body)
    try:
        if world and (image := container.image()) is not None:
            # The stage in the image has the stage's own folder, and holds it while it runs.
            body, folder = container.instead(image), f"{name}-container"
        execute(name, body, sections=sections, inputs=inputs, folder=folder, source=source)
    except ZprlError as error:
        terminal.say_error(error)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
