"""``zprl bench``: a suite as a Prefect flow.

A cell is a folder in which the pipeline's own stages run; one that is done is never run again.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines import environment

environment.prepare()  # before Prefect reads its settings

import yaml  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.futures import PrefectFuture  # noqa: E402
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

from pipelines.processes import StageError, stream  # noqa: E402
from zprl import durable, provenance  # noqa: E402
from zprl.bench import figures, page, results, suite  # noqa: E402
from zprl.bench.suite import BASE, Cell  # noqa: E402
from zprl.errors import ConfigError, DataError, EnvironmentProblem, Interrupted, ZprlError  # noqa: E402
from zprl.tracking import PARENT_VARIABLE, open_pipeline_tracker  # noqa: E402
from zprl.tracking.mlflow_tracker import ARTIFACT_FOLDER, tracking_uri  # noqa: E402

DONE = "cell.json"
"""In a cell's folder: what came out, and what it came from."""
KEY = "KEY"
"""In a cell's folder: what its content comes from."""
LOG = "log.txt"
TIME = "time.json"
"""In a cell's folder: what its stages print, and seconds spent so far, interrupted attempts included."""
DEMOS = Path("data/demos/demos.hdf5")
POLICY = Path("artifacts/base/policy.safetensors")
RUNS = ".runs.json"
POLICIES = ".policies"
"""These end the names of what a suite publishes of its finished runs, and of the folder with its frozen policies."""
OF_A_POLICY = ("artifacts/base", "artifacts/episodes", "metrics/base.json")
"""What methods need of a base cell."""
SPENT = ("runs", "artifacts/learner")
"""What a finished cell no longer needs: resume state and replay memory."""
STOP = "STOP"
"""In a suite's folder while its cells are asked to stop: no signal reaches a thread."""


# -- one cell ------------------------------------------------------------------------------------------------------------


def finished(cell: Cell) -> results.Run | None:
    """What came out of a cell, or ``None`` where it is not done, or was done with other numbers or on another policy."""
    file = cell.folder / DONE
    if not file.exists():
        return None
    (found,) = results.read_runs(file)
    if found.key != cell.key:
        return None
    if cell.base is not None:
        base = finished(cell.base)
        if base is None or base.policy != found.stood_on:
            return None
    return found


def ready(base: Cell) -> bool:
    """Whether a base's policy is here to be improved: its verdict alone may have come from another machine."""
    found = finished(base)
    return found is not None and (base.folder / POLICY).exists() and durable.digest(base.folder / POLICY) == found.policy


def take_over(cells: Sequence[Cell], target: Path) -> None:
    """Take runs with the same numbers from what suites have published in ``target``."""
    published = [run for file in sorted(target.glob(f"*{RUNS}")) for run in results.read_runs(file)]
    known = {(run.key, run.facts.task, run.facts.seed): run for run in published}
    for cell in cells:
        found = known.get((cell.key, cell.task, cell.seed))
        if found is None or (_claimed(cell) and (cell.folder / DONE).exists()):
            continue
        _claim(cell)
        if not (cell.folder / DONE).exists():
            results.write_runs(cell.folder / DONE, [found.named(cell.method)])
    for cell in cells:
        if cell.base is None and finished(cell) is not None and not ready(cell):
            for kept in sorted(target.glob(f"*{POLICIES}/{cell.key}"))[:1]:
                shutil.copytree(kept, cell.folder, dirs_exist_ok=True)


def keep_policies(name: str, folder: Path, target: Path) -> Path:
    """Copy a suite's frozen policies, with the episodes they were trained on, to where another machine finds them.

    The same numbers need not give the same bits on another processor, and what is compared must stand on one policy.
    """
    place = target / f"{Path(name).stem}{POLICIES}"
    for cell in suite.cells(suite.load(name), folder):
        if cell.base is None and ready(cell) and not (place / cell.key).exists():

            def fill(partial: Path, source: Path = cell.folder) -> None:
                for part in OF_A_POLICY:
                    (partial / part).parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if (source / part).is_dir() else shutil.copyfile)(source / part, partial / part)

            place.mkdir(parents=True, exist_ok=True)
            durable.write_dir(place / cell.key, fill)
    return place


def _claimed(cell: Cell) -> bool:
    return (cell.folder / KEY).exists() and (cell.folder / KEY).read_text() == cell.key


