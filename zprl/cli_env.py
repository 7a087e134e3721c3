"""``zprl env``: worlds in which policies act.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zprl.terminal import console, say

env_app = typer.Typer(
    help="Worlds in which policies act.", no_args_is_help=True, rich_markup_mode=None
)


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
    differences = list(compare.differences(ours, root))

    title = f"{len(differences)} differences that matter to physics"
    rows = Table("thing", "what", "authored here", str(root), title=title)
    for difference in differences:
        rows.add_row(*difference)
    console().print(rows)
