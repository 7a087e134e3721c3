"""Bring recordings into the versioned folder of demonstrations.

They are checked, copied, described in ``DATASET.md`` and handed to DVC.

Each step can be killed: what is not whole is swept away by the next call, and what was copied and
not yet versioned is gone on with.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zprl import child_processes, config, durable, safe_names
from zprl.config import Params
from zprl.data.conventions import convert
from zprl.data.episode import Episode
from zprl.data.episode_checks import Change, Tally, check
from zprl.data.findings import Finding
from zprl.data.inspection.dataset_card import CARD, card
from zprl.data.inspection.inspection import inspect
from zprl.data.safe_copy import copy_whole, same, sweep
from zprl.data.sources import AUTO, Source, find_sources
from zprl.data.validation import ValidationLimits
from zprl.errors import ConfigError, DataError, EnvironmentProblem

DEMOS = "demos"
MAX_ANSWER = 64 * 2**20
"""Longest answer of DVC, in bytes: it names every file that is new."""
LEASE = Path(".dvc/tmp/zprl-demos-add.lease")
MINARI_FILE = "main_data.hdf5"
"""Each of Minari's datasets names its file so, and says beside it what its numbers mean: its folder
goes along."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """Recordings that were added, or would be.

    Attributes:
        target: Where the recordings lie.
        episodes: How many good ones came.
        commit: Files to commit to git; none after a dry run.
    """

    target: Path
    episodes: int
    commit: tuple[str, ...]


def add(
    source: Path,
    *,
    data: Path,
    name: str | None = None,
    reader: str = AUTO,
    strict: bool = False,
    dry_run: bool = False,
    report: Callable[[Finding], None],
) -> Added:
    """Check recordings as the pipeline will, and bring them in.

    Args:
        source: A recording, or a folder of any; one that lies in ``data`` already stays where it
            is.
        data: Folder that DVC versions as a whole.
        name: Of the copy; the source's own without it.
        reader: A registered reader, or ``auto``.
        strict: Refuse warnings, too.
        dry_run: Stop before anything is written.
        report: Called with each finding on the new recordings.

    Raises:
        DataError: the recordings have errors, or the data that are versioned are not all here.
        ConfigError: a name that cannot be used, a reader that the pipeline does not use, no DVC
            project.
        EnvironmentProblem: the disk, DVC, or another process that adds.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist", remedy="name a recording, or a folder of them")
    if not Path(".dvc").is_dir():
        raise ConfigError(
            "this folder is not a DVC project", remedy="run in the project's root folder"
        )
    LEASE.parent.mkdir(parents=True, exist_ok=True)
    lease = durable.lease(LEASE)
    try:
        return _add(source, data, name, reader, report, strict=strict, dry_run=dry_run)
    finally:
        os.close(lease)


def _add(
    source: Path,
    data: Path,
    name: str | None,
    reader: str,
    report: Callable[[Finding], None],
    *,
    strict: bool,
    dry_run: bool,
) -> Added:
    params = config.load() if Path(config.PARAMS_FILE).exists() else None
    origin = _origin(source)
    target = _target(origin, data, name)
    new = _status(data)
    if not dry_run and data.is_dir():
        sweep(data)

    # An earlier call may have copied them and been killed before DVC had them.
    there = origin.resolve() == target.resolve()
    half_done = not there and _unversioned(target, new) and same(origin, target)

    tally = _check(source, target, data, params, reader, report, there=there or half_done)
    wrong = tally.severities["error"] + (tally.severities["warning"] if strict else 0)
    if wrong:
        raise DataError(
            f"{wrong} findings keep {source} out",
            remedy="repair or leave out what they name, then add it again",
        )
    if not tally.passed:
        raise DataError(
            f"{source} has no episode to add", remedy="`zprl demos inspect` says what is in it"
        )
    if dry_run:
        return Added(target, tally.passed, ())

    if there or half_done:
        log.info("%s is in its place already", target)
    else:
        copy_whole(origin, target)
        log.info("copied to %s", target)
    write_card(data, params)
    log.info("described in %s", CARD)
    version(data)
    log.info("versioned by %s.dvc", data)
    return Added(target, tally.passed, _changed(data))


def _origin(source: Path) -> Path:
    """Return what is copied: the source, or the folder that a file of Minari's is part of."""
    source = Path(os.path.normpath(source))
    if source.name != MINARI_FILE or not source.is_file():
        return source
    folder = source.resolve().parent
    return folder.parent if folder.name == "data" else folder


def _target(origin: Path, data: Path, name: str | None) -> Path:
    if origin.resolve().is_relative_to((data / DEMOS).resolve()):
        if name is not None:
            raise ConfigError(
                f"{origin} lies in {data} already and keeps its name", remedy="leave --name out"
            )
        return origin
    wanted = name or origin.resolve().name
    if origin.is_file() and not wanted.endswith(origin.suffix):
        wanted += origin.suffix  # readers find files by their ending
    if not safe_names.plain(wanted) or wanted.endswith(durable.PARTIAL):
        raise ConfigError(
            f"{wanted!a} cannot be a name of recordings", remedy="choose a plain one with --name"
        )
    return safe_names.inside(data / DEMOS, wanted)


