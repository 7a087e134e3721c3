"""One run of a suite: a folder in which the pipeline's own stages run.

``python -m pipelines.bench_cell SUITE TASK METHOD SEED`` does one by itself, with neither Prefect
nor DVC, and without MLflow where tracking is off (``ZPRL_TRACKING=off``): a job of a cluster's
queue, or a machine that has the simulator and little else.  Its ``cell.json`` is what came out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from pipelines.stage_process import StageError, stream
from zprl import child_processes, durable, logs, provenance, safe_names, strict_yaml
from zprl.bench import results, suite
from zprl.bench.suite import Cell
from zprl.errors import ConfigError, DataError, Interrupted, ZprlError
from zprl.terminal import say, say_error
from zprl.tracking import PARENT_VARIABLE, open_pipeline_tracker

DONE = "cell.json"
"""In a cell's folder: what came out, and what it came from."""
KEY = "KEY"
"""In a cell's folder: what its content comes from."""
LOG = "log.txt"
TIME = "time.json"
"""In a cell's folder: what its stages print, and seconds spent so far, interrupted attempts
included."""
STAGES = "pipelines.stages"
DEMOS = Path("data/demos/demos.hdf5")
POLICY = Path("artifacts/base/policy.safetensors")
SPENT = ("runs", "artifacts/learner")
"""Folders that a finished cell no longer needs: resume state and replay."""


def finished(cell: Cell) -> results.FinishedRun | None:
    """Return what came out of a cell.

    Returns:
        ``None`` where it is not done, or was done with other numbers or on another policy.
    """
    file = cell.folder / DONE
    if not file.exists():
        return None
    (run,) = results.read_runs(file)
    if run.key != cell.key:
        return None

    if cell.base is not None:
        base = finished(cell.base)
        if base is None or base.policy != run.stood_on:
            return None
    return run


def ready(base: Cell) -> bool:
    """Return whether a base's policy is here to be improved.

    Its verdict alone may have come from another machine.
    """
    run = finished(base)
    policy = base.folder / POLICY
    return run is not None and policy.exists() and durable.digest(policy) == run.policy


def claimed(cell: Cell) -> bool:
    """Return whether what is in the folder comes from the cell's numbers."""
    return (cell.folder / KEY).exists() and _key(cell.folder) == cell.key


def _key(folder: Path) -> str:
    """Return the key that the folder names as the source of its content."""
    return durable.read_bytes(folder / KEY, 64).decode(errors="replace")


def claim(cell: Cell) -> None:
    """Make the folder the cell's.

    What was done there with other numbers is set aside, and comes back with them.
    """
    here = cell.folder
    if (here / KEY).exists() and not claimed(cell):
        here.rename(safe_names.inside(here.parent, f"{here.name}.{_key(here)[:16]}"))
    if not here.exists() and (kept := here.with_name(f"{here.name}.{cell.key}")).exists():
        kept.rename(here)
    here.mkdir(parents=True, exist_ok=True)
    durable.write_text(here / "params.yaml", strict_yaml.dump(cell.params))
    durable.write_text(here / KEY, cell.key)


def prepare(cell: Cell) -> None:
    """Make the folder: parameters, and the base policy or the demonstrations."""
    claim(cell)
    if cell.base is None:
        if isinstance(cell.demos, Path):
            _link_demonstrations(cell, cell.demos)
        return

    for name in ("base", "episodes"):
        link = cell.folder / "artifacts" / name
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(cell.base.folder / "artifacts" / name, link.parent))


def _link_demonstrations(cell: Cell, demos: Path) -> None:
    if not demos.is_file():
        raise DataError(
            f"{demos} does not exist", remedy=f"the suite wants demonstrations of {cell.task} there"
        )
    link = cell.folder / DEMOS
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(demos.resolve())


def commands(cell: Cell) -> list[list[str]]:
    """Return the commands that run in the folder, in order."""
    module = child_processes.python("-m")
    if cell.base is not None:
        return [
            [*module, f"{STAGES}.finetune_sim", "finetune_sim"],
            [*module, f"{STAGES}.evaluate", "finetune_sim"],
        ]

    stages = [[*module, f"{STAGES}.{name}"] for name in ("ingest", "pretrain", "evaluate_base")]
    if isinstance(cell.demos, int) and not (cell.folder / DEMOS).exists():
        record = [*module, "zprl.cli", "demos", "record", str(DEMOS)]
        stages.insert(0, [*record, "--episodes", str(cell.demos), "--seed", str(cell.seed)])
    return stages


