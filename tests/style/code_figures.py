"""Measure how code reads: ``python -m tests.style.code_figures [ROOT] [--list FOLDER ...]``.

Without ``--list`` it prints one line of figures per room.  With it, it prints the places in the
given folders that break a rule of the house style (``tests/style/test_house_style.py``).
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("zprl", "pipelines")
MAX_COLUMNS, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_WALL = 100, 500, 50, 12
QUESTIONS = ("What", "Whether", "Who", "Where", "How", "Which", "Why", "When")
MIN_WORDS = 3

RETIRED = {
    "anyone's": "a user's",
    "bystander": "non-critical process",
    "bystanders": "non-critical processes",
    "chooser": "chunk policy",
    "double": "simulated robot",
    "doubles": "simulated robots",
    "eyes": "camera history",
    "film": "video",
    "films": "videos",
    "found": "result, or what it is",
    "journal": "append file, or labels",
    "lived": "recorded, transitions",
    "mouth": "input publisher",
    "picture": "image",
    "pictures": "images",
    "sealed": "checksummed",
    "sense": "sensor",
    "senses": "sensors",
    "spool": "episode buffer",
    "told": "sent, logged, reported",
    "twin": "simulated robot",
    "whoever": "the caller, the process, ...",
    "wish": "chunk request",
    "wishes": "chunk requests",
}
"""Words that the glossary retires, and what stands in their place."""

OTHER_MEANING = {
    "double": {"zprl/data/readers/parquet_guard.py"},  # a number's type
    "film": {"zprl/models/velocity_unet.py"},  # feature-wise linear modulation
}
PRODUCTS = re.compile(r"\w*RealSense\w*")
LIBRARY_NAMES = re.compile(r"\w+Error\b|mode=\"double\"|\.double\(\)")


@dataclass
class Module:
    """One source file, measured.

    Attributes:
        path: Path relative to the root.
        lines: Number of lines.
        broken: Places that break the house style: (line, sentence).
        counts: Figures by name.
    """

    path: Path
    lines: int
    broken: list[tuple[int, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    classes: dict[str, int] = field(default_factory=dict)


def modules(root: Path, folders: tuple[str, ...] = SOURCES) -> Iterator[Module]:
    """Measure every Python file below the folders of a checkout."""
    for folder in folders:
        start = root / folder
        for path in [start] if start.is_file() else sorted(start.rglob("*.py")):
            yield measure(path, path.relative_to(root))


def measure(path: Path, name: Path) -> Module:
    """Measure one file."""
    text = path.read_text()
    lines = text.splitlines()
    module = Module(name, len(lines))
    comments = _comments(text)
    tree = ast.parse(text)

    _check_lines(module, lines)
    _check_docstrings(module, tree)
    _check_functions(module, tree, lines, comments)
    _check_words(module, text)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            module.classes[node.name] = node.lineno
    return module


def _comments(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def _check_lines(module: Module, lines: list[str]) -> None:
    if len(lines) > MAX_FILE_LINES:
        module.broken.append((1, f"file of {len(lines)} lines"))
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            module.counts["long_lines"] += 1
            module.broken.append((number, f"{len(line)} columns"))


def _check_docstrings(module: Module, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue

        text = ast.get_docstring(node)
        name = getattr(node, "name", "module")
        if not name.startswith("_") and not isinstance(node, ast.Module):
            module.counts["public"] += 1
            module.counts["documented"] += text is not None
        if not text:
            continue

        line = getattr(node, "lineno", 1)
        if text.split()[0].rstrip(",:") in QUESTIONS:
            module.counts["questions"] += 1
            module.broken.append((line, f"docstring of {name} begins with {text.split()[0]}"))
        if len(text.split()) < MIN_WORDS:
            module.broken.append((line, f"docstring of {name} has fewer than three words"))


def _check_functions(
    module: Module, tree: ast.Module, lines: list[str], comments: set[int]
) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue

        module.counts["functions"] += 1
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            module.counts["long_functions"] += 1
            module.broken.append((node.lineno, f"{node.name} has {length} lines"))

        statements = sum(isinstance(child, ast.stmt) for child in ast.walk(node)) - 1
        if statements < MAX_WALL:
            continue
        module.counts["big_functions"] += 1
        first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
        body = range(first.lineno, (node.end_lineno or 0) + 1)
        blank = any(not lines[number - 1].strip() for number in body)
        if not blank and not comments & set(body):
            module.counts["walls"] += 1
            module.broken.append(
                (
                    node.lineno,
                    f"{node.name}: {statements} statements without a blank line or comment",
                )
            )


def _check_words(module: Module, text: str) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        ours = PRODUCTS.sub("", LIBRARY_NAMES.sub("", line))  # such as FileNotFoundError
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", ours).replace("_", " ")
        words = re.findall(r"[A-Za-z']+", spaced)
        for word in {word.lower() for word in words} & RETIRED.keys():
            if not _allowed(word, module.path.as_posix()):
                module.counts["retired"] += 1
                module.broken.append((number, f"'{word}': say {RETIRED[word]}"))


def _allowed(word: str, path: str) -> bool:
    return path in OTHER_MEANING.get(word, ())


def repeated_classes(measured: list[Module]) -> dict[str, list[str]]:
    """Return public classes whose name is given more than once, with their places."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in measured:
        for name, line in module.classes.items():
            places[name].append(f"{module.path}:{line}")
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


COLUMNS = (
    "public",
    "documented",
    "questions",
    "big_functions",
    "walls",
    "long_functions",
    "long_lines",
    "retired",
)


def table(measured: list[Module]) -> str:
    """Return figures as text, one line per room and one for all."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in measured:
        parts = module.path.parts
        rooms["/".join(parts[:2]) if parts[0] == "zprl" and len(parts) > 2 else parts[0]].append(
            module
        )

    head = f"{'room':22}{'files':>7}{'lines':>8}" + "".join(f"{name:>16}" for name in COLUMNS)
    rows = [head]
    for room, inside in [*sorted(rooms.items()), ("all", measured)]:
        sums = [sum(module.counts[name] for module in inside) for name in COLUMNS]
        total = sum(module.lines for module in inside)
        numbers = "".join(f"{number:>16,}" for number in sums)
        rows.append(f"{room:22}{len(inside):>7}{total:>8,}{numbers}")
    return "\n".join(rows)


def main() -> None:
    """Print the figures, or the places that break a rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--list", nargs="+", metavar="FOLDER", default=None)
    arguments = parser.parse_args()

    if arguments.list is None:
        measured = list(modules(arguments.root))
        print(table(measured))
        print(f"\nclasses of one name: {len(repeated_classes(measured))}")
        tests = sum(module.lines for module in modules(arguments.root, ("tests",)))
        source = sum(module.lines for module in measured)
        print(f"tests: {tests:,} lines, {tests / source:.2f} of the source")
        return

    for module in modules(arguments.root, tuple(arguments.list)):
        for line, sentence in sorted(module.broken):
            print(f"{module.path}:{line}: {sentence}")


if __name__ == "__main__":
    main()