def _check(
    source: Path,
    target: Path,
    data: Path,
    params: Params | None,
    reader: str,
    report: Callable[[Finding], None],
    *,
    there: bool,
) -> Tally:
    limits, asked, changes = project_reading(params)
    sources = find_sources(source, reader=reader, **asked)
    if not sources:
        raise DataError(
            f"there are no recordings in {source}",
            remedy="`zprl demos check` knows the registered readers; or name one with --reader",
        )
    used = AUTO if params is None else params.ingest.reader
    other = next((one for one in sources if used not in (AUTO, one.reader.name)), None)
    if other is not None:
        raise ConfigError(
            f"the pipeline reads with ingest.reader '{used}', "
            f"{other.path} is read by '{other.reader.name}'",
            remedy=f"set ingest.reader to {AUTO} in params.yaml",
        )

    beside = [
        one
        for one in find_sources(data, reader=used, **asked)
        if not there or not one.path.is_relative_to(target)
    ]
    if len(sources) == 1 and not there:
        new_name = target.stem if _origin(source).is_file() else target.name
        changes = [*changes, _Renamed(sources[0].path, new_name)]

    tally = Tally()
    for item in check(sources, limits=limits, changes=changes, beside=beside):
        tally.add(item)
        if isinstance(item[1], Finding):
            report(item[1])
    return tally


def project_reading(params: Params | None) -> tuple[ValidationLimits, dict[str, Any], list[Change]]:
    """Return limits, arguments of ``find_sources`` and changes with which the pipeline reads.

    Without parameters everything is read as it is.
    """
    if params is None:
        return ValidationLimits(), {}, []
    limits = ValidationLimits(min_length=params.policy.obs_steps + params.policy.chunk_steps)
    if params.ingest.conventions is None:
        return limits, {"obs_keys": params.ingest.obs_keys, "actions": params.ingest.actions}, []
    conversion = convert(params.ingest.conventions, params.ingest.obs_keys)
    return limits, {"obs_keys": conversion.inputs, "actions": params.ingest.actions}, [conversion]


class _Renamed(Change):
    """Change of the names of one source's episodes to those that they will have when copied."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __call__(self, source: Source, episode: Episode) -> Iterator[Episode]:
        same_source = source.path == self._path
        yield (
            replace(episode, name=f"{self._name}/{episode.name.split('/')[-1]}")
            if same_source
            else episode
        )


def _status(data: Path) -> list[str]:
    """Return what lies in the folder and is not versioned.

    Raises:
        DataError: something that is versioned is not here: versioning what is left would lose it.
    """
    if not Path(f"{data}.dvc").exists():
        return [data.as_posix()]
    answer = _dvc("data", "status", "--granular", "--json", str(data))
    try:
        status = durable.parse_json(answer or "{}", "its answer", limit=MAX_ANSWER)
    except DataError as error:
        raise EnvironmentProblem(
            f"dvc answered with something else than JSON: {answer[:200]}",
            remedy="`dvc data status` says more",
        ) from error

    changes = status.get("uncommitted", {})
    lost = [path for path in changes.get("deleted", []) if Path(path) != data]
    # The folder itself is in it when its list of files is not here: then it cannot be known what
    # is missing.
    absent = status.get("not_in_cache", [])
    lost += [path for path in absent if Path(path) == data or not Path(path).exists()]
    if lost or not data.is_dir():
        count = f"{len(lost)} files" if lost else "all"
        example = f": {lost[0]}" if lost else ""
        raise DataError(
            f"{count} of what {data}.dvc versions are not here{example}; "
            "adding now would drop them",
            remedy=f"`dvc pull {data}.dvc` brings them back; "
            f"`dvc add {data}` if they are meant to go",
        )
    return [str(path) for path in changes.get("added", [])]


def _unversioned(target: Path, new: list[str]) -> bool:
    return target.exists() and any(
        Path(path).is_relative_to(target) or target.is_relative_to(path) for path in new
    )


def write_card(data: Path, params: Params | None) -> None:
    """Write ``DATASET.md`` beside ``<data>.dvc``, from a sample of the recordings in the folder."""
    # The card describes what is recorded, not what a policy is shown.
    limits, _, _ = project_reading(params)
    sources = find_sources(data, reader=AUTO if params is None else params.ingest.reader)
    text = card(inspect(sources, limits=limits), title=f"Demonstrations in {data.as_posix()}/")
    durable.write_text(Path(f"{data}.dvc").with_name(CARD), text)


def version(data: Path) -> None:
    """Hand the folder to DVC."""
    _dvc("add", "--quiet", str(data))


def _dvc(*arguments: str) -> str:
    command = child_processes.python("-m", "dvc", *arguments)
    env = child_processes.environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    except OSError as error:
        raise EnvironmentProblem(f"dvc cannot be run: {error}", remedy="`zprl doctor`") from error
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip())[-300:]
        remedy = "put that right and repeat the command: it goes on where it stopped"
        raise EnvironmentProblem(f"`dvc {' '.join(arguments[:2])}` failed: {why}", remedy=remedy)
    return done.stdout


def _changed(data: Path) -> tuple[str, ...]:
    """Return the files to commit to git."""
    files = [f"{data.as_posix()}.dvc", Path(f"{data}.dvc").with_name(CARD).as_posix()]
    # DVC writes the folder into it the first time.
    ignore = Path(f"{data}.dvc").with_name(".gitignore").as_posix()
    touched = child_processes.git(*child_processes.GIT_STATUS, "--", ignore)
    return (*files, ignore) if touched else tuple(files)
