"""Publish a suite, and go on from what was published.

That is: finished runs that any machine goes on from, frozen policies, table, diagram and page.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.bench_cell import DONE, claim, claimed, finished, ready
from zprl import durable
from zprl.bench import results, suite
from zprl.bench.suite import BASE, Cell
from zprl.errors import ConfigError, DataError

RUNS = ".runs.json"
POLICIES = ".policies"
"""These end the names of what a suite publishes of its finished runs, and of the folder with its
frozen policies."""
OF_A_POLICY = ("artifacts/base", "artifacts/episodes", "metrics/base.json")
"""What methods need of a base cell."""


@dataclass(frozen=True)
class Choice:
    """A part of a suite; empty means all."""

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the chosen cells and the bases they need.

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
            raise ConfigError(
                "no run of the suite fits that choice",
                remedy="`zprl bench --list NAME` shows tasks, methods and seeds",
            )

        needed = {cell.folder for cell in wanted}
        needed |= {cell.base.folder for cell in wanted if cell.base}
        return [cell for cell in cells if cell.folder in needed]


def take_over(cells: Sequence[Cell], target: Path) -> None:
    """Take runs with the same numbers from what suites have published in ``target``."""
    published = [run for file in sorted(target.glob(f"*{RUNS}")) for run in results.read_runs(file)]
    known = {(run.key, run.facts.task, run.facts.seed): run for run in published}
    for cell in cells:
        run = known.get((cell.key, cell.task, cell.seed))
        if run is None or (claimed(cell) and (cell.folder / DONE).exists()):
            continue
        claim(cell)
        if not (cell.folder / DONE).exists():
            results.write_runs(cell.folder / DONE, [run.named(cell.method)])

    for cell in cells:
        if cell.base is None and finished(cell) is not None and not ready(cell):
            for kept in sorted(target.glob(f"*{POLICIES}/{cell.key}"))[:1]:
                shutil.copytree(kept, cell.folder, dirs_exist_ok=True)


def keep_policies(name: str, folder: Path, target: Path) -> Path:
    """Copy a suite's frozen policies, and the episodes they were trained on, for other machines.

    The same numbers need not give the same bits on another processor, and what is compared must
    stand on one policy.
    """
    place = target / f"{Path(name).stem}{POLICIES}"
    for cell in suite.cells(suite.load(name), folder):
        if cell.base is None and ready(cell) and not (place / cell.key).exists():

            def fill(partial: Path, source: Path = cell.folder) -> None:
                for part in OF_A_POLICY:
                    (partial / part).parent.mkdir(parents=True, exist_ok=True)
                    copy = shutil.copytree if (source / part).is_dir() else shutil.copyfile
                    copy(source / part, partial / part)

            place.mkdir(parents=True, exist_ok=True)
            durable.write_dir(place / cell.key, fill)
    return place


def write_down(name: str, cells: Sequence[Cell], target: Path) -> None:
    """Write what any machine needs to go on with a suite."""
    target.mkdir(parents=True, exist_ok=True)
    results.write_runs(
        target / f"{Path(name).stem}{RUNS}",
        [run for cell in cells if (run := finished(cell)) is not None],
    )


def publish(name: str, folder: Path, target: Path, *, command: str) -> Path:
    """Write runs, CSV, diagram and page of what is done so far.

    Returns:
        The page.

    Raises:
        DataError: nothing is done yet.
    """
    # Imported here: a list of runs need not wait seconds for it.
    from zprl.bench import figures, page

    chosen = suite.load(name)
    cells = suite.cells(chosen, folder)
    take_over(cells, target)
    done = [(cell, run) for cell in cells if (run := finished(cell)) is not None]
    if not done:
        raise DataError(
            f"no run of '{name}' is done in {folder}", remedy=f"`zprl bench {name}` runs them"
        )

    # A base that a method has for itself is that method's start, not one of the suite's policies.
    shown = [run for cell, run in done if cell.base is not None or cell.folder.name == BASE]
    points = [point for run in shown for point in run.points]
    methods = chosen.chosen()
    stem = Path(name).stem
    info = page.SuiteInfo(
        suite=stem,
        title=chosen.title,
        command=command,
        commits=tuple(sorted({run.facts.commit or "unknown" for _, run in done})),
        wall_s=sum(run.facts.wall_s for _, run in done),
        machines=tuple(sorted({run.facts.machine or "not noted" for _, run in done})),
        methods={
            key: page.MethodInfo(label=m.label, source=m.source, space=m.space, tuning=m.tuning)
            for key, m in methods.items()
        },
        missing=[(cell.task, cell.method, cell.seed) for cell in cells if finished(cell) is None],
        budget=max(point.env_steps for point in points),
    )

    write_down(name, cells, target)
    results.write(target / f"{stem}.csv", points)
    labels = {key: method.label for key, method in methods.items()}
    spaces = {key: method.space for key, method in methods.items()}
    figures.save(figures.curves(points, labels, spaces), target / f"{stem}.png")
    html = target / f"{stem}.html"
    page.write(html, points, [run.facts for run in shown], info)
    return html
