"""``zprl session``: sessions with a robot.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zprl.errors import DataError, EnvironmentProblem
from zprl.terminal import say

session_app = typer.Typer(
    help="Sessions with a robot.", no_args_is_help=True, rich_markup_mode=None
)


@session_app.command("tasks")
def session_tasks() -> None:
    """List the built-in tasks for robots."""
    from zprl.robot.task import RealTask, built_in

    for name in built_in():
        task = RealTask.load(name)
        drivers = ", ".join(arm.driver for arm in task.arms.values())
        say(f"{name:14} {drivers:14} {task.rate_hz:g} Hz  {task.description}")


@session_app.command("run")
def session_run() -> None:
    """Run a session as params.yaml says (section finetune_real), then `dvc add` it.

    One that was interrupted goes on.
    """
    from pipelines import robot_session

    code = robot_session.main([])
    if code:
        raise typer.Exit(code)


@session_app.command("page")
def session_page() -> None:
    """Print a link that opens the operator's page of the session running in this folder.

    It works once.
    """
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
    header = store.header
    say(f"{header.id}: task {header.task}, space {header.space}, seed {header.seed}")

    for episode in store.episodes():
        line = labels.get(episode.number)
        label = line.label if line else "no label"
        author = f"  by {line.author}" if line and line.author else ""
        say(
            f"{episode.number:5}  {episode.phase:16} start {episode.start_number:3}  {label:8}  "
            f"{episode.steps:4} steps  {episode.robot_s:6.2f} s  "
            f"clipped {episode.facts.clip_share:4.0%}  "
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
    """Give an episode a label, or correct it; the old line stays in the file."""
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
    """Tighten limits of a session, also while it runs; nothing is ever loosened.

    The arm stops, then goes on under the new limits.
    """
    from zprl.recordings import conditions

    before = conditions.load(path)
    change = conditions.change_of(before.limits, assignments, arm)
    before.limits.tightened(change)  # refuses what is looser, before anybody is asked
    wanted = ", ".join(assignments)
    if not yes:
        typer.confirm(f"{wanted}: no command takes this back for this session. Go on?", abort=True)

    digest = conditions.tighten(path, change).digests["limits"]
    say(f"in force for the rest of the session: {wanted} (limits {digest[:16]})")


@session_app.command("export")
def session_export(
    target: Annotated[
        Path, typer.Argument(help="A folder (LeRobot) or an .hdf5 file (robomimic).")
    ],
    path: Annotated[Path, typer.Option(help="A session's folder.")] = Path("session"),
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Export a session's labelled episodes; not while it runs.

    LeRobot v3 into a folder, robomimic into an .hdf5 file.
    """
    from zprl.recordings.export.lerobot import export_lerobot
    from zprl.recordings.export.robomimic import export_robomimic
    from zprl.recordings.store import SessionStore

    _demand_ended(path)
    store = SessionStore.open(path)
    export = export_robomimic if target.suffix in {".hdf5", ".h5"} else export_lerobot
    say(f"{export(store, target, overwrite=overwrite)} episodes in {target}")
