"""Write into ``dvc.yaml`` the code that each stage depends on.

Run it as ``python -m pipelines.code_dependencies``.

The lists follow from the imports of a stage's module (:mod:`zprl.code_closure`); a test compares
them. A folder stands for its files where a stage uses all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML

from zprl import code_closure, durable, terminal
from zprl.code_closure import ROOT

GRAPH = "dvc.yaml"


def code_of(command: str) -> list[str]:
    """Return the files and folders of this project's code that a stage's command runs, sorted."""
    module = command.split("-m ")[1].split()[0]
    return compact(code_closure.closure(ROOT / f"{module.replace('.', '/')}.py"))


def compact(files: Iterable[Path]) -> list[str]:
    """Return paths in which a folder stands for its files where ``files`` holds all of them."""
    chosen = set(files)

    folders = {parent for path in chosen for parent in path.parents if len(parent.parts) > 1}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        inside = {path for path in chosen if folder in path.parents}
        if len(inside) > 1 and _files(folder) == _expanded(inside):
            chosen = chosen - inside | {folder}

    return sorted(path.as_posix() for path in chosen)


def is_code(path: str) -> bool:
    """Return whether a dependency is code of this project."""
    return path.split("/")[0] in code_closure.ROOMS


def write(path: Path) -> bool:
    """Bring the code in a graph's dependencies up to date; return whether anything changed."""
    ruamel = YAML()  # the round-trip loader constructs plain values only
    ruamel.width, ruamel.preserve_quotes = 200, True
    ruamel.indent(mapping=2, sequence=4, offset=2)
    graph = ruamel.load(path.read_text())

    changed = False
    for stage in graph["stages"].values():
        wanted = [path for path in stage["deps"] if not is_code(path)] + code_of(stage["cmd"])
        if wanted != list(stage["deps"]):
            stage["deps"][:] = wanted
            changed = True

    if changed:
        with durable.replacing(path) as file:
            ruamel.dump(graph, file)
    return changed


def _files(folder: Path) -> set[Path]:
    """Return the files of a folder without empty ones, which have no effect."""
    files = (ROOT / folder).rglob("*")
    return {
        path.relative_to(ROOT)
        for path in files
        if path.is_file() and path.stat().st_size > 0 and "__pycache__" not in path.parts
    }


def _expanded(paths: set[Path]) -> set[Path]:
    return {file for path in paths for file in (_files(path) if (ROOT / path).is_dir() else {path})}


def main() -> None:
    """Write the graph of the project."""
    changed = write(ROOT / GRAPH)
    terminal.say(f"{GRAPH} {'was brought up to date' if changed else 'is up to date'}")


if __name__ == "__main__":
    main()
