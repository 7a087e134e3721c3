"""The tree of an answer, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from zprl.lineage.walk import Node

STATES = {"same bytes": "green", "other bytes": "red", "not here": "yellow"}


def show(node: Node, console: Console, *, episodes: int = 5, params: bool = False) -> None:
    """Print the tree.

    Args:
        node: Its root.
        console: Where to.
        episodes: Episodes listed of each source; the others are counted.
        params: Print every run's parameters.
    """
    tree = Tree(_title(node))
    if node.facts.get("registered"):
        tree.add(f"registered as {escape(', '.join(node.facts['registered']))}")
    _lines(tree, node, params)
    _below(tree, node, episodes, params)
    console.print(tree)


def _below(tree: Tree, node: Node, episodes: int, params: bool) -> None:
    shown = node.below[:episodes] if node.kind == "source" else node.below
    for each in shown:
        branch = tree.add(_title(each))
        _lines(branch, each, params)
        _below(branch, each, episodes, params)
    if len(shown) < len(node.below):
        tree.add(
            f"[dim]and {len(node.below) - len(shown)} more episodes (--episodes, --json)[/dim]"
        )


def _title(node: Node) -> str:
    facts = node.facts
    name = f"[bold]{escape(node.name)}[/bold]"
    if node.kind == "episode":
        recorded = (
            f", recorded as {escape(facts['recorded_name'])} {facts['recorded_content'][:12]}"
            if "recorded_content" in facts
            else ""
        )
        return f"{escape(node.name)}  content {facts['content'][:12]}{recorded}"
    if node.kind == "run":
        made = ", ".join(
            f"{escape(path)} {digest[:12]}" for path, digest in facts.get("outputs", {}).items()
        )
        return _run(facts) + (f" → {made}" if made else "")
    digest = facts.get("sha256")
    words = [
        name,
        digest[:12] if isinstance(digest, str) else "",
        f"content {facts['content'][:12]}" if "content" in facts else "",
    ]
    if facts.get("told"):
        words.append("[dim](above)[/dim]")
    if "here" in facts:
        words.append(
            f"[{STATES.get(facts['here'], 'dim')}]{facts['here']}{' here' if facts['here'].endswith('bytes') else ''}[/]"
        )
    return "  ".join(word for word in words if word)


def _lines(tree: Tree, node: Node, params: bool) -> None:
    facts = node.facts
    maker = facts.get("made_by")
    if maker:
        tree.add(f"made by {_run(maker)}")
    elif node.kind == "artifact" and not facts.get("told"):
        tree.add("[dim]no run is known to have made it[/dim]")
    if (facts.get("data") or {}).get("dvc_md5"):
        tree.add(f"data.dvc: md5 {escape(facts['data']['dvc_md5'])}")
    for episode in facts.get("episodes", [])[:10]:
        tree.add(
            f"used as {escape(episode['name'])}  content {episode['content'][:12]}, from {escape(episode['source'])}"
        )
    if len(facts.get("episodes", [])) > 10:
        tree.add(f"[dim]and {len(facts['episodes']) - 10} more episodes (--json)[/dim]")
    said = (maker or facts).get("params", {})
    if params and said:
        tree.add(escape("  ".join(f"{key}={value}" for key, value in sorted(said.items()))))


def _run(facts: dict[str, Any]) -> str:
    here = facts["status"] == "here"
    words = [
        f"{facts['stage']}, as {facts['run']} says"
        if here
        else f"{facts['stage']} run {facts['run']}",
        facts.get("started", ""),
        "" if facts["status"] in ("here", "FINISHED") else facts["status"].lower(),
        facts.get("note", ""),
        f"commit {_commit(facts['commit'])}" if facts.get("commit") else "",
        f"{facts['reruns']} more with the same bytes" if facts.get("reruns") else "",
    ]
    return escape(", ".join(word for word in words if word))


def _commit(commit: str) -> str:
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")
