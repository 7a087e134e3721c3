"""``zprl prefect ARGUMENTS``: Prefect's command line with this folder's server and login."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines import environment
from zprl import terminal

ROBOT_POOL = "robot"
"""The work pool whose worker stands beside a robot (prefect.yaml)."""
ROBOT_DEPLOYMENT = "robot-session"


def main(arguments: Sequence[str]) -> None:
    """Run a command of Prefect's, in this process.

    Raises:
        EnvironmentProblem: the command is about the robot, and the server demands no login.
        SystemExit: with the command's exit code.
    """
    environment.prepare()
    from prefect.cli import app
    from prefect.settings import PREFECT_API_URL

    from pipelines import close_dead_runs, servers

    servers.embed()
    api = PREFECT_API_URL.value()
    if api and about_the_robot(arguments):
        servers.demand_login(api)
    if not {"create", "deploy"}.isdisjoint(arguments):  # they advise what to type next
        terminal.say("where Prefect says `prefect ...`, type `zprl prefect ...` here", err=True)
    if starts_a_worker(arguments):
        close_dead_runs.close_on_server()
    sys.argv = ["prefect", *arguments]
    app()


def about_the_robot(arguments: Sequence[str]) -> bool:
    """Return whether a command makes, changes or serves the robot's pool, or deploys into it."""
    words = {word.rpartition("=")[2] for word in arguments}
    pool = ROBOT_POOL in words and not words.isdisjoint({"work-pool", "worker", "deploy"})
    return pool or ("deploy" in words and not words.isdisjoint({"--all", ROBOT_DEPLOYMENT}))


def starts_a_worker(arguments: Sequence[str]) -> bool:
    """Return whether a command starts a worker, and not only prints its help."""
    return {"worker", "start"} <= set(arguments) and "--help" not in arguments