def outcome(cell: Cell) -> results.FinishedRun:
    """Return the result of a cell whose stages are through."""
    metrics = cell.folder / "metrics"
    names: dict[str, Any] = {"task": cell.task, "method": cell.method, "seed": cell.seed}
    origin: dict[str, Any] = {
        "wall_s": spent(cell),
        "commit": provenance.git_commit(),
        "machine": provenance.machine(cell.params["run"]["device"]),
    }

    def point(env_steps: int, verdict: dict[str, Any], wall_s: float) -> results.Point:
        shown = {key: verdict[key] for key in ("success_rate", "episodes", "jerk_rms")}
        return results.Point(**names, env_steps=env_steps, wall_s=wall_s, **shown)

    if cell.base is None:
        verdict = durable.read_json(metrics / "base.json")
        facts = results.RunFacts(
            **names,
            **origin,
            updates=0,
            updates_per_s=None,
            total_variation=verdict["total_variation"],
        )
        policy = durable.digest(cell.folder / POLICY)
        return results.FinishedRun(cell.key, None, policy, facts, (point(0, verdict, 0.0),))

    cost = durable.read_json(metrics / "finetune_sim.json")
    verdict = durable.read_json(metrics / "sim.json")
    start = durable.read_json(cell.base.folder / "metrics" / "base.json")
    points = [point(0, start, 0.0)]
    points += [point(row["env_steps"], row, row["wall_s"]) for row in cost.get("judged", [])]
    points.append(point(cost["env_steps"], verdict, cost["wall_s"]))

    facts = results.RunFacts(
        **names,
        **origin,
        updates=cost["updates"],
        updates_per_s=round(cost["updates"] / cost["wall_s"], 1),
        total_variation=verdict["total_variation"],
    )
    base_policy = durable.digest(cell.base.folder / POLICY)
    return results.FinishedRun(cell.key, base_policy, None, facts, tuple(points))


def spent(cell: Cell) -> float:
    """Return the seconds worked on a cell so far."""
    file = cell.folder / TIME
    return float(durable.read_json(file)["wall_s"]) if file.exists() else 0.0


def run(
    cell: Cell,
    name: str,
    *,
    parent: str | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Run what is left of a cell; its stages' lines go to ``log.txt`` in its folder.

    Args:
        cell: The cell; the policy that it improves must be ready.
        name: For people.
        parent: MLflow run above it.
        stopping: Asked five times a second; true stops it at the next resume point.

    Raises:
        Interrupted: it was asked to stop.
        StageError: a stage failed.
    """
    prepare(cell)
    # A folder that was set aside and came back may hold the whole result.
    if finished(cell) is not None and (cell.base is not None or ready(cell)):
        return

    before = spent(cell)
    started = time.monotonic()
    inputs = {"base": cell.base.key} if cell.base else {}
    with (
        open_pipeline_tracker(name, params=cell.params, inputs=inputs, parent=parent) as tracker,
        open(cell.folder / LOG, "a") as log,
    ):
        tracker.tag(task=cell.task, method=cell.method, seed=cell.seed)
        try:
            _run_stages(cell, name, log, tracker.run_id or "", stopping)
        finally:
            wall_s = round(before + time.monotonic() - started, 1)
            durable.write_json(cell.folder / TIME, {"wall_s": wall_s})

        result = outcome(cell)
        for point in map(asdict, result.points):
            numbers = {key: value for key, value in point.items() if isinstance(value, float)}
            tracker.log(point["env_steps"], **numbers)
        results.write_runs(cell.folder / DONE, [result])

    for path in SPENT:
        shutil.rmtree(cell.folder / path, ignore_errors=True)


def _run_stages(
    cell: Cell, name: str, log: TextIO, parent: str, stopping: Callable[[], bool]
) -> None:
    def write_line(line: str) -> None:
        log.write(f"{line}\n")
        log.flush()

    for command in commands(cell):
        code, _ = stream(
            command,
            write_line,
            cwd=cell.folder,
            env={PARENT_VARIABLE: parent},
            stopping=stopping,
        )
        if code == Interrupted.exit_code:
            raise Interrupted(f"{name} stopped on request")
        if code:
            raise StageError(command[3].removeprefix(f"{STAGES}."), code)


def verdict(cell: Cell) -> str:
    """Return the result of a finished cell in a few words."""
    run = finished(cell)
    assert run is not None
    last = run.points[-1]
    return (
        f"success {last.success_rate:.2f} over {last.episodes} episodes, {run.facts.wall_s:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one cell, and the policy that it improves where that is missing."""
    given = _parser().parse_args(arguments)
    place = (given.folder / Path(given.suite).stem).resolve()
    wanted = (given.task, given.method, given.seed)

    for cell in suite.cells(suite.load(given.suite), place):
        if (cell.task, cell.folder.name, cell.seed) == wanted:
            break
    else:
        raise ConfigError(
            "the suite has no such run", remedy=f"`zprl bench {given.suite} --list` shows them"
        )

    if cell.base is not None and not ready(cell.base):
        run(cell.base, cell.base.name)
    if not (ready(cell) if cell.base is None else finished(cell)):
        run(cell, cell.name)
    say(f"{cell.name}: {verdict(cell)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.bench_cell",
        description="Do one run of a suite, without Prefect and DVC.",
    )
    parser.add_argument("suite", help="name of a suite, or a YAML file")
    parser.add_argument("task")
    parser.add_argument("method", help="name of a method, or 'base' for the frozen policy alone")
    parser.add_argument("seed", type=int)
    parser.add_argument(
        "--folder", type=Path, default=Path("bench"), help="where runs live (default: bench)"
    )
    return parser


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        logs.configure()
        main()
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except ZprlError as error:
        say_error(error)
        sys.exit(error.exit_code)
