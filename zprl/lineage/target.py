"""The target of ``zprl lineage TARGET``, and the walk for it.

A target is a bundle, a run, a registered model, demonstrations or an episode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "give a bundle's folder, an MLflow run id, a registered model (name@alias or name/version), "
    "a demo file or folder, or an episode (<file stem>/<demo>)"
)


def trace(target: str, fetch: Callable[[tuple[Path, ...]], Records]) -> tuple[Node, Records]:
    """Answer for one target.

    Args:
        target: The user's text.
        fetch: Returns the records; it gets bundles that lie elsewhere.

    Returns:
        The root of the answer's tree, and the records it was made from.

    Raises:
        DataError: nothing is known under this name, or a file is damaged.
        EnvironmentProblem: the tracking store does not answer.
    """
    path = Path(target)
    bundles = local.bundles(path) if path.is_dir() else []
    records = fetch(tuple(bundles))
    graph = Graph(records)

    if bundles:
        node = _of_bundles(graph, target, bundles)
    elif _is_store(path):
        things = {path.as_posix(): local.digest(path)}
        node = back(graph, target, things, _here(things))
    elif path.exists():
        node = _of_path(graph, path)
    else:
        node = _of_name(graph, target)

    if not node.below:
        silent = sum(records.origins(run) is None for run in graph.steps(INGEST))
        more = f"; {silent} ingest runs do not say where their episodes come from" if silent else ""
        raise DataError(f"{records.store}: nothing is known of '{target}'{more}", remedy=REMEDY)
    return node, records


def _here(things: Mapping[str, str] | None = None) -> Here:
    """Return access to this machine's files; ``things`` are digests by path known already."""
    return Here(local.Bytes(things).state, local.data_md5)


def _is_store(path: Path) -> bool:
    """Return whether a path is a folder of ingested episodes."""
    return (path / "index.json").is_file() and (path / "frames.safetensors").is_file()


def _of_bundles(graph: Graph, target: str, bundles: Sequence[Path]) -> Node:
    """Walk back from bundles, with the registered versions that hold all of them."""
    things = {each.as_posix(): local.digest(each) for each in bundles}
    registered = [
        str(version)
        for version in graph.records.versions
        if set(things.values()) <= set(version.inputs.values())
    ]
    about = {"registered": registered} if registered else {}
    return back(graph, target, things, _here(things), about=about)


def _of_name(graph: Graph, target: str) -> Node:
    """Walk from the run, registered version or episode of a name, tried in this order."""
    run = graph.by_id.get(target)
    if run is not None and run.status != HERE:
        return run_back(graph, run, _here())
    if RUN_ID.fullmatch(target):
        raise DataError(f"{graph.records.store} has no run {target}", remedy=REMEDY)
    version = _version(graph.records, target)
    if version is not None:
        return _of_version(graph, version)
    return _of_episode(graph, target)


def _of_version(graph: Graph, version: VersionRecord) -> Node:
    """Walk back from a registered version; older ones name no inputs, but their run does."""
    run = graph.by_id.get(version.run_id)
    about = {
        "model": version.model,
        "version": version.number,
        "aliases": list(version.aliases),
        "run": version.run_id,
    }
    inputs = version.inputs or (run.inputs if run else {})
    return back(graph, str(version), inputs, _here(), about=about)


def _version(records: Records, target: str) -> VersionRecord | None:
    """Return the version that a name means, ``None`` where it names no model.

    Raises:
        DataError: the model has no such version, or no model has such an alias.
    """
    match = MODEL.fullmatch(target)
    if match is None:
        return None

    mine = [version for version in records.versions if version.model == match["name"]]
    fitting = [v for v in mine if v.number == match["number"] or match["alias"] in v.aliases]
    if not fitting and (mine or match["alias"]):
        have = ", ".join(map(str, mine)) or "no version of it"
        raise DataError(f"{records.store} has no '{target}'; there is {have}", remedy=REMEDY)
    return fitting[0] if fitting else None


def _of_episode(graph: Graph, target: str) -> Node:
    """Walk forward from an episode of a name, or of a source's path where the file is gone.

    The name is the one here or in its source; the same content under any other name counts too.
    """
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
    """Walk forward from a file or folder of demonstrations.

    The walk begins at the episodes read from these very bytes, and at those with the same content
    as an episode in it.
    """
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


def _contents(path: Path, origin: SourceOrigin) -> set[str]:
    """Return content hashes of the episodes in a path, read as a source was read then.

    What cannot be read so has none.
    """
    try:
        reader = plugins.load("readers", origin.reader)(obs_keys=origin.obs_keys)
    except ZprlError:  # a reader of the past
        return set()

    if origin.actions is not None and hasattr(reader, "actions_key"):
        reader.actions_key = origin.actions
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
