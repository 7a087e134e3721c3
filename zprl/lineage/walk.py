"""The walk over records, back and forward.

Pure functions: callers pass in the functions that look at this machine's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zprl.data.episode_sources import EpisodeOrigin, EpisodeSources
from zprl.lineage.records import FINISHED, HERE, Records, RunRecord, VersionRecord

INGEST, PROMOTE = "ingest", "promote"
Wanted = Callable[[EpisodeSources, EpisodeOrigin], bool]
"""True for an episode that the walk starts from."""


@dataclass
class Node:
    """One item in the tree of an answer.

    Attributes:
        kind: ``artifact``, ``run``, ``version``, ``source``, ``episode`` or ``target``.
        name: Its name.
        facts: Known facts of it; JSON values.
        below: Its origins, or, forward, its results.
    """

    kind: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    below: list[Node] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "kind": self.kind,
            "name": self.name,
            **self.facts,
            **({"below": [n.as_json() for n in self.below]} if self.below else {}),
        }


@dataclass(frozen=True)
class Here:
    """Access to this machine's files.

    Attributes:
        state: Path and digest to ``same bytes``, ``other bytes``, ``not here`` or ``not looked
            at``.
        data_md5: Commit to DVC's hash of the folder of demonstrations, or ``None``.
    """

    state: Callable[[str, str], str] = lambda path, digest: "not looked at"
    data_md5: Callable[[str], str | None] = lambda commit: None


def facts(run: RunRecord, reruns: int = 0) -> dict[str, Any]:
    """Return a run as a JSON object, without what is empty."""
    values = {
        "stage": run.stage,
        "run": run.id,
        "status": run.status,
        "started": run.started,
        "commit": run.commit,
        "note": run.note,
        "reruns": reruns,
        "params": dict(run.params),
    }
    return {key: value for key, value in values.items() if value}


class Graph:
    """Records, linked by digests.

    Runs that read and made the same bytes are one step; its newest run stands for it.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self.by_id = {run.id: run for run in records.runs}
        self._steps = {group[0].id: group for group in _same_steps(records.runs)}
        newest_first = [group[0] for group in self._steps.values()]

        self._makers: dict[str, RunRecord] = {}
        for run in sorted(newest_first, key=lambda run: run.status == HERE):
            for digest in run.outputs.values():
                self._makers.setdefault(digest, run)

        self._users: dict[str, list[RunRecord]] = {}
        for run in reversed(newest_first):
            for digest in set(run.inputs.values()):
                self._users.setdefault(digest, []).append(run)

    def reruns(self, run: RunRecord) -> int:
        """Return the number of further runs of the same step."""
        return len(self._steps.get(run.id, [run])) - 1

    def maker(self, digest: str) -> RunRecord | None:
        """Return the newest run that made these bytes.

        A run of the tracking store comes before a record of what lies here.
        """
        return self._makers.get(digest)

    def users(self, digests: Iterable[str]) -> list[RunRecord]:
        """Return the steps that read any of these bytes, oldest first."""
        return list(
            {run.id: run for digest in digests for run in self._users.get(digest, [])}.values()
        )

    def steps(self, stage: str) -> list[RunRecord]:
        """Return the steps of a stage, newest first."""
        return [group[0] for group in self._steps.values() if group[0].stage == stage]

    def versions(self, run: RunRecord) -> list[VersionRecord]:
        """Return the versions that a step registered."""
        ids = {each.id for each in self._steps.get(run.id, [run])}
        return [version for version in self.records.versions if version.run_id in ids]