def _claim(cell: Cell) -> None:
    """Make the folder the cell's; what was done there with other numbers is set aside, and comes back with them."""
    here = cell.folder
    if (here / KEY).exists() and not _claimed(cell):
        here.rename(here.with_name(f"{here.name}.{(here / KEY).read_text()}"))
    if not here.exists() and (kept := here.with_name(f"{here.name}.{cell.key}")).exists():
        kept.rename(here)
    here.mkdir(parents=True, exist_ok=True)
    durable.write_text(here / "params.yaml", yaml.safe_dump(cell.params, sort_keys=False))
    durable.write_text(here / KEY, cell.key)


def prepare(cell: Cell) -> None:
    """Make the folder: parameters, and the base policy or the demonstrations."""
    _claim(cell)
    here = cell.folder
    if cell.base is None:
        if isinstance(cell.demos, Path):
            if not cell.demos.is_file():
                raise DataError(f"{cell.demos} does not exist", remedy=f"the suite wants demonstrations of {cell.task} there")
            (here / DEMOS).parent.mkdir(parents=True, exist_ok=True)
            (here / DEMOS).unlink(missing_ok=True)
            (here / DEMOS).symlink_to(cell.demos.resolve())
        return
    for name in ("base", "episodes"):
        link = here / "artifacts" / name
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(cell.base.folder / "artifacts" / name, link.parent))


def commands(cell: Cell) -> list[list[str]]:
    """What runs in the folder, in order."""
    stage = [sys.executable, "-m"]
    if cell.base is not None:
        return [[*stage, "pipelines.finetune_sim", "finetune_sim"], [*stage, "pipelines.evaluate", "latent"]]
    found = [[*stage, f"pipelines.{name}"] for name in ("ingest", "pretrain", "evaluate_base")]
    if isinstance(cell.demos, int) and not (cell.folder / DEMOS).exists():
        found.insert(0, [*stage, "zprl.cli", "demos", "record", str(DEMOS), "--episodes", str(cell.demos), "--seed", str(cell.seed)])
    return found


def outcome(cell: Cell) -> results.Run:
    """What a cell whose stages are through came to."""
    metrics = cell.folder / "metrics"
    who = {"task": cell.task, "method": cell.method, "seed": cell.seed}
    here = {"wall_s": spent(cell), "commit": provenance.git_commit()}

    def point(env_steps: int, verdict: dict[str, Any], wall_s: float) -> results.Point:
        return results.Point(**who, env_steps=env_steps, wall_s=wall_s, **{k: verdict[k] for k in ("success_rate", "episodes", "jerk_rms")})

    if cell.base is None:
        verdict = durable.read_json(metrics / "base.json")
        facts = results.RunFacts(**who, **here, updates=0, updates_per_s=None, total_variation=verdict["total_variation"])
        return results.Run(cell.key, None, durable.digest(cell.folder / POLICY), facts, (point(0, verdict, 0.0),))
    cost, verdict = durable.read_json(metrics / "finetune_sim.json"), durable.read_json(metrics / "sim.json")
    start = durable.read_json(cell.base.folder / "metrics" / "base.json")
    points = [point(0, start, 0.0), *(point(row["env_steps"], row, row["wall_s"]) for row in cost.get("judged", []))]
    points.append(point(cost["env_steps"], verdict, cost["wall_s"]))
    rate = round(cost["updates"] / cost["wall_s"], 1)
    facts = results.RunFacts(**who, **here, updates=cost["updates"], updates_per_s=rate, total_variation=verdict["total_variation"])
    return results.Run(cell.key, durable.digest(cell.base.folder / POLICY), None, facts, tuple(points))


def spent(cell: Cell) -> float:
    """Seconds worked on a cell so far."""
    file = cell.folder / TIME
    return float(durable.read_json(file)["wall_s"]) if file.exists() else 0.0


