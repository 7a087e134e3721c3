"""The command line: ``zprl <noun> <verb>``.  Everything heavy is imported inside the commands.

Exit codes: 0 ok, 1 bug, 2 usage or configuration, 3 bad data, 4 environment, 5 interrupted and
resumable, 6 gate refused.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from zprl import child_processes
from zprl.cli_demos import demos_app
from zprl.errors import DataError, EnvironmentProblem, GateRefused, Interrupted, ZprlError
from zprl.terminal import console, say, say_error, say_json

app = typer.Typer(
    help="Robot demonstrations into policies that keep improving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    help="The numbers in params.yaml.", no_args_is_help=True, rich_markup_mode=None
)
env_app = typer.Typer(
    help="Worlds in which policies act.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config_app, name="config")
app.add_typer(demos_app, name="demos")
app.add_typer(env_app, name="env")
robot_app = typer.Typer(
    help="Robots and their drivers.", no_args_is_help=True, rich_markup_mode=None
)
session_app = typer.Typer(
    help="Sessions with a robot.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(robot_app, name="robot")
app.add_typer(session_app, name="session")

_verbose = False


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"zprl {version('zprl')}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose


# -- the pipeline ----------------------------------------------------------------------------------


@app.command()
def run(
    stage: Annotated[
        str, typer.Option(help="Only this stage of dvc.yaml and what it needs.")
    ] = "all",
    force_flow: Annotated[
        bool, typer.Option("--flow", help="Start a flow run even when everything is up to date.")
    ] = False,
) -> None:
    """Bring the whole pipeline up to date, with Prefect and MLflow; an interrupted run continues."""
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
        raise Interrupted(
            "stopped on request", remedy="run the same command again to continue"
        ) from error
    report = Path("artifacts/report")
    pages = sorted(report.glob("*.html")) if report.is_dir() else []
    if pages and stage in {"all", "report"}:
        say(f"report: {pages[0]}")
    say("`zprl ui` opens MLflow and Prefect")


@app.command()
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
    """Open MLflow and Prefect, on this machine only, until Ctrl-C.  Each page is opened by the link that is printed, once."""
    from pipelines.ui import serve, show_environment, show_links

    if link:
        show_links()
    elif env:
        show_environment()
    else:
        serve(mlflow_port=mlflow_port, prefect_port=prefect_port)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def prefect(context: typer.Context) -> None:
    """Run Prefect's own command line with this folder's server and login, e.g. `zprl prefect work-pool ls`."""
    from pipelines.prefect_cli import main

    main(context.args)


@app.command()
def bench(
    suite: Annotated[
        str | None, typer.Argument(help="Name of a suite, or a YAML file; none lists them.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, help="Runs at a time, one process each.")
    ] = os.cpu_count() or 1,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; may be given again.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Only this method; may be given again.")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Only this seed; may be given again.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where runs live; those that are done are never run again.")
    ] = Path("bench"),
    results: Annotated[Path, typer.Option(help="Where table, image and page are written.")] = Path(
        "docs/results"
    ),
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run on Ray: 'local', or a cluster's address; the folder must be on its shared disk."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the suite's runs and what is done; run nothing.")
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--page", help="Write table, image and page of what is done; run nothing."),
    ] = False,
    policies: Annotated[
        bool,
        typer.Option(
            "--policies",
            help="Copy the frozen policies beside the page, so that another machine can go on; run nothing.",
        ),
    ] = False,
) -> None:
    """Compare methods: tasks x methods x seeds on the same frozen base policies.  An interrupted suite continues."""
    from zprl.bench import suite as suites

    if suite is None:
        for name in suites.names():
            found = suites.load(name)
            runs = len(found.tasks) * len(found.chosen()) * len(found.seeds)
            say(f"{name:20} {runs:4} runs  {found.title}")
        return
    from pipelines import bench_publish
    from pipelines.bench_cell import finished

    place = folder / Path(suite).stem
    choice = bench_publish.Choice(tuple(tasks or ()), tuple(methods or ()), tuple(seeds or ()))
    if show:
        chosen = choice.of(suites.cells(suites.load(suite), place))
        bench_publish.take_over(chosen, results)
        for cell in chosen:
            say(f"{'done' if finished(cell) else 'open':6}{cell.name}")
        return
    if policies:
        say(f"policies: {bench_publish.keep_policies(suite, place, results)}")
        return
    command = "zprl " + shlex.join(sys.argv[1:])
    if page:
        written = bench_publish.publish(
            suite, place, results, command=command.replace(" --page", "")
        )
    else:
        from pipelines.bench import bench as run_suite

        written = run_suite(
            suite, folder=folder, target=results, choice=choice, jobs=jobs, command=command, ray=ray
        )
    say(f"page: {written}")


@app.command()
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
    artifacts/promotion.json.  --check and
    --strict turn it into exit code 6, for scripts that must not go on.
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


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what this machine has, what is missing and how to get it; exit code 4 when something needed is missing."""
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


