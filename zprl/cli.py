"""The command line: ``zprl <noun> <verb>``.

Its commands stand in ``zprl/cli_*.py``, and everything heavy is imported inside them.  Exit codes:
0 ok, 1 bug, 2 usage or configuration, 3 bad data, 4 environment, 5 interrupted and resumable,
6 gate refused.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from zprl import child_processes, cli_pipeline, logs
from zprl.cli_bench import bench
from zprl.cli_config import config_app
from zprl.cli_demos import demos_app
from zprl.cli_env import env_app
from zprl.cli_robot import robot_app
from zprl.cli_session import session_app
from zprl.errors import ZprlError
from zprl.terminal import say, say_error

app = typer.Typer(
    help="Robot demonstrations into policies that keep improving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order of the help.
app.command()(cli_pipeline.run)
app.command()(cli_pipeline.ui)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(cli_pipeline.prefect)
app.command()(bench)
app.command()(cli_pipeline.promote)
app.command()(cli_pipeline.doctor)
app.command()(cli_pipeline.lineage)
app.add_typer(config_app, name="config")
app.add_typer(demos_app, name="demos")
app.add_typer(env_app, name="env")
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


def main() -> None:
    """Run a command; an expected failure becomes one sentence, a remedy and an exit code."""
    os.environ.update(child_processes.SAFE_PATH)
    try:
        logs.configure()
        app()
    except ZprlError as error:
        say_error(error, trace=_verbose)
        sys.exit(error.exit_code)
    except Exception as error:  # the last line of defence: a bug, exit code 1
        say_error(error, trace=_verbose)
        sys.exit(1)


if __name__ == "__main__":
    main()
