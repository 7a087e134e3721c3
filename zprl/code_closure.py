"""Find the source files that a module runs, by following its imports.

DVC's graph and the resume folders depend on code.  A stage must run again when a file that it uses
changes, and must not when any other file does, so both ask this module.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("zprl", "pipelines")
"""Packages of this project; what is installed besides them is pinned."""

DATA_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
TEMPLATE_NAME = re.compile(r"""{%-?\s*(?:include|extends|import|from)\s+["']([^"']+)["']""")
"""Tag by which a Jinja template (``*.j2``) names another one."""

OBSERVERS = (
    "pipelines.container",  # the stage in the image computes its own closure
    "zprl.child_processes",
    "zprl.logs",
    "zprl.parent_death",
    "zprl.safe_torch_import",
    "zprl.terminal",
    "zprl.tracking",
)
"""Modules, with all below them, that a stage reports with or that guard its processes.

No output of a stage depends on them, so an edit there repeats no training.
"""


@functools.cache
def closure(start: Path) -> tuple[Path, ...]:
    """Return the project's files that a source file runs, itself included.

    An import counts wherever it stands, except for types alone.  So do a module named by a string
    (``python -m`` of a child process), the modules registered for a group of plug-ins that is
    loaded by name, a data file beside the module that is named by a string, and a template beside
    one that names it.

    Args:
        start: Source file, such as that of a stage.

    Returns:
        Paths relative to the project's root, sorted; ``start`` itself where it lies outside.
    """
    pending = [start.resolve()]
    files: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in files:
            continue

        files.add(path)
        if path.suffix == ".py":
            pending += _used_by(path)
        elif path.suffix == ".j2":
            names = TEMPLATE_NAME.findall(path.read_text())
            pending += [file for name in names for file in _data_files(path.parent, name)]

    return tuple(
        sorted(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path for path in files)
    )


def digest(start: Path) -> str:
    """Return a digest (16 hexadecimal digits) of the files that a source file runs."""
    total = hashlib.sha256()
    for path in closure(start):
        total.update(path.as_posix().encode() + b"\0" + (ROOT / path).read_bytes())
    return total.hexdigest()[:16]


def _used_by(path: Path) -> set[Path]:
    """Return the files that one source file names."""
    tree = ast.parse(path.read_text())
    modules: set[str] = set()
    used: set[Path] = set()

    for node in _run_time_nodes(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, path)
            modules |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and (group := _plugin_group(node)):
            modules |= {point.module for point in entry_points(group=f"zprl.{group}")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules.add(node.value)
            used |= _data_files(path.parent, node.value)

    for module in modules:
        used |= _module_files(module)
    return used


def _origin(node: ast.ImportFrom, path: Path) -> str:
    """Return the module that an import names, also relative to the package of the file."""
    module = node.module or ""
    if not node.level or not path.is_relative_to(ROOT):
        return module
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join((*package, module)).rstrip(".")


def _run_time_nodes(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes outside ``if TYPE_CHECKING`` and docstrings."""
    nodes: list[ast.AST] = []
    pending = [tree]
    while pending:
        node = pending.pop()
        nodes.append(node)

        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children = list(node.orelse)
        pending += [child for child in children if not _is_text(child)]
    return nodes


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _plugin_group(call: ast.Call) -> str | None:
    """Return the group that ``plugins.load("group", name)`` or ``plugins.names("group")`` loads."""
    if ast.unparse(call.func) not in ("plugins.load", "plugins.names") or not call.args:
        return None
    group = call.args[0]
    return str(group.value) if isinstance(group, ast.Constant) else None


def _data_files(folder: Path, name: str) -> set[Path]:
    """Return the data beside a module that has this name: a file, or a folder without modules."""
    if not folder.is_relative_to(ROOT) or not DATA_NAME.fullmatch(name):
        return set()
    path = folder / name
    if path.is_file() and path.suffix != ".py":
        return {path.resolve()}
    if path.is_dir():
        files = {file.resolve() for file in path.rglob("*") if file.is_file()}
        return files if not any(file.suffix in (".py", ".pyc") for file in files) else set()
    return set()


def _module_files(module: str) -> set[Path]:
    """Return the file of a module of this project and those of the packages that it lies in."""
    parts = module.split(".")
    if parts[0] not in ROOMS or not all(part.isidentifier() for part in parts):
        return set()
    if any(module == name or module.startswith(f"{name}.") for name in OBSERVERS):
        return set()

    files: set[Path] = set()
    for count in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:count])
        candidates = (path.with_suffix(".py"), path / "__init__.py")
        files |= {file for file in candidates if file.is_file() and file.stat().st_size > 0}
    return files