@task(task_run_name="{name}", cache_policy=NO_CACHE, retries=0)
def run_cell(cell: Cell, name: str, tracking: dict[str, str], stop: Path) -> None:
    """Run what is left of a cell, until it is done or the file ``stop`` appears; its stages' lines go to ``log.txt`` in its folder."""
    os.environ.update(tracking)
    prepare(cell)
    if finished(cell) is not None and (cell.base is not None or ready(cell)):  # with numbers that came back
        return
    before, started = spent(cell), time.monotonic()
    inputs = {"base": cell.base.key} if cell.base else {}
    parent = tracking.get(PARENT_VARIABLE)
    with open_pipeline_tracker(name, params=cell.params, inputs=inputs, parent=parent) as tracker, open(cell.folder / LOG, "a") as log:
        tracker.tag(task=cell.task, method=cell.method, seed=cell.seed)
        try:
            for command in commands(cell):
                env = {PARENT_VARIABLE: tracker.run_id or ""}
                code, _ = stream(command, lambda line: print(line, file=log, flush=True), cwd=cell.folder, env=env, stopping=stop.exists)
                if code == Interrupted.exit_code:
                    raise Interrupted(f"{name} stopped on request", remedy="run the same command again to continue")
                if code:
                    raise StageError(command[2].removeprefix("pipelines."), code)
        finally:
            durable.write_json(cell.folder / TIME, {"wall_s": round(before + time.monotonic() - started, 1)})
        found = outcome(cell)
        for row in map(asdict, found.points):
            tracker.log(row["env_steps"], **{key: value for key, value in row.items() if isinstance(value, float)})
        results.write_runs(cell.folder / DONE, [found])
    for path in SPENT:
        shutil.rmtree(cell.folder / path, ignore_errors=True)


# -- the suite ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A part of a suite; empty means all."""

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """The chosen cells and the bases they need.

        Raises:
            ConfigError: it chooses nothing.
        """
        wanted = [
            cell
            for cell in cells
            if (not self.tasks or cell.task in self.tasks)
            and (not self.seeds or cell.seed in self.seeds)
            and (not self.methods or cell.method in self.methods)
        ]
        if not wanted:
            raise ConfigError("no run of the suite fits that choice", remedy="`zprl bench --list NAME` shows tasks, methods and seeds")
        needed = {cell.folder for cell in wanted} | {cell.base.folder for cell in wanted if cell.base}
        return [cell for cell in cells if cell.folder in needed]


class _Watch:
    """Says what is done and how long the rest will take."""

    def __init__(self, cells: Sequence[Cell], jobs: int) -> None:
        self.cells, self.jobs = cells, jobs
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
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
        self.bar.update(self.task, completed=number, description=f"runs, about {left} left" if left else "runs")
        print(f"[{number}/{len(self.cells)}] {cell.name}: {text}" + (f"; about {left} left" if left else ""), flush=True)


def _verdict(cell: Cell) -> str:
    found = finished(cell)
    assert found is not None
    last = found.points[-1]
    return f"success {last.success_rate:.2f} over {last.episodes} episodes, {found.facts.wall_s:.0f} s"


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
    waiting = [cell for cell in cells if cell in waiting or (cell.folder in needed and not ready(cell))]
    running: dict[Path, tuple[Cell, PrefectFuture[None]]] = {}
    failed: dict[Path, str] = {}
    watch = _Watch(cells, jobs)
    with open_pipeline_tracker(f"bench {Path(name).stem}", params={}, inputs={}) as tracker, watch.bar:
        tracking = {**_tracking_place(), PARENT_VARIABLE: tracker.run_id or ""}
        try:
            while waiting or running:
                for cell in [c for c in waiting if c.base and c.base.folder in failed]:
                    waiting.remove(cell)
                    failed[cell.folder] = f"{cell.name}: without its base policy"
                for cell in [c for c in waiting if c.base is None or ready(c.base)][: jobs - len(running)]:
                    waiting.remove(cell)
                    running[cell.folder] = (cell, run_cell.submit(cell, cell.name, tracking, place / STOP))
                for where, (cell, future) in list(running.items()):
                    future.wait(timeout=1.0 / len(running))  # Ray's know how they ended only once they were waited for
                    state = future.state
                    if not state.is_final():
                        continue
                    del running[where]
                    if state.is_completed():
                        # A policy made anew may be another one; then what was done on the old one is to be done again.
                        again = [c for c in cells if c.base is not None and c.base.folder == where and finished(c) is None]
                        waiting = [c for c in cells if c in waiting or c in again]
                        write_down(name, whole, Path(target))
                        watch.say(cell, _verdict(cell))
                        continue
                    error = future.result(raise_on_failure=False)
                    if isinstance(error, Interrupted):
                        raise error
                    failed[where] = f"{cell.name}: {error.message if isinstance(error, ZprlError) else error!r}; see {where / LOG}"
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
    return {"MLFLOW_TRACKING_URI": uri, "ZPRL_ARTIFACT_LOCATION": Path(ARTIFACT_FOLDER).resolve().as_uri()}


