"""``zprl bench``: a suite as a Prefect flow over :mod:`pipelines.bench_cell`; a cell that is done is never run again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines import environment

environment.prepare()  # before Prefect reads its settings

from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.futures import PrefectFuture  # noqa: E402
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

from pipelines import servers  # noqa: E402
from pipelines.bench_cell import LOG, finished, ready, run, spent, verdict  # noqa: E402
from pipelines.bench_publish import Choice, publish, take_over, write_down  # noqa: E402
from pipelines.stage_process import sigterm_like_ctrl_c  # noqa: E402
from zprl import durable, terminal  # noqa: E402
from zprl.bench import suite  # noqa: E402
from zprl.bench.suite import Cell  # noqa: E402
from zprl.errors import EnvironmentProblem, Interrupted, ZprlError  # noqa: E402
from zprl.tracking import PARENT_VARIABLE, open_pipeline_tracker  # noqa: E402
from zprl.tracking.mlflow_tracker import ARTIFACT_FOLDER, tracking_uri  # noqa: E402

servers.embed()

STOP = "STOP"
"""In a suite's folder while its cells are asked to stop: no signal reaches a thread."""


@task(task_run_name="{name}", cache_policy=NO_CACHE, retries=0)
def run_cell(cell: Cell, name: str, tracking: dict[str, str], stop: Path) -> None:
    """Run what is left of a cell, until it is done or the file ``stop`` appears."""
    os.environ.update(tracking)
    run(cell, name, parent=tracking.get(PARENT_VARIABLE), stopping=stop.exists)


# -- the suite -------------------------------------------------------------------------------------


class _Watch:
    """Says what is done and how long the rest will take."""

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
        """Time for what is left, by what like cells took; ``None`` before the first."""
        took: dict[str, list[float]] = {}
        for cell in self.cells:
            if found := finished(cell):
                took.setdefault(cell.method, []).append(found.facts.wall_s)
        if not took:
            return None
        everything = [value for values in took.values() for value in values]
        rest = 0.0
        for cell in self.cells:
            if finished(cell) is None:
                like = took.get(cell.method, everything)
                rest += max(sum(like) / len(like) - spent(cell), 0.0)
        return timedelta(seconds=round(rest / self.jobs))

    def say(self, cell: Cell, text: str) -> None:
        """One line for a cell that ended."""
        number = sum(finished(other) is not None for other in self.cells)
        left = self.left()
        self.bar.update(
            self.task, completed=number, description=f"runs, about {left} left" if left else "runs"
        )
        terminal.say(
            f"[{number}/{len(self.cells)}] {cell.name}: {text}"
            + (f"; about {left} left" if left else "")
        )


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
    (place / STOP).unlink(missing_ok=True)
    whole = suite.cells(suite.load(name), place)
    cells = choice.of(whole)
    waiting = [cell for cell in cells if finished(cell) is None]
    needed = {cell.base.folder for cell in waiting if cell.base}
    waiting = [
        cell for cell in cells if cell in waiting or (cell.folder in needed and not ready(cell))
    ]
    running: dict[Path, tuple[Cell, PrefectFuture[None]]] = {}
    failed: dict[Path, str] = {}
    watch = _Watch(cells, jobs)
    with (
        open_pipeline_tracker(f"bench {Path(name).stem}", params={}, inputs={}) as tracker,
        watch.bar,
    ):
        tracking = {**_tracking_place(), PARENT_VARIABLE: tracker.run_id or ""}
        try:
            while waiting or running:
                for cell in [c for c in waiting if c.base and c.base.folder in failed]:
                    waiting.remove(cell)
                    failed[cell.folder] = f"{cell.name}: without its base policy"
                # A base that has just been written down may still be on its way out: what stands on
                # it starts when it is gone.
                busy = {*running, *(cell.folder for cell in waiting)}
                free = [
                    c
                    for c in waiting
                    if c.base is None or (c.base.folder not in busy and ready(c.base))
                ]
                for cell in free[: jobs - len(running)]:
                    waiting.remove(cell)
                    running[cell.folder] = (
                        cell,
                        run_cell.submit(cell, cell.name, tracking, place / STOP),
                    )
                for where, (cell, future) in list(running.items()):
                    future.wait(
                        timeout=1.0 / len(running)
                    )  # Ray's know how they ended only once they were waited for
                    state = future.state
                    if not state.is_final():
                        continue
                    del running[where]
                    if state.is_completed():
                        # A policy made anew may be another one; then what was done on the old one
                        # is to be done again.
                        again = [
                            c
                            for c in cells
                            if c.base is not None and c.base.folder == where and finished(c) is None
                        ]
                        waiting = [c for c in cells if c in waiting or c in again]
                        write_down(name, whole, Path(target))
                        watch.say(cell, verdict(cell))
                        continue
                    error = future.result(raise_on_failure=False)
                    if isinstance(error, Interrupted):
                        raise error
                    failed[where] = (
                        f"{cell.name}: {error.message if isinstance(error, ZprlError) else error!r}; see {where / LOG}"
                    )
                    watch.say(cell, f"failed: {failed[where]}")
        except BaseException:
            (place / STOP).touch()
            raise
        finally:
            for _, future in running.values():
                future.wait()
            (place / STOP).unlink(missing_ok=True)
    return list(failed.values())


def _tracking_place() -> dict[str, str]:
    """Where all cells' runs go, said without relative paths: cells have working folders of their own."""
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    return {
        "MLFLOW_TRACKING_URI": uri,
        "ZPRL_ARTIFACT_LOCATION": Path(ARTIFACT_FOLDER).resolve().as_uri(),
    }


def _runner(jobs: int, ray: str | None) -> TaskRunner[PrefectFuture[Any]]:
    if ray is None:
        return ThreadPoolTaskRunner(max_workers=jobs)
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "Ray is not installed", remedy="install the extra that has it: zprl[ray]"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray == "local":
        # Ray runs whatever it is sent; with a token, only what comes from this run.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_urlsafe(32))
        return RayTaskRunner(
            init_kwargs={
                "num_cpus": jobs,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
        )
    return RayTaskRunner(address=ray)


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
        target: Where table, picture and page are written.
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
        take_over(
            suite.cells(suite.load(name), place), target
        )  # all: what is written down is the whole suite
        failures = run_suite.with_options(task_runner=runner)(
            name, str(place), str(target.resolve()), choice, jobs
        )
    except KeyboardInterrupt as error:
        raise Interrupted(
            "stopped on request", remedy="run the same command again to continue"
        ) from error
    finally:
        os.close(lease)
    written = publish(name, place, target, command=command)
    if failures:
        raise EnvironmentProblem(
            f"{len(failures)} run(s) failed: " + "; ".join(failures[:5]),
            remedy="repair it and run the same command again",
        )
    return written
