"""The worker of Isaac Gym against what is published of it: calls that Preview 4 does not have, or would not take, are found without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from zprl.envs.isaacgym import lift_cube, worker

WORKER = Path(str(worker.__file__)).parent
FILES = [*sorted(WORKER.glob("*.py")), Path(lift_cube.__file__)]
FAKE = Path(__file__).parents[2] / "fake_isaacgym" / "isaacgym" / "gymapi.py"
ALLOWED = {
    "__future__",
    "ctypes",
    "importlib.util",
    "json",
    "os",
    "pathlib",
    "signal",
    "socket",
    "struct",
    "sys",
    "typing",
}
ALLOWED |= {"numpy", "torch", "isaacgym", *(f".{path.stem}" for path in WORKER.glob("*.py"))}
GYMTORCH = """
import torch
from isaacgym import gymapi
def wrap_tensor(gym_tensor: gymapi.Tensor) -> torch.Tensor: ...
def unwrap_tensor(torch_tensor: torch.Tensor) -> gymapi.Tensor: ...
"""
"""The published stubs lack it; from Preview 4's documentation."""
SETTINGS = """
[mypy]
disallow_untyped_defs = true
check_untyped_defs = true
warn_return_any = false
[mypy-torch.*]
follow_imports = skip
[mypy-isaacgym.*]
ignore_errors = true
"""


def published() -> str:
    """The stubs of ``gymapi`` as they are on PyPI, where two properties are named ``lambda``, which no Python can read."""
    file = next(
        file for file in distribution("isaacgym-stubs").files or () if file.name == "gymapi.pyi"
    )
    return Path(str(file.locate())).read_text().replace("def lambda(", "def lambda_(")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published stubs under the name by which they are imported."""
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "isaacgym").mkdir()
    (folder / "isaacgym/__init__.pyi").touch()
    (folder / "isaacgym/gymtorch.pyi").write_text(GYMTORCH)
    (folder / "isaacgym/gymapi.pyi").write_text(published())
    (folder / "mypy.ini").write_text(SETTINGS)
    return folder


def mypy(stubs: Path, *files: Path) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(stubs / "mypy.ini"),
        "--cache-dir",
        str(stubs / "cache"),
    ]
    done = subprocess.run(
        [*command, *map(str, files)],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(stubs), "PATH": ""},
        cwd=stubs,
    )
    return done.returncode, done.stdout + done.stderr


def copied(stubs: Path, name: str, change: tuple[str, str] | None = None) -> Path:
    """The worker outside zprl, so that nothing else of it is read; with one line changed."""
    folder = stubs / name
    folder.mkdir(exist_ok=True)
    texts = {path.name: path.read_text() for path in WORKER.glob("*.py")}
    if change is not None:
        (changed,) = (file for file, text in texts.items() if change[0] in text)
        assert texts[changed].count(change[0]) == 1, change[0]
        texts[changed] = texts[changed].replace(*change)
    for file, text in texts.items():
        (folder / file).write_text(text)
    return folder


def test_every_call_fits_what_is_published_of_gymapi(stubs: Path) -> None:
    code, said = mypy(stubs, copied(stubs, "as_it_is"))
    assert code == 0, said


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        (
            "self.gym.fetch_results(self.sim, True)",
            "self.gym.fetch_result(self.sim, True)",
            '"Gym" has no attribute "fetch_result"',
        ),
        (
            "self.gym.fetch_results(self.sim, True)",
            "self.gym.fetch_results(self.sim)",
            'Missing positional argument "arg1"',
        ),
        (
            "params.physx.solver_type = 1",
            "params.physx.solver = 1",
            '"PhysXParams" has no attribute "solver"',
        ),
        (
            'int(device.partition(":")[2] or 0)',
            "device",
            'incompatible type "str"; expected "int"',
        ),
        (
            "gymtorch.unwrap_tensor(arms), len(arms)",
            "len(arms), gymtorch.unwrap_tensor(arms)",
            'expected "Tensor"',
        ),
    ],
)
def test_a_wrong_call_is_found(stubs: Path, right: str, wrong: str, complaint: str) -> None:
    code, said = mypy(stubs, copied(stubs, "wrong", (right, wrong)))
    assert code == 1
    assert complaint in said


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            found |= {dots + (node.module or alias.name) for alias in node.names}
    return found


def newer_than_3_8(source: str) -> list[str]:
    """What Python 3.8 could not run: its grammar, modules, and the commonest of later methods and expressions."""
    try:
        tree = ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [str(error)]
    found = sorted(imported(tree) - ALLOWED)
    annotations = {id(child) for node in ast.walk(tree) for child in _annotations(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in (
            "removeprefix",
            "removesuffix",
            "bit_count",
            "is_relative_to",
        ):
            found.append(node.attr)
        if isinstance(node, ast.keyword) and node.arg in ("strict", "root_dir", "slots", "kw_only"):
            found.append(f"{node.arg}=")
        # Annotations are never evaluated (PEP 563), so types of builtins would do there; elsewhere
        # they are errors.
        generic = (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("dict", "list", "tuple", "set")
        )
        if generic and id(node) not in annotations:
            found.append(ast.unparse(node))
    return found


def _annotations(node: ast.AST) -> list[ast.AST]:
    roots = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [child for root in roots if isinstance(root, ast.AST) for child in ast.walk(root)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_is_python_3_8_and_needs_nothing_of_zprl(path: Path) -> None:
    assert newer_than_3_8(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "match x:\n    case 1: pass",
        "with (open(a) as x, open(b) as y): pass",
        "import tomllib",
        "from zprl import errors",
        "from . import client",
        "zip(a, b, strict=True)",
        "'a'.removeprefix('b')",
        "x = list[int]()",
    ],
)
def test_the_scan_finds_what_3_8_lacks(source: str) -> None:
    assert newer_than_3_8(source)


def test_isaacgym_comes_before_torch() -> None:
    """Preview 4 refuses to be imported after PyTorch; nothing at the top of the worker imports either."""
    body = [
        node
        for path in WORKER.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    top = {name.split(".")[0] for node in body for name in imported(node)}
    assert "numpy" in top
    assert not top & {"torch", "isaacgym"}


def test_the_stand_in_takes_the_arguments_that_are_published() -> None:
    """What the contract tests run against has no call, and no more arguments, than the real one."""
    gym = next(
        n for n in ast.parse(published()).body if isinstance(n, ast.ClassDef) and n.name == "Gym"
    )
    real = {n.name: n.args for n in gym.body if isinstance(n, ast.FunctionDef)}
    fake = next(
        n
        for n in ast.parse(FAKE.read_text()).body
        if isinstance(n, ast.ClassDef) and n.name == "Gym"
    )
    calls = [n for n in fake.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    assert len(calls) > 20
    for call in calls:
        assert call.name in real, call.name
        if real[call.name].vararg is None:
            assert [a.arg for a in call.args.args] == [a.arg for a in real[call.name].args], (
                call.name
            )
            assert len(call.args.defaults) == len(real[call.name].defaults), call.name