@app.command()
def lineage(
    target: Annotated[
        str,
        typer.Argument(
            help="Back from: a bundle's folder, an MLflow run id, a registered model (name@alias, name/version). "
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
    """From a policy back to the bytes of each demonstration, or from a demonstration forward to every policy that used it."""
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
    wide = None if sys.stdout.isatty() else 200  # in a file nothing needs to fit a window
    show(node, console(width=wide), episodes=episodes, params=params)


# -- nouns -----------------------------------------------------------------------------------------


@config_app.command("explain")
def config_explain(
    section: Annotated[
        str | None, typer.Argument(help="A section of params.yaml; all without it.")
    ] = None,
) -> None:
    """Say what every number means, its default, and where that comes from."""
    from zprl import presets

    for key, kind, default, text in presets.explain(section):
        say(f"{key}  ({kind}, default {default})")
        say(f"    {text}")


@config_app.command("check")
def config_check(path: Annotated[Path, typer.Argument()] = Path("params.yaml")) -> None:
    """Find mistakes in params.yaml."""
    from zprl import config

    config.load(path)
    say(f"{path} is valid")


@config_app.command("use")
def config_use(
    preset: Annotated[str, typer.Option(help="Name of the preset, e.g. paper or smoke.")],
    path: Annotated[Path, typer.Argument()] = Path("params.yaml"),
) -> None:
    """Write a preset's numbers into params.yaml; comments stay."""
    from zprl import presets

    changes = presets.use(preset, path)
    for key, old, new in changes:
        say(f"{key}: {old} → {new}")
    say(f"{len(changes)} value(s) changed in {path}")


@env_app.command("list")
def env_list() -> None:
    """List the registered tasks."""
    from zprl import plugins

    for name in plugins.names("tasks"):
        say(name)


@env_app.command("check")
def env_check(
    name: Annotated[str, typer.Argument(help="A registered task; `zprl env list` prints them.")],
    num_envs: Annotated[int, typer.Option(min=1)] = 4,
    episode_steps: Annotated[
        int, typer.Option(min=10, help="Short episodes show their ends sooner.")
    ] = 40,
    device: Annotated[str, typer.Option()] = "cpu",
    physics: Annotated[
        str, typer.Option(help="Engine under Isaac's worlds: ovphysx, newton or isaacsim.")
    ] = "ovphysx",
    assets: Annotated[
        str, typer.Option(help="USD files of Isaac's worlds: authored, or nvidia.")
    ] = "authored",
    camera: Annotated[
        list[str] | None, typer.Option(help="Check its images too; once for each camera.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="For `isaaclab/<Task-Id>`: what its terms mean here.")
    ] = None,
) -> None:
    """Run the public checker on a world."""
    from zprl import config, envs
    from zprl.envs.check import check_env

    given = {
        "name": name,
        "episode_steps": episode_steps,
        "physics": physics,
        "assets": assets,
        "file": file,
        "cameras": camera or [],
    }
    task = config.parse({"task": given}).task
    check_env(lambda: envs.make(task, num_envs=num_envs, device=device))
    say(f"{name} keeps the contract")


@env_app.command("assets")
def env_assets(
    root: Annotated[
        Path,
        typer.Argument(help="A folder of assets, as NVIDIA publishes them: it holds `Isaac/`."),
    ],
) -> None:
    """Compare the authored USD assets with others: joints, limits, masses, inertias."""
    from rich.table import Table

    from zprl.envs.isaac import launch
    from zprl.envs.isaac.usd import compare

    with launch.quiet():
        ours = launch.authored()
    found = list(compare.differences(ours, root))
    rows = Table(
        "thing",
        "what",
        "authored here",
        str(root),
        title=f"{len(found)} differences that matter to physics",
    )
    for difference in found:
        rows.add_row(*difference)
    console().print(rows)


@robot_app.command("list")
def robot_list() -> None:
    """List the registered drivers."""
    from zprl import plugins

    for name in plugins.names("robots"):
        say(name)


@robot_app.command("check")
def robot_check(
    task: Annotated[
        str, typer.Argument(help="A task file, or a built-in name: its robot is checked.")
    ],
    yes: Annotated[
        bool,
        typer.Option("--yes", help="On hardware: the cell is clear and the stop is in my hand."),
    ] = False,
) -> None:
    """Run the public checker on a robot.  It connects, holds, and moves by less than a centimetre."""
    from zprl.robot.check import check_robot
    from zprl.robot.task import RealTask
    from zprl.session.run import with_simulated_robot

    found = RealTask.load(task)
    if not found.make_robot().simulated and not yes:
        raise EnvironmentProblem(
            "this moves a real arm",
            remedy="clear its cell, take the stop in your hand, and add --yes",
        )
    with with_simulated_robot(found):
        for prefix in found.prefixes:
            check_robot(found.make_robot, prefix=prefix)
    say(f"the robot of '{found.name}' keeps the contract")


@session_app.command("tasks")
def session_tasks() -> None:
    """List the built-in tasks for robots."""
    from zprl.robot.task import RealTask, built_in

    for name in built_in():
        task = RealTask.load(name)
        say(
            f"{name:14} {', '.join(arm.driver for arm in task.arms.values()):14} {task.rate_hz:g} Hz  {task.description}"
        )


@session_app.command("run")
def session_run() -> None:
    """Live a session as params.yaml says (section finetune_real), or go on with one that was interrupted; then `dvc add` it."""
    from pipelines import robot_session

    code = robot_session.main([])
    if code:
        raise typer.Exit(code)


@session_app.command("page")
def session_page() -> None:
    """Print a link that opens the operator's page of the session running in this folder; it works once."""
    from pipelines.robot_session import WORK
    from zprl.session.processes.console.access import page_link

    say(page_link(WORK))


def _demand_ended(path: Path) -> None:
    """Refuse a session that runs: a reader would take what is being written for damage.

    Raises:
        EnvironmentProblem: a process writes it.
    """
    from zprl.recordings.append_file import leased

    if leased(path):
        raise EnvironmentProblem(
            f"a session is running here ({path})",
            remedy="wait for its end or stop it; its page (`zprl session page`) takes labels",
        )


@session_app.command("show")
def session_show(
    path: Annotated[Path, typer.Argument(help="A session's folder.")] = Path("session"),
) -> None:
    """List the episodes of a session."""
    from zprl.recordings.store import SessionStore

    store = SessionStore.open(path)
    labels = {line.episode: line for line in store.labels.in_order()}
    say(
        f"{store.header.id}: task {store.header.task}, space {store.header.space}, seed {store.header.seed}"
    )
    for episode in store.episodes():
        facts, line = episode.facts, labels.get(episode.number)
        author = f"  by {line.author}" if line and line.author else ""
        say(
            f"{episode.number:5}  {episode.phase:16} start {episode.start_number:3}  {line.label if line else 'no label':8}  "
            f"{episode.steps:4} steps  {episode.robot_s:6.2f} s  clipped {facts.clip_share:4.0%}  "
            f"weights {','.join(map(str, episode.versions))}{author}"
        )


@session_app.command("verify")
def session_verify(
    path: Annotated[Path, typer.Argument(help="A session's folder.")] = Path("session"),
) -> None:
    """Check every byte of a session against its digests; not while it runs."""
    from zprl.recordings.verify import verify

    _demand_ended(path)
    damaged = verify(path)
    for item in damaged:
        say(str(item))
    if damaged:
        raise DataError(
            f"{len(damaged)} part(s) of {path} are damaged",
            remedy="`dvc checkout session.dvc` restores what was versioned",
        )
    say(f"{path} is whole")


@session_app.command("label")
def session_label(
    episode: Annotated[int, typer.Argument(min=1)],
    label: Annotated[str, typer.Argument(help="success, failure or discard")],
    path: Annotated[
        Path, typer.Option(help="A session's folder; not while the session runs.")
    ] = Path("session"),
) -> None:
    """Give an episode a label, or correct it; the old line stays in the journal."""
    from uuid import uuid4

    from zprl.recordings.store import SessionStore
    from zprl.session.inputs import this_user

    _demand_ended(path)
    with SessionStore.open(path, write=True) as store:
        line = store.label(
            episode, label, source="command line", nonce=uuid4().hex, author=this_user()
        )
    say(f"line {line.seq}: episode {episode} is a {label}")


@session_app.command("tighten")
def session_tighten(
    assignments: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="E.g. translation.speed=0.2 force=15"),
    ],
    arm: Annotated[
        str | None,
        typer.Option(help="Prefix of the arm, such as 'left.'; not needed where there is one."),
    ] = None,
    path: Annotated[Path, typer.Option(help="The session's folder.")] = Path("session"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Tighten limits of a session, also while it runs: the arm stops, then goes on under the new ones. Nothing is ever loosened."""
    from zprl.recordings import conditions

    before = conditions.load(path)
    change = conditions.change_of(before.limits, assignments, arm)
    before.limits.tightened(change)
    if not yes:
        typer.confirm(
            f"{', '.join(assignments)}: no command takes this back for this session. Go on?",
            abort=True,
        )
    after = conditions.tighten(path, change)
    say(
        f"in force for the rest of the session: {', '.join(assignments)} (limits {after.digests['limits'][:16]})"
    )


@session_app.command("export")
def session_export(
    target: Annotated[
        Path, typer.Argument(help="A folder (LeRobot) or an .hdf5 file (robomimic).")
    ],
    path: Annotated[Path, typer.Option(help="A session's folder.")] = Path("session"),
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Export a session's labelled episodes: LeRobot v3 into a folder, robomimic into an .hdf5 file; not while it runs."""
    from zprl.recordings.export.lerobot import export_lerobot
    from zprl.recordings.export.robomimic import export_robomimic
    from zprl.recordings.store import SessionStore

    _demand_ended(path)
    store = SessionStore.open(path)
    export = export_robomimic if target.suffix in {".hdf5", ".h5"} else export_lerobot
    say(f"{export(store, target, overwrite=overwrite)} episodes in {target}")


def main() -> None:
    """Entry point: expected failures become one sentence, a remedy and an exit code."""
    os.environ.update(child_processes.SAFE_PATH)
    try:
        app()
    except ZprlError as error:
        say_error(error, trace=_verbose)
        sys.exit(error.exit_code)
    except Exception as error:  # the last line of defence: a bug, exit code 1
        say_error(error, trace=_verbose)
        sys.exit(1)


if __name__ == "__main__":
    main()
