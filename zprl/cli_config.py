"""``zprl config``: numbers in params.yaml.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zprl.terminal import say

config_app = typer.Typer(
    help="The numbers in params.yaml.", no_args_is_help=True, rich_markup_mode=None
)


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