def write_down(name: str, cells: Sequence[Cell], target: Path) -> None:
    """Write what any machine needs to go on with a suite."""
    target.mkdir(parents=True, exist_ok=True)
    results.write_runs(target / f"{Path(name).stem}{RUNS}", [found for cell in cells if (found := finished(cell)) is not None])


def publish(name: str, folder: Path, target: Path, *, command: str) -> Path:
    """Write runs, CSV, picture and page of whatever is done.

    Returns:
        The page.

    Raises:
        DataError: nothing is done yet.
    """
    chosen = suite.load(name)
    cells = suite.cells(chosen, folder)
    take_over(cells, target)
    done = [(cell, found) for cell in cells if (found := finished(cell)) is not None]
    if not done:
        raise DataError(f"no run of '{name}' is done in {folder}", remedy=f"`zprl bench {name}` runs them")
    # A base that a method has for itself is that method's start, not one of the suite's policies.
    shown = [found for cell, found in done if cell.base is not None or cell.folder.name == BASE]
    points = [point for found in shown for point in found.points]
    facts = [found.facts for found in shown]
    info = page.SuiteInfo(
        suite=Path(name).stem,
        title=chosen.title,
        command=command,
        commits=tuple(sorted({found.facts.commit or "unknown" for _, found in done})),
        wall_s=sum(found.facts.wall_s for _, found in done),
        machine=f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        methods={
            key: page.MethodInfo(label=m.label, source=m.source, space=m.space, tuning=m.tuning) for key, m in chosen.chosen().items()
        },
        missing=[(cell.task, cell.method, cell.seed) for cell in cells if finished(cell) is None],
        budget=max(point.env_steps for point in points),
    )
    stem = Path(name).stem
    write_down(name, cells, target)
    results.write(target / f"{stem}.csv", points)
    figures.save(figures.curves(points, {name: method.label for name, method in info.methods.items()}), target / f"{stem}.png")
    page.write(target / f"{stem}.html", points, facts, info)
    return target / f"{stem}.html"


def _runner(jobs: int, ray: str | None) -> TaskRunner[PrefectFuture[Any]]:
    if ray is None:
        return ThreadPoolTaskRunner(max_workers=jobs)
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError as error:
        raise EnvironmentProblem("Ray is not installed", remedy="install the extra that has it: zprl[ray]") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray == "local":
        return RayTaskRunner(init_kwargs={"num_cpus": jobs, "include_dashboard": False, "_node_ip_address": "127.0.0.1"})
    return RayTaskRunner(address=ray)


def bench(name: str, *, folder: Path, target: Path, choice: Choice, jobs: int, command: str, ray: str | None = None) -> Path:
    """Run a suite to its end and publish what came out; interrupted, the same call continues.

    Args:
        name: The suite.
        folder: Where all suites' cells live; with a cluster, on a file system that all its machines share.
        target: Where table, picture and page are written.
        choice: Part of the suite.
        jobs: Cells at a time.
        command: What the page names as the way to make it again.
        ray: ``local``, or the address of a Ray cluster; ``None`` runs cells as children of this process.

    Raises:
        EnvironmentProblem: another process runs the suite there, or cells failed; what could run has run, and the page is written.
    """
    place = folder / Path(name).stem
    place.mkdir(parents=True, exist_ok=True)
    runner = _runner(jobs, ray)
    lease = durable.lease(place / "LEASE")
    try:
        take_over(choice.of(suite.cells(suite.load(name), place)), target)
        failures = run_suite.with_options(task_runner=runner)(name, str(place), str(target.resolve()), choice, jobs)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped on request", remedy="run the same command again to continue") from error
    finally:
        os.close(lease)
    written = publish(name, place, target, command=command)
    if failures:
        raise EnvironmentProblem(
            f"{len(failures)} run(s) failed: " + "; ".join(failures[:5]), remedy="repair it and run the same command again"
        )
    return written
