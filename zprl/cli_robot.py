"""``zprl robot``: robots and their drivers.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from zprl.errors import EnvironmentProblem
from zprl.terminal import say

robot_app = typer.Typer(
    help="Robots and their drivers.", no_args_is_help=True, rich_markup_mode=None
)


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
    """Run the public checker on a robot.

    It connects, holds, and moves by less than a centimetre.
    """
    from zprl.robot.check import check_robot
    from zprl.robot.task import RealTask
    from zprl.session.run import with_simulated_robot

    checked = RealTask.load(task)
    if not checked.make_robot().simulated and not yes:
        raise EnvironmentProblem(
            "this moves a real arm",
            remedy="clear its cell, take the stop in your hand, and add --yes",
        )
    with with_simulated_robot(checked):
        for prefix in checked.prefixes:
            check_robot(checked.make_robot, prefix=prefix)
    say(f"the robot of '{checked.name}' keeps the contract")
