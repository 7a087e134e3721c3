"""Stage ``ingest``: demo files to checked episodes, normaliser and data report.

It draws no random numbers.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipelines.stages.stage import ARTIFACTS, EPISODES, METRICS, Stage, main
from zprl import durable
from zprl.data.conventions import convert
from zprl.data.episode_checks import Change
from zprl.data.episode_sources import SOURCES, SourceRecorder
from zprl.data.ingest import Ingested, choose, read_all, require
from zprl.data.inspection import report
from zprl.data.recipe import Apply
from zprl.data.sources import find_sources
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.errors import DataError

DATA = Path("data")
DATA_REPORT = ARTIFACTS / "data_report"


def ingest(stage: Stage) -> None:
    """Read, check, store, report; bad demos stay where they are and are listed in the report."""
    params = stage.params.ingest
    recorder = SourceRecorder()
    result = _read(stage, recorder)
    used = choose(
        result.good, exclude_failures=params.exclude_failures, max_episodes=params.max_episodes
    )

    # The report first, in the run folder, where it survives a failure: DVC keeps no outputs of a
    # failed stage.
    kept = stage.run_dir.path / DATA_REPORT.name
    summary = report.write(kept, result, used)
    stage.tracker.log_dir(kept, DATA_REPORT.name)
    stage.log_numbers(summary)
    page = (kept / "report.html").as_posix()
    require(result, used, max_bad_fraction=params.max_bad_fraction, report=page)

    weights = None
    if params.recipe is not None:
        weights = {str(grade): weight for grade, weight in params.recipe.weights.items()}
    EpisodeStore.write(EPISODES, used, fit_normalizer(used), weights=weights)
    durable.write_dir(DATA_REPORT, partial(_copy_files, kept))
    recorder.write(DATA_REPORT / SOURCES, used)
    stage.tracker.log_file(DATA_REPORT / SOURCES, DATA_REPORT.name)
    stage.made(EPISODES)
    durable.write_json(METRICS / "ingest.json", summary)
    stage.log.info(
        f"{summary['episodes']} episodes, {summary['frames']} frames, "
        f"success {summary['success_share']:.0%}, "
        f"{summary['bad']} in quarantine; see {DATA_REPORT / 'report.html'}"
    )


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder's files into an empty folder."""
    shutil.copytree(source, target, dirs_exist_ok=True)


def _read(stage: Stage, recorder: SourceRecorder) -> Ingested:
    """Read all demonstrations, converted and changed as the parameters say."""
    params, policy = stage.params.ingest, stage.params.policy
    conversion = None
    if params.conventions is not None:
        conversion = convert(params.conventions, params.obs_keys)
    obs_keys = params.obs_keys if conversion is None else conversion.inputs
    sources = find_sources(DATA, reader=params.reader, obs_keys=obs_keys, actions=params.actions)
    if not sources:
        raise DataError(
            f"there are no demonstrations in {DATA}/",
            remedy="fetch them with `dvc pull`, or record some",
        )

    changes: list[Change] = []
    if conversion is not None:
        changes.append(conversion)
    if params.recipe is not None:
        changes.append(Apply(params.recipe))
    limits = ValidationLimits(min_length=policy.obs_steps + policy.chunk_steps)
    return read_all(
        sources, limits=limits, changes=recorder.around(changes), folder=stage.run_dir.path
    )


if __name__ == "__main__":
    # A missing folder is for the stage to explain: its remedy is `dvc pull`.
    main("ingest", ingest, sections=("ingest", "policy"), inputs=(DATA,) if DATA.is_dir() else ())
