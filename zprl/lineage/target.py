"""What ``zprl lineage TARGET`` means: a bundle, a run, a registered model, demonstrations or an episode, and the walk for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zprl import plugins
from zprl.data.episode import Episode
from zprl.data.episode_sources import EpisodeOrigin, EpisodeSources, SourceOrigin
from zprl.data.sources import find_sources
from zprl.errors import DataError, ZprlError
from zprl.lineage import local
from zprl.lineage.records import HERE, Records, VersionRecord
from zprl.lineage.walk import INGEST, Graph, Here, Node, back, forward, run_back

RUN_ID = re.compile(r"[0-9a-f]{32}")
MODEL = re.compile(r"(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<number>\d+))")
REMEDY = (
    "give a bundle's folder, an MLflow run id, a registered model (name@alias or name/version), a demo file or folder, "
    "or an episode (<file stem>/<demo>)"
)


def trace(target: str, fetch: Callable[[tuple[Path, ...]], Records]) -> tuple[Node, Records]:
    """Answer for one target.

    Args:
        target: What the user typed.
        fetch: Returns what is known; it gets bundles that lie elsewhere.

    Raises:
        DataError: nothing is known under this name, or a file is damaged.
        EnvironmentProblem: the tracking store does not answer.
    """
    path = Path(target)
    found = local.bundles(path) if path.is_dir() else []
    records = fetch(tuple(found))
    graph = Graph(records)
    things = {each.as_posix(): local.digest(each) for each in found}
    here = Here(local.Bytes(things).state, local.data_md5)
    if found:
        node = back(graph, target, things, here, about=_registered(records, things))
    elif (
        path.is_dir()
        and (path / "index.json").is_file()
        and (path / "frames.safetensors").is_file()
    ):
        things = {path.as_posix(): local.digest(path)}
        node = back(graph, target, things, Here(local.Bytes(things).state, local.data_md5))
    elif path.exists():
        node = _of_path(graph, path)
    elif (run := graph.by_id.get(target)) is not None and run.status != HERE:
        node = run_back(graph, run, here)
    elif RUN_ID.fullmatch(target):
        raise DataError(f"{records.store} has no run {target}", remedy=REMEDY)
    elif (version := _version(records, target)) is not None:
        about = {
            "model": version.model,
            "version": version.number,
            "aliases": list(version.aliases),
            "run": version.run_id,
        }
        run = graph.by_id.get(version.run_id)
        node = back(
            graph, str(version), version.inputs or (run.inputs if run else {}), here, about=about
        )
    else:
        node = _of_episode(graph, target)
    if not node.below:
        silent = sum(graph.records.origins(run) is None for run in graph.steps(INGEST))
        more = f"; {silent} ingest runs do not say where their episodes come from" if silent else ""
        raise DataError(f"{records.store}: nothing is known of '{target}'{more}", remedy=REMEDY)
    return node, records


def _registered(records: Records, things: dict[str, str]) -> dict[str, Any]:
    """Versions that hold these very bundles."""
    found = [
        str(version)
        for version in records.versions
        if set(things.values()) <= set(version.inputs.values())
    ]
    return {"registered": found} if found else {}


def _version(records: Records, target: str) -> VersionRecord | None:
    match = MODEL.fullmatch(target)
    if match is None:
        return None
    mine = [version for version in records.versions if version.model == match["name"]]
    found = [v for v in mine if v.number == match["number"] or match["alias"] in v.aliases]
    if not found and (mine or match["alias"]):
        have = ", ".join(map(str, mine)) or "no version of it"
        raise DataError(f"{records.store} has no '{target}'; there is {have}", remedy=REMEDY)
    return found[0] if found else None


def _of_episode(graph: Graph, target: str) -> Node:
    """By name here or in its source, or by its source's path where that is gone; the same content under any other name counts too."""
    contents = {
        (episode.content, episode.recorded_content)
        for episode in _all(graph)
        if target in (episode.name, episode.recorded_name, episode.source)
    }
    recorded = {each for pair in contents for each in pair}
    node = forward(
        graph,
        target,
        lambda _, episode: episode.content in recorded or episode.recorded_content in recorded,
    )
    if len(recorded) == 1:
        node.facts["content"] = min(recorded)
    return node


def _all(graph: Graph) -> Iterator[EpisodeOrigin]:
    for run in graph.steps(INGEST):
        if (origins := graph.records.origins(run)) is not None:
            yield from origins.episodes


def _of_path(graph: Graph, path: Path) -> Node:
    """A file or folder of demonstrations: what was read from these very bytes, and what has the same content as an episode in it."""
    digests = {source.path.as_posix(): local.digest(source.path) for source in find_sources(path)}
    these = set(digests.values())
    read: dict[Any, set[str]] = {}

    def wanted(origins: EpisodeSources, episode: EpisodeOrigin) -> bool:
        source = origins.sources[episode.source]
        if source.sha256 in these:
            return True
        key = (source.reader, source.obs_keys, source.actions)
        if key not in read:
            read[key] = _contents(path, source)
        return episode.recorded_content in read[key]

    one = next(iter(digests.values()), "")
    return forward(
        graph, path.as_posix(), wanted, about={"sha256": digests if len(digests) > 1 else one}
    )


def _contents(path: Path, how: SourceOrigin) -> set[str]:
    """Hashes of the episodes in it, read as a source was read then; what cannot be read so has none."""
    try:
        reader = plugins.load("readers", how.reader)(obs_keys=how.obs_keys)
    except ZprlError:  # a reader of the past
        return set()
    if how.actions is not None and hasattr(reader, "actions_key"):
        reader.actions_key = how.actions
    places = [source.path for source in find_sources(path)]
    fitting = [
        place
        for place in places
        if (place.suffix in reader.suffixes if place.is_file() else not reader.suffixes)
    ]
    return {
        item.content_hash()
        for place in fitting
        for item in reader.read(place)
        if isinstance(item, Episode)
    }
