"""Run a suite (``zprl bench``) as a Prefect flow over :mod:`pipelines.bench_cell`.

A cell that is done is never run again.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines import environment

environment.prepare()  # before Prefect reads its settings

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.futures import PrefectFuture  # noqa: E402
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from pipelines import servers  # noqa: E402
from pipelines.bench_cell import LOG, finished, ready, run, spent, verdict  # noqa: E402
from pipelines.bench_publish import Choice, publish, take_over, write_down  # noqa: E402
from pipelines.stage_process import sigterm_like_ctrl_c  # noqa: E402
from zprl import durable, logs, terminal  # noqa: E402
from zprl.bench import suite  # noqa: E402
from zprl.bench.suite import Cell  # noqa: E402
from zprl.errors import EnvironmentProblem, Interrupted, ZprlError  # noqa: E402
from zprl.tracking import PARENT_VARIABLE, open_pipeline_tracker  # noqa: E402
from zprl.tracking.mlflow_tracker import ARTIFACT_FOLDER, tracking_uri  # noqa: E402

logs.configure()
servers.embed()

STOP = "STOP"
"""In a suite's folder while its cells are asked to stop: no signal reaches a thread."""

log = logging.getLogger(__name__)


@task(task_run_name="{name}", cache_policy=NO_CACHE, retries=0)
def run_cell(cell: Cell, name: str, tracking: dict[str, str], stop: Path) -> None:
    """Run what is left of a cell, until it is done or the file ``stop`` appears."""
    os.environ.update(tracking)
    run(cell, name, parent=tracking.get(PARENT_VARIABLE), stopping=stop.exists)


# -- the suite -------------------------------------------------------------------------------------


class _SuiteProgress:
    """Bar and lines about what is done and how long the rest will take."""

    def __init__(self, cells: Sequence[Cell], jobs: int) -> None:
        self.cells, self.jobs = cells, jobs
        console = terminal.console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        done = sum(finished(cell) is not None for cell in cells)
        self.task = self.bar.add_task("runs", total=len(cells), completed=done)

    def left(self) -> timedelta | None:
        """Return the time for what is left, by what like cells took; ``None`` before the first."""
        took: dict[str, list[float]] = {}
        for cell in self.cells:
            if run := finished(cell):
                took.setdefault(cell.method, []).append(run.facts.wall_s)
        if not took:
            return None

        all_times = [seconds for times in took.values() for seconds in times]
        rest = 0.0
        for cell in self.cells:
            if finished(cell) is None:
                like = took.get(cell.method, all_times)
                rest += max(sum(like) / len(like) - spent(cell), 0.0)
        return timedelta(seconds=round(rest / self.jobs))

    def report(self, cell: Cell, text: str) -> None:
        """Log one line for a cell that ended, and move the bar."""
        number = sum(finished(other) is not None for other in self.cells)
        left = self.left()
        description = f"runs, about {left} left" if left else "runs"
        self.bar.update(self.task, completed=number, description=description)

        ending = f"; about {left} left" if left else ""
        log.info(f"[{number}/{len(self.cells)}] {cell.name}: {text}{ending}")


@flow(name="zprl-bench", flow_run_name="{name}", retries=0)
def run_suite(name: str, folder: str, target: str, choice: Choice, jobs: int) -> list[str]:
    """Run every chosen cell that is not done; one that fails stops only those on top of it.

    Args:
        name: The suite.
        folder: Where cells live.
        target: Where finished runs are written down, each as it ends.
        choice: Part of the suite.
        jobs: Cells at a time.

    Returns:
        One sentence per failure.
    """
    environment.say_failures_in_one_sentence()
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    stop = place / STOP
    stop.unlink(missing_ok=True)

    whole = suite.cells(suite.load(name), place)
    cells = choice.of(whole)
    schedule = _Schedule(cells, jobs)
    progress = _SuiteProgress(cells, jobs)

    with (
        open_pipeline_tracker(f"bench {Path(name).stem}", params={}, inputs={}) as tracker,
        progress.bar,
    ):
        tracking = {**_tracking_place(), PARENT_VARIABLE: tracker.run_id or ""}
        try:
            while schedule.waiting or schedule.running:
                schedule.drop_without_base()
                schedule.start(lambda cell: run_cell.submit(cell, cell.name, tracking, stop))

                for cell, failure in schedule.ended():
                    if failure is None:
                        write_down(name, whole, Path(target))
                    text = verdict(cell) if failure is None else f"failed: {failure}"
                    progress.report(cell, text)
        except BaseException:
            stop.touch()
            raise
        finally:
            schedule.wait()
            stop.unlink(missing_ok=True)
    return list(schedule.failed.values())


