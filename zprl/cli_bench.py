"""``zprl bench``: compare methods.  Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zprl.terminal import say

if TYPE_CHECKING:
    from pipelines.bench_publish import Choice

Suite = Annotated[
    str | None, typer.Argument(help="Name of a suite, or a YAML file; none lists them.")
]
PROCESSORS = os.cpu_count() or 1

Jobs = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Runs at a time, one process each.")]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="Only this task; may be given again.")
]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Only this method; may be given again.")
]
Seeds = Annotated[
    list[int] | None, typer.Option("--seed", help="Only this seed; may be given again.")
]
Folder = Annotated[
    Path, typer.Option(help="Where runs live; those that are done are never run again.")
]
Results = Annotated[Path, typer.Option(help="Where table, diagram and page are written.")]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Run on Ray: 'local', or a cluster's address; the folder must be on its shared disk."
    ),
]
Show = Annotated[
    bool, typer.Option("--list", help="List the suite's runs and what is done; run nothing.")
]
Page = Annotated[
    bool, typer.Option("--page", help="Write table, diagram and page of what is done; run nothing.")
]
Policies = Annotated[
    bool,
    typer.Option(
        "--policies",
        help="Copy the frozen policies beside the page, so that another machine can go on; "
        "run nothing.",
    ),
]


def bench(
    suite: Suite = None,
    jobs: Jobs = PROCESSORS,
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    folder: Folder = Path("bench"),
    results: Results = Path("docs/results"),
    ray: Ray = None,
    show: Show = False,
    page: Page = False,
    policies: Policies = False,
) -> None:
    """Compare methods: tasks x methods x seeds on the same frozen base policies.

    An interrupted suite continues.
    """
    if suite is None:
        _list_suites()
        return

    from pipelines import bench_publish

    place = folder / Path(suite).stem
    choice = bench_publish.Choice(tuple(tasks or ()), tuple(methods or ()), tuple(seeds or ()))
    if show:
        _list_runs(suite, place, results, choice)
        return
    if policies:
        say(f"policies: {bench_publish.keep_policies(suite, place, results)}")
        return

    command = "zprl " + shlex.join(sys.argv[1:])
    if page:
        command = command.replace(" --page", "")
        written = bench_publish.publish(suite, place, results, command=command)
    else:
        from pipelines.bench import bench as run_suite

        written = run_suite(
            suite, folder=folder, target=results, choice=choice, jobs=jobs, command=command, ray=ray
        )
    say(f"page: {written}")


def _list_suites() -> None:
    from zprl.bench import suite as suites

    for name in suites.names():
        suite = suites.load(name)
        runs = len(suite.tasks) * len(suite.chosen()) * len(suite.seeds)
        say(f"{name:20} {runs:4} runs  {suite.title}")


def _list_runs(suite: str, place: Path, results: Path, choice: Choice) -> None:
    from pipelines import bench_publish
    from pipelines.bench_cell import finished
    from zprl.bench import suite as suites

    chosen = choice.of(suites.cells(suites.load(suite), place))
    bench_publish.take_over(chosen, results)
    for cell in chosen:
        say(f"{'done' if finished(cell) else 'open':6}{cell.name}")
