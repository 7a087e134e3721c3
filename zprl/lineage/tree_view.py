"""Print the tree of an answer on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from zprl.lineage.walk import Node

DIGEST_LENGTH = 12
SHOWN_EPISODES = 10
STATES = {"same bytes": "green", "other bytes": "red", "not here": "yellow"}


def show(node: Node, console: Console, *, episodes: int = 5, params: bool = False) -> None:
    """Print the tree.

    Args:
        node: Its root.
        console: The terminal.
        episodes: Episodes listed of each source; the others are counted.
        params: Print every run's parameters.
    """
    tree = Tree(_title(node))
    if node.facts.get("registered"):
        tree.add(f"registered as {escape(', '.join(node.facts['registered']))}")
    _lines(tree, node, params=params)
    _below(tree, node, episodes, params=params)
    console.print(tree)


def _below(tree: Tree, node: Node, episodes: int, *, params: bool) -> None:
    shown = node.below[:episodes] if node.kind == "source" else node.below
    for each in shown:
        branch = tree.add(_title(each))
        _lines(branch, each, params=params)
        _below(branch, each, episodes, params=params)
    if len(shown) < len(node.below):
        tree.add(
            f"[dim]and {len(node.below) - len(shown)} more episodes (--episodes, --json)[/dim]"
        )


def _short(digest: str) -> str:
    return digest[:DIGEST_LENGTH]


def _title(node: Node) -> str:
    if node.kind == "episode":
        return _episode_title(node)
    facts = node.facts
    if node.kind == "run":
        outputs = facts.get("outputs", {})
        made = ", ".join(f"{escape(path)} {_short(digest)}" for path, digest in outputs.items())
        return _run(facts) + (f" → {made}" if made else "")

    words = [f"[bold]{escape(node.name)}[/bold]"]
    if isinstance(facts.get("sha256"), str):
        words.append(_short(facts["sha256"]))
    if "content" in facts:
        words.append(f"content {_short(facts['content'])}")
    if facts.get("shown"):
        words.append("[dim](above)[/dim]")
    if "here" in facts:
        state = facts["here"]
        place = " here" if state.endswith("bytes") else ""
        words.append(f"[{STATES.get(state, 'dim')}]{state}{place}[/]")
    return "  ".join(words)


def _episode_title(node: Node) -> str:
    facts = node.facts
    title = f"{escape(node.name)}  content {_short(facts['content'])}"
    if "recorded_content" in facts:
        recorded = _short(facts["recorded_content"])
        title += f", recorded as {escape(facts['recorded_name'])} {recorded}"
    return title


def _lines(tree: Tree, node: Node, *, params: bool) -> None:
    """Add a node's facts as lines of their own."""
    facts = node.facts
    maker = facts.get("made_by")
    if maker:
        tree.add(f"made by {_run(maker)}")
    elif node.kind == "artifact" and not facts.get("shown"):
        tree.add("[dim]no run is known to have made it[/dim]")
    if (facts.get("data") or {}).get("dvc_md5"):
        tree.add(f"data.dvc: md5 {escape(facts['data']['dvc_md5'])}")

    episodes = facts.get("episodes", [])
    for episode in episodes[:SHOWN_EPISODES]:
        tree.add(
            f"used as {escape(episode['name'])}  content {_short(episode['content'])}, "
            f"from {escape(episode['source'])}"
        )
    if len(episodes) > SHOWN_EPISODES:
        tree.add(f"[dim]and {len(episodes) - SHOWN_EPISODES} more episodes (--json)[/dim]")

    settings = (maker or facts).get("params", {})
    if params and settings:
        tree.add(escape("  ".join(f"{key}={value}" for key, value in sorted(settings.items()))))


def _run(facts: dict[str, Any]) -> str:
    """Return one line about a run."""
    stage, run = facts["stage"], facts["run"]
    here = facts["status"] == "here"
    words = [
        f"{stage}, as {run} says" if here else f"{stage} run {run}",
        facts.get("started", ""),
        "" if facts["status"] in ("here", "FINISHED") else facts["status"].lower(),
        facts.get("note", ""),
        f"commit {_commit(facts['commit'])}" if facts.get("commit") else "",
        f"{facts['reruns']} more with the same bytes" if facts.get("reruns") else "",
    ]
    return escape(", ".join(word for word in words if word))


def _commit(commit: str) -> str:
    return _short(commit) + ("-dirty" if commit.endswith("-dirty") else "")