class _Schedule:
    """Cells that wait, run or have failed; a cell starts when the policy that it improves is ready.

    Args:
        cells: The chosen cells.
        jobs: Cells at a time.
    """

    def __init__(self, cells: Sequence[Cell], jobs: int) -> None:
        self.cells, self.jobs = cells, jobs
        self.running: dict[Path, tuple[Cell, PrefectFuture[None]]] = {}
        self.failed: dict[Path, str] = {}

        undone = [cell for cell in cells if finished(cell) is None]
        needed = {cell.base.folder for cell in undone if cell.base}
        self.waiting = [
            cell for cell in cells if cell in undone or (cell.folder in needed and not ready(cell))
        ]

    def drop_without_base(self) -> None:
        """Give up the cells whose base policy has failed."""
        for cell in [c for c in self.waiting if c.base and c.base.folder in self.failed]:
            self.waiting.remove(cell)
            self.failed[cell.folder] = f"{cell.name}: without its base policy"

    def start(self, submit: Callable[[Cell], PrefectFuture[None]]) -> None:
        """Submit as many cells as there is room for."""
        # A base that has just been written down may still be on its way out: what stands on it
        # starts when it is gone.
        busy = {*self.running, *(cell.folder for cell in self.waiting)}
        free = [
            cell
            for cell in self.waiting
            if cell.base is None or (cell.base.folder not in busy and ready(cell.base))
        ]

        for cell in free[: self.jobs - len(self.running)]:
            self.waiting.remove(cell)
            self.running[cell.folder] = cell, submit(cell)

    def ended(self) -> Iterator[tuple[Cell, str | None]]:
        """Yield the cells that have ended meanwhile, with a sentence for one that has failed.

        Raises:
            Interrupted: a cell was asked to stop.
        """
        for folder, (cell, future) in list(self.running.items()):
            # Ray's futures know how they ended only once they were waited for.
            future.wait(timeout=1.0 / len(self.running))
            if not future.state.is_final():
                continue

            del self.running[folder]
            if future.state.is_completed():
                self._repeat_on(folder)
                yield cell, None
                continue

            error = future.result(raise_on_failure=False)
            if isinstance(error, Interrupted):
                raise error
            reason = error.message if isinstance(error, ZprlError) else repr(error)
            self.failed[folder] = f"{cell.name}: {reason}; see {folder / LOG}"
            yield cell, self.failed[folder]

    def wait(self) -> None:
        """Wait for the cells that run."""
        for _, future in self.running.values():
            future.wait()

    def _repeat_on(self, base: Path) -> None:
        """Put back the cells on a base policy that was made anew, and so may be another one."""
        again = [
            cell
            for cell in self.cells
            if cell.base is not None and cell.base.folder == base and finished(cell) is None
        ]
        self.waiting = [cell for cell in self.cells if cell in self.waiting or cell in again]


def _tracking_place() -> dict[str, str]:
    """Return where all cells' runs go, in absolute paths: each cell has a working folder."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    return {
        "MLFLOW_TRACKING_URI": uri,
        "ZPRL_ARTIFACT_LOCATION": Path(ARTIFACT_FOLDER).resolve().as_uri(),
    }


def _runner(jobs: int, ray: str | None) -> TaskRunner[Any]:
    """Return the runner of cells: threads that wait for children, or Ray's workers."""
    if ray is None:
        return ThreadPoolTaskRunner(max_workers=jobs)

    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "Ray is not installed", remedy="install the extra that has it: zprl[ray]"
        ) from error

    runner: TaskRunner[Any]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray != "local":
        runner = RayTaskRunner(address=ray)
        return runner

    # Ray runs whatever it is sent; with a token, only what comes from this run.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_urlsafe(32))
    local = {"num_cpus": jobs, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    runner = RayTaskRunner(init_kwargs=local)
    return runner


@sigterm_like_ctrl_c()
def bench(
    name: str,
    *,
    folder: Path,
    target: Path,
    choice: Choice,
    jobs: int,
    command: str,
    ray: str | None = None,
) -> Path:
    """Run a suite to its end and publish what came out; interrupted, the same call continues.

    Args:
        name: The suite.
        folder: Where all suites' cells live; with a cluster, on a file system that all its machines
            share.
        target: Where table, diagram and page are written.
        choice: Part of the suite.
        jobs: Cells at a time.
        command: What the page names as the way to make it again.
        ray: ``local``, or the address of a Ray cluster; ``None`` runs cells as children of this
            process.

    Raises:
        EnvironmentProblem: another process runs the suite there, or cells failed; what could run
            has run, and the page is written.
    """
    place = folder / Path(name).stem
    place.mkdir(parents=True, exist_ok=True)
    runner = _runner(jobs, ray)

    lease = durable.lease(place / "LEASE")
    try:
        take_over(suite.cells(suite.load(name), place), target)
        flow_of_suite = run_suite.with_options(task_runner=runner)
        failures = flow_of_suite(name, str(place), str(target.resolve()), choice, jobs)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped on request") from error
    finally:
        os.close(lease)

    page = publish(name, place, target, command=command)
    if failures:
        raise EnvironmentProblem(
            f"{len(failures)} run(s) failed: " + "; ".join(failures[:5]),
            remedy="repair it and run the same command again",
        )
    return page
