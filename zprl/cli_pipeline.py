"""Commands for the whole project: run the pipeline, open its pages, judge and trace policies.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zprl.errors import EnvironmentProblem, GateRefused, Interrupted
from zprl.terminal import console, say, say_json

FILE_COLUMNS = 200
"""Width of a tree that is written to a file, where it need not fit a window."""


def run(
    stage: Annotated[
        str, typer.Option(help="Only this stage of dvc.yaml and what it needs.")
    ] = "all",
    force_flow: Annotated[
        bool, typer.Option("--flow", help="Start a flow run even when everything is up to date.")
    ] = False,
) -> None:
    """Bring the whole pipeline up to date, with Prefect and MLflow.

    An interrupted run continues.
    """
    from pipelines import close_dead_runs, dvc_graph, environment

    environment.prepare()
    stages = dvc_graph.stage_order(None if stage == "all" else stage)
    if not force_flow and not dvc_graph.out_of_date(stages):
        close_dead_runs.close_on_server()
        say("Everything is up to date.")
        return

    say("starting the pipeline: " + " → ".join(stages))
    from pipelines.flows import pipeline
    from pipelines.stage_process import sigterm_like_ctrl_c

    try:
        with sigterm_like_ctrl_c():
            pipeline(stage)
    except KeyboardInterrupt as error:
        raise Interrupted("stopped on request") from error

    report = Path("artifacts/report")
    pages = sorted(report.glob("*.html")) if report.is_dir() else []
    if pages and stage in {"all", "report"}:
        say(f"report: {pages[0]}")
    say("`zprl ui` opens MLflow and Prefect")


def ui(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    link: Annotated[
        bool,
        typer.Option(
            "--link", help="Only print new links to the pages of the `zprl ui` that is open here."
        ),
    ] = False,
    env: Annotated[
        bool,
        typer.Option(
            "--env",
            help='Only print addresses and logins for programs: eval "$(zprl ui --env)". '
            "Without `eval` the terminal shows the logins.",
        ),
    ] = False,
) -> None:
    """Open MLflow and Prefect, on this machine only, until Ctrl-C.

    Each page is opened by the link that is printed, once.
    """
    from pipelines.ui import serve, show_environment, show_links

    if link:
        show_links()
    elif env:
        show_environment()
    else:
        serve(mlflow_port=mlflow_port, prefect_port=prefect_port)


def prefect(context: typer.Context) -> None:
    """Run Prefect's own command line with this folder's server and login.

    Example:  zprl prefect work-pool ls
    """
    from pipelines.prefect_cli import main

    main(context.args)


def promote(
    check: Annotated[
        bool, typer.Option("--check", help="Only read the last decision; run nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 6 when the gate refused.")
    ] = False,
) -> None:
    """Judge the newest policy and, if it earned it, make it the registry's champion.

    In the pipeline a refusal is a result and no failure: its reasons stand in
    artifacts/promotion.json.  --check and --strict turn it into exit code 6, for scripts that
    must not go on.
    """
    from zprl import durable

    if not check:
        run(stage="promote", force_flow=False)
    decision = durable.read_json("artifacts/promotion.json")
    say("accepted" if decision["accept"] else "refused")
    for reason in decision["reasons"]:
        say(f"  {reason}")
    if not decision["accept"] and (check or strict):
        raise GateRefused(
            "the gate refused the candidate",
            remedy="train longer or better; the reasons stand above",
        )


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what this machine has, what is missing and how to get it.

    Exit code 4 when something needed is missing.
    """
    from zprl.doctor import examine

    checks = examine()
    missing = [check.name for check in checks if check.state == "missing"]
    if as_json:
        say_json({"ok": not missing, "checks": [check.as_dict() for check in checks]})
    else:
        for item in checks:
            say(f"{item.state:8} {item.name:14} {item.text}")
            if item.remedy:
                say(f"{'':23} remedy: {item.remedy}")

    if missing:
        raise EnvironmentProblem(
            f"missing: {', '.join(missing)}", remedy="see the lines above" if not as_json else None
        )


def lineage(
    target: Annotated[
        str,
        typer.Argument(
            help="Back from: a bundle's folder, an MLflow run id, a registered model "
            "(name@alias, name/version). "
            "Forward from: a demo file or folder, an episode (<file stem>/<demo>)."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable, with every episode and parameter.")
    ] = False,
    only_local: Annotated[
        bool, typer.Option("--local", help="Ask only what lies here, not the tracking store.")
    ] = False,
    episodes: Annotated[int, typer.Option(min=0, help="Episodes listed of each source.")] = 5,
    params: Annotated[bool, typer.Option("--params", help="Show each run's parameters.")] = False,
) -> None:
    """Trace a policy back to demonstrations, or a demonstration forward to policies.

    Back to the bytes of each demonstration, forward to every policy that used it.
    """
    from zprl.lineage import local
    from zprl.lineage import target as targets
    from zprl.tracking import lineage as tracked

    why = "--local" if only_local else tracked.missing()
    node, records = targets.trace(
        target, tracked.records if why is None else lambda more: local.records(more, why=why)
    )
    if as_json:
        say_json({"store": records.store, **node.as_json()})
        return

    from zprl.lineage.tree_view import show

    say(f"from {records.store}")
    wide = None if sys.stdout.isatty() else FILE_COLUMNS
    show(node, console(width=wide), episodes=episodes, params=params)
