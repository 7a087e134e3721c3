"""Floors: a room imports only from lower ones; the library knows neither Prefect nor DVC."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [
    {
        "errors",
        "seeding",
        "code_closure",
        "csv_text",
        "durable",
        "config",
        "run_dir",
        "provenance",
        "plugins",
        "child_processes",
        "safe_torch_import",
        "safe_names",
        "strict_model",
        "strict_yaml",
        "suggestions",
        "terminal",
        "parent_death",
        "local_servers",
        "logs",
        "request_checks",
        "server_connections",
        "server_limits",
    },
    {"data", "models"},
    {"envs", "robot"},
    {"robot_sim"},
    {"offline", "rl", "evaluation", "recordings"},
    {"session"},
    {"tracking", "registry", "report", "presets", "lineage"},
    {"bench"},
    {"doctor"},
    {path.stem for path in (ROOT / "zprl").glob("cli*.py")},
]
LEVEL = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted((ROOT / "zprl").rglob("*.py"))


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names of imported modules; ``top_only`` leaves out those inside functions and TYPE_CHECKING blocks."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "zprl").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_floors(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    assert own in LEVEL, f"'{own}' has no floor; give it one"
    used = {name.split(".")[1] for name in imports(path) if name.startswith("zprl.")} & set(LEVEL)
    too_high = {name for name in used if LEVEL[name] > LEVEL[own]}
    assert not too_high


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_no_orchestrator(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"prefect", "dvc"}
    if room(path) not in FLOORS[-1]:
        assert "pipelines" not in roots


@pytest.mark.parametrize("name", sorted(FLOORS[-1]))
def test_the_command_line_imports_nothing_heavy_at_the_top(name: str) -> None:
    roots = {each.split(".")[0] for each in imports(ROOT / f"zprl/{name}.py", top_only=True)}
    assert roots <= {
        "__future__",
        "collections",
        "contextlib",
        "os",
        "pathlib",
        "shlex",
        "sys",
        "typer",
        "typing",
        "zprl",
    }
