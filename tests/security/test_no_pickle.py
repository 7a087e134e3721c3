"""Opening a stranger's file runs no code: a scan of the syntax trees for everything that could."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "zprl").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "_pickle"}
CALLS = {
    "eval",
    "exec",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.hub.load",
    "os.system",
    "torch.save",
}
KEYWORDS = {"allow_pickle": True, "trust_remote_code": True, "shell": True, "weights_only": False}


def findings(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                found.append(f"{name}()")
            found += [
                f"{k.arg}={KEYWORDS[k.arg]}"
                for k in node.keywords
                if k.arg in KEYWORDS
                and isinstance(k.value, ast.Constant)
                and k.value.value is KEYWORDS[k.arg]
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_runs_foreign_code(path: Path) -> None:
    assert findings(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "torch.load(p)",
        "eval(x)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(f)",
        "run(c, shell=True)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert findings(source)
