"""``zprl demos``: look at demonstrations, check them, add them.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from zprl.errors import ConfigError, DataError
from zprl.terminal import console, say, say_json

if TYPE_CHECKING:
    from zprl.data.episode_checks import Tally
    from zprl.data.findings import Finding
    from zprl.data.sources import Source
    from zprl.data.validation import ValidationLimits

demos_app = typer.Typer(
    help="Demonstrations: record, check, look at, convert, add.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

T = TypeVar("T")
Step = Callable[[int, int | None], None]
"""Called with sources that are done since the last call, and episodes seen so far where known."""
PLOTTED = 3
"""Episodes in an overview."""

Where = Annotated[
    Path,
    typer.Argument(
        help="A recording (a file, or the folder of a data set), or a folder of any number of them."
    ),
]
ReaderName = Annotated[
    str,
    typer.Option(
        "--reader", help="A registered reader; auto finds it by each recording's own format."
    ),
]
ObsKeys = Annotated[
    list[str] | None,
    typer.Option("--obs-key", help="Read only this observation, images too; may be given again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, with stable fields.")]
Sample = Annotated[
    int, typer.Option(min=1, help="Episodes looked at of each source, the first ones.")
]
CopyName = Annotated[
    str | None, typer.Option("--name", help="Name of the copy; the source's own without it.")
]
Destination = Annotated[
    Path, typer.Argument(help="What is written: a folder for LeRobot, *.hdf5 for robomimic.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at DEST.")]
RateHz = Annotated[
    float | None,
    typer.Option("--rate", help="Frames per second, where the recordings do not say it."),
]
TaskText = Annotated[
    str,
    typer.Option("--task", help="The task in one sentence; what the source calls it without it."),
]
RobotKind = Annotated[
    str, typer.Option("--robot", help="Kind of robot; what the source says without it.")
]
ImageKind = Annotated[str, typer.Option("--images", help="LeRobot: video (lossy) or png.")]


@demos_app.command("check")
def demos_check(
    path: Where,
    reader: ReaderName = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: AsJson = False,
    obs_keys: ObsKeys = None,
) -> None:
    """Find what is wrong with recordings: one line per finding, then a summary.

    Exit code 0 when there are no errors (warnings and notes may be), 3 when there are; --strict
    counts warnings, too. Memory holds one episode at a time.  The shortest episode allowed is that
    of params.yaml, where there is one.

    Example:  zprl demos check recordings/ --strict
    """
    from zprl.data.inspection import terminal_tables

    sources = _sources(path, reader, obs_keys)
    screen = terminal_tables.console()
    listed: list[dict[str, Any]] = []

    def report(finding: Finding) -> None:
        if as_json:
            listed.append(finding.as_json())
        else:
            screen.print(terminal_tables.finding_line(finding), soft_wrap=True)

    tally = _check(sources, report)
    if as_json:
        names = [source.path.as_posix() for source in sources]
        say_json({"format": 1, "sources": names, **tally.as_json(), "list": listed})
    else:
        screen.print(terminal_tables.tally_table(tally, len(sources)))

    wrong = tally.severities["error"] + (tally.severities["warning"] if strict else 0)
    if wrong:
        kind = "errors or warnings" if strict else "errors"
        raise DataError(f"{wrong} {kind} in {path}", remedy="each finding says what to do about it")


def _check(sources: Sequence[Source], report: Callable[[Finding], None]) -> Tally:
    """Check recordings one by one and against each other, with a bar on a terminal."""
    from zprl.data.episode_checks import Tally, check, safe_source
    from zprl.data.findings import Finding
    from zprl.data.validation import check_versions

    tally = Tally()
    with _progress(len(sources)) as step:
        for item in check(_counted(sources, step), limits=_limits()):
            tally.add(item)
            step(0, tally.passed + len(tally.bad))
            if isinstance(item[1], Finding):
                report(item[1])

        facts = {s.path.as_posix(): s.reader.facts(s.path) for s in sources if safe_source(s)}
        for finding in check_versions(facts):
            tally.add((None, finding))
            report(finding)
    return tally


@demos_app.command("inspect")
def demos_inspect(
    path: Where = Path("data"),
    reader: ReaderName = "auto",
    sample: Sample = 50,
    everything: Annotated[bool, typer.Option("--all", help="Look at every episode.")] = False,
    as_json: AsJson = False,
    card: Annotated[
        bool, typer.Option("--card", help="Write a dataset card: DATASET.md beside PATH.")
    ] = False,
    card_file: Annotated[
        Path | None, typer.Option("--card-file", help="Write the dataset card here.")
    ] = None,
    obs_keys: ObsKeys = None,
) -> None:
    """Say what is in recordings.

    Counts, rates, statistics of every key, episodes that stand out, duplicates.

    An episode stands out when its length, its path or its jerk has a modified z-score beyond 3.5
    among the episodes, by the median absolute deviation (Iglewicz and Hoaglin 1993).

    Example:  zprl demos inspect data/demos --card
    """
    from zprl import durable
    from zprl.data.inspection import terminal_tables
    from zprl.data.inspection.dataset_card import CARD
    from zprl.data.inspection.dataset_card import card as write
    from zprl.data.inspection.inspection import inspect

    sources = _sources(path, reader, obs_keys)
    with _progress(len(sources)) as step:
        inspection = inspect(
            sources,
            limits=_limits(),
            sample=None if everything else sample,
            watch=lambda some: _counted(some, step),
        )
    if as_json:
        say_json(inspection.as_json())
    else:
        screen = terminal_tables.console()
        for part in terminal_tables.inspection_tables(inspection):
            screen.print(part)

    if card or card_file:
        target = card_file or path.resolve().with_name(CARD)
        title = f"Demonstrations in {path.name or path.resolve().name}"
        durable.write_text(target, write(inspection, title=title))
        say(f"card: {target}", err=as_json)


@demos_app.command("plot")
def demos_plot(
    path: Where,
    episodes: Annotated[
        list[str] | None, typer.Argument(help="Names, ends of names (demo_3) or positions from 0.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The diagram; *.png.")
    ] = None,
    reader: ReaderName = "auto",
    obs_keys: ObsKeys = None,
) -> None:
    """Plot actions and states of episodes over time; without names, of the first few.

    Example:  zprl demos plot data/demos/starter.hdf5 demo_3 demo_7 -o demos.png
    """
    from zprl import durable
    from zprl.data.inspection.plot_episode import plot
    from zprl.data.select_episodes import first_episodes, pick

    output = output or Path(f"{path.resolve().stem}.plot.png")
    if output.suffix.lower() != ".png":
        raise ConfigError(f"{output} is no *.png", remedy="plots are written as PNG")
    sources = _sources(path, reader, obs_keys)
    chosen = pick(sources, episodes) if episodes else first_episodes(sources, PLOTTED)
    if not chosen:
        raise DataError(
            f"{path} has no episode to plot", remedy="`zprl demos check` says what is wrong with it"
        )
    durable.write_bytes(output, plot(chosen))
    say(f"{output}: {', '.join(episode.name for episode in chosen)}")


@demos_app.command("play")
def demos_play(
    path: Where,
    episode: Annotated[
        str, typer.Argument(help="A name, the end of one (demo_3) or a position from 0.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="*.png (a strip), *.gif or *.mp4 (animations)."),
    ] = None,
    reader: ReaderName = "auto",
    obs_keys: ObsKeys = None,
) -> None:
    """Show an episode: its images or, where it has none, the path of its end effector.

    The path shows the gripper in colour.

    Example:  zprl demos play data/demos/starter.hdf5 demo_3 -o demo_3.gif
    """
    from zprl.data.inspection import video
    from zprl.data.inspection.inspection import image_sizes
    from zprl.data.select_episodes import pick
    from zprl.safe_names import made_plain

    sources = _sources(path, reader, obs_keys)
    if not obs_keys:
        keys = {source.path: [*image_sizes(source)] or None for source in sources}
        sources = [
            again
            for source in sources
            for again in _sources(source.path, source.reader.name, keys[source.path])
        ]
    (chosen,) = pick(sources, [episode])
    output = output or Path(f"{made_plain(chosen.name)}.gif")
    say(f"{output}: {video.save(chosen, output)} of {chosen.length} frames of {chosen.name}")


@demos_app.command("add")
def demos_add(
    source: Annotated[
        Path,
        typer.Argument(help="A recording, or a folder of any number of them; it stays as it is."),
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder that DVC versions.")] = Path("data"),
    name: CopyName = None,
    reader: ReaderName = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse warnings, too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check and say what would be done.")
    ] = False,
) -> None:
    """Add recordings to the project: check, copy into data/demos/, version with DVC.

    They are checked as the pipeline will.

    Recordings with errors, and episodes that are there already, are refused (exit code 3).
    DATASET.md is written anew from all recordings. When it is interrupted, the same command goes
    on.

    Example:  zprl demos add ~/recordings/monday.hdf5 --name 2026-03-02.hdf5
    """
    import shlex

    from pipelines.add_demos import add
    from zprl.data.inspection import terminal_tables

    screen = terminal_tables.console()
    done = add(
        source,
        data=to,
        name=name,
        reader=reader,
        strict=strict,
        dry_run=dry_run,
        report=lambda finding: screen.print(terminal_tables.finding_line(finding), soft_wrap=True),
    )
    if dry_run:
        say(f"{done.episodes} episodes would come to {done.target}; nothing was written")
        return
    files = shlex.join(done.commit)
    message = shlex.quote(f"Add {done.episodes} demonstrations: {done.target.name}")
    say(f"{done.episodes} episodes added.  Commit them, and send them to where others fetch them:")
    say(f"  git add {files} && git commit -m {message} && dvc push {done.commit[0]}")
    say(
        "`zprl run` trains with them now; the next scheduled run (nightly in prefect.yaml) "
        "picks them up by itself."
    )


@demos_app.command("convert")
def demos_convert(
    source: Where,
    dest: Destination,
    to: Annotated[str, typer.Option("--to", help="lerobot or robomimic.")],
    reader: ReaderName = "auto",
    obs_keys: ObsKeys = None,
    rate_hz: RateHz = None,
    task: TaskText = "",
    robot: RobotKind = "",
    images: ImageKind = "video",
    overwrite: Overwrite = False,
) -> None:
    """Write recordings of any format anew as robomimic's or LeRobot's.

    Episodes with errors are left out and named.  Without --obs-key every observation is written,
    images too.

    Example:  zprl demos convert data/demos/starter.hdf5 out/starter --to lerobot --rate 20 --task
    "Lift the cube"
    """
    from zprl.data.inspection import terminal_tables
    from zprl.data.writers.convert import convert

    if to not in ("lerobot", "robomimic") or images not in ("video", "png"):
        raise ConfigError(
            f"cannot write '{to}' with images as '{images}'",
            remedy="--to lerobot or robomimic, --images video or png",
        )
    if not source.exists():
        raise DataError(f"{source} does not exist", remedy="name a recording or a folder of them")

    form: dict[str, Any] = {"to": to, "images": images, "overwrite": overwrite}
    facts: dict[str, Any] = {"rate_hz": rate_hz, "task": task, "robot": robot}
    done = convert(source, dest, reader=reader, obs_keys=obs_keys or None, **form, **facts)

    screen = terminal_tables.console()
    for finding in done.findings:
        screen.print(terminal_tables.finding_line(finding), soft_wrap=True)
    rate = "unknown rate" if done.rate_hz is None else f"{done.rate_hz:g} Hz"
    say(
        f"{done.path}: {done.episodes} episodes, {done.frames} frames, {rate}; "
        f"{len(done.left_out)} left out"
    )


@demos_app.command("record")
def demos_record(
    output: Annotated[
        Path, typer.Argument(help="The batch file to write; an existing one is never overwritten.")
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to record.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    name: Annotated[
        str | None,
        typer.Option("--task", help="A registered task; that of params.yaml without it."),
    ] = None,
) -> None:
    """Record demonstrations of a scripted operator of mixed skill, in simulation.

    Example:  zprl demos record more.hdf5 --episodes 50 --seed 7 && zprl demos add more.hdf5
    """
    from zprl import config
    from zprl.envs.record_demos import RecordSettings, record

    task = config.load().task if Path(config.PARAMS_FILE).exists() else config.Task()
    if name is not None:
        task = task.model_copy(update={"name": name})

    batch = record(output, episodes=episodes, seed=seed, settings=RecordSettings(task=task))
    for grade, tried in sorted(batch.tried.items()):
        succeeded = batch.succeeded.get(grade, 0)
        kept = batch.kept.get(grade, 0)
        say(f"{grade}: {succeeded} of {tried} tries succeeded, {kept} kept")
    say(
        f"{output} is written: {batch.episodes} episodes, {batch.frames} frames; "
        f"`zprl demos add {output}` versions it"
    )


def _sources(path: Path, reader: str, obs_keys: list[str] | None) -> list[Source]:
    from zprl.data.sources import find_sources

    if not path.exists():
        raise DataError(
            f"{path} does not exist",
            remedy="name a recording or a folder of them; "
            "`dvc pull data.dvc` fetches the project's",
        )

    sources = find_sources(path, reader=reader, obs_keys=obs_keys or None)
    if not sources:
        raise DataError(
            f"there are no recordings in {path}",
            remedy="name a file or folder of a format that has a reader",
        )
    return sources


def _limits() -> ValidationLimits:
    """Return the limits of the project in this folder, else the package's."""
    from zprl import config
    from zprl.data.validation import ValidationLimits

    if not Path(config.PARAMS_FILE).exists():
        return ValidationLimits()
    policy = config.load().policy
    return ValidationLimits(min_length=policy.obs_steps + policy.chunk_steps)


def _counted(sources: Iterable[T], step: Step) -> Iterator[T]:
    for source in sources:
        yield source
        step(1, None)


@contextmanager
def _progress(sources: int) -> Iterator[Step]:
    """Yield a :data:`Step` that moves a bar on a terminal, and does nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[episodes]}"),
        TimeElapsedColumn(),
    )
    options: dict[str, Any] = {"disable": not sys.stderr.isatty(), "transient": True}
    with Progress(*columns, console=console(stderr=True), **options) as bar:
        task = bar.add_task("reading", total=sources, episodes="")

        def step(done: int, episodes: int | None) -> None:
            fields: dict[str, Any] = (
                {} if episodes is None else {"episodes": f"{episodes} episodes"}
            )
            bar.update(task, advance=done, **fields)

        yield step