def _same_steps(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Group runs that read and made the same bytes, newest first."""
    made = {
        tuple(sorted(run.outputs.values()))
        for run in runs
        if run.status == FINISHED and run.outputs
    }
    groups: dict[Any, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (run.started, run.id), reverse=True):
        if run.status == HERE and tuple(sorted(run.outputs.values())) in made:
            continue  # the run itself is known
        key = (
            run.stage,
            run.status,
            tuple(sorted(run.inputs.items())),
            tuple(sorted(run.outputs.items())),
        )
        groups.setdefault(key, []).append(run)
    return list(groups.values())


# -- back ------------------------------------------------------------------------------------------


def back(
    graph: Graph,
    name: str,
    things: Mapping[str, str],
    here: Here,
    *,
    about: Mapping[str, Any] | None = None,
) -> Node:
    """Walk from digests by path down to the bytes of each demonstration.

    Args:
        graph: The records.
        name: Name of the target.
        things: SHA-256 by path: a bundle, or all inputs of a version or a run.
        here: This machine.
        about: Facts of the target.
    """
    seen: set[str] = set()
    return Node(
        "target",
        name,
        dict(about or {}),
        [_artifact(graph, path, digest, here, seen) for path, digest in _ordered(graph, things)],
    )


def run_back(graph: Graph, run: RunRecord, here: Here) -> Node:
    """Walk from a run down to the bytes of each demonstration."""
    root = back(
        graph, f"{run.stage} run {run.id}", run.inputs, here, about=facts(run, graph.reruns(run))
    )
    root.facts["outputs"] = dict(run.outputs)
    root.below += _sources(graph, run, here)
    return root


def _ordered(graph: Graph, things: Mapping[str, str]) -> list[tuple[str, str]]:
    """Sort the deepest first: what was made from another of them contains that one's node."""
    depth = {digest: _depth(graph, digest, set()) for digest in things.values()}
    return sorted(things.items(), key=lambda item: (-depth[item[1]], item[0]))


def _depth(graph: Graph, digest: str, above: set[str]) -> int:
    """Return the number of steps between an artifact and its farthest origin."""
    run = None if digest in above else graph.maker(digest)
    if run is None:
        return 0
    deeper = (_depth(graph, each, above | {digest}) for each in run.inputs.values())
    return 1 + max(deeper, default=0)


def _artifact(graph: Graph, path: str, digest: str, here: Here, seen: set[str]) -> Node:
    """Return an artifact's node; ``seen`` collects digests, each of which is expanded once."""
    node = Node("artifact", path, {"sha256": digest})
    if digest in seen:
        node.facts["shown"] = "above"
        return node
    seen.add(digest)

    node.facts["here"] = here.state(path, digest)
    run = graph.maker(digest)
    if run is None:
        return node

    node.facts["made_by"] = facts(run, graph.reruns(run))
    if run.stage == INGEST:
        node.below = _sources(graph, run, here)
        node.facts["data"] = {
            "sha256": run.inputs.get("data"),
            "dvc_md5": here.data_md5(run.commit),
        }
        return node
    for each, its_digest in _ordered(graph, run.inputs):
        node.below.append(_artifact(graph, each, its_digest, here, seen))
    return node


def _sources(graph: Graph, run: RunRecord, here: Here) -> list[Node]:
    """Return the files of an ingest run, with the episodes used of each; none for another stage."""
    origins = graph.records.origins(run) if run.stage == INGEST else None
    if origins is None:
        return []
    nodes = {
        path: Node(
            "source",
            path,
            {
                "sha256": source.sha256,
                "reader": source.reader,
                "here": here.state(path, source.sha256),
            },
        )
        for path, source in origins.sources.items()
    }
    for episode in origins.episodes:
        nodes[episode.source].below.append(_episode(episode))
    return list(nodes.values())


def _episode(episode: EpisodeOrigin) -> Node:
    node = Node("episode", episode.name, {"content": episode.content})
    if episode.recorded_content != episode.content:
        node.facts |= {
            "recorded_name": episode.recorded_name,
            "recorded_content": episode.recorded_content,
        }
    return node


# -- forward ---------------------------------------------------------------------------------------


def forward(
    graph: Graph, name: str, wanted: Wanted, *, about: Mapping[str, Any] | None = None
) -> Node:
    """Walk from episodes to every run, policy and registered version made from them.

    Each appears once, under the last step that it was made from.

    Args:
        graph: The records.
        name: Name of the target.
        wanted: Chooses the episodes.
        about: Facts of the target.
    """
    root = Node("target", name, dict(about or {}))
    for run in graph.steps(INGEST):
        origins = graph.records.origins(run)
        if origins is None:
            continue
        used = [episode for episode in origins.episodes if wanted(origins, episode)]
        if not used:
            continue

        node = _step(graph, run)
        node.facts["episodes"] = [
            {**_episode(e).facts, "name": e.name, "source": e.source} for e in used
        ]
        node.below += _came_of(graph, run)
        root.below.append(node)
    return root


def _step(graph: Graph, run: RunRecord) -> Node:
    node = Node("run", run.stage, {**facts(run, graph.reruns(run)), "outputs": dict(run.outputs)})
    node.below = [
        Node("version", str(v), {"model": v.model, "version": v.number, "aliases": list(v.aliases)})
        for v in graph.versions(run)
    ]
    return node


def _came_of(graph: Graph, origin: RunRecord) -> list[Node]:
    """Return the steps after one, as a forest."""
    parent: dict[str, str] = {}
    after: dict[str, RunRecord] = {}
    layer = [origin]
    while layer:  # a step moves below the last step that it stands on
        next_layer: dict[str, RunRecord] = {}
        for above in layer:
            for run in graph.users(above.outputs.values()):
                if run.id != origin.id and run.id not in _line(parent, above.id):
                    parent[run.id] = above.id
                    next_layer[run.id] = run
        after |= next_layer
        layer = list(next_layer.values())

    nodes = {
        key: _step(graph, run)
        for key, run in after.items()
        if run.outputs or run.stage.startswith(PROMOTE) or graph.versions(run)
    }
    top: list[Node] = []
    for key, node in nodes.items():
        stands_on = nodes.get(parent[key])
        (top if stands_on is None else stands_on.below).append(node)
    return top


def _line(parent: Mapping[str, str], key: str) -> set[str]:
    """Return a step and all above it."""
    line = {key}
    while key in parent and (key := parent[key]) not in line:
        line.add(key)
    return line
