"""The code that a source file runs: what its imports reach, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from zprl import code_closure


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, of which every file is written here."""
    monkeypatch.setattr(code_closure, "ROOT", tmp_path)
    code_closure.closure.cache_clear()
    files = {
        "pipelines/stages/train.py": "from zprl.rl import learner\n",
        "zprl/__init__.py": "VERSION = 1\n",
        "zprl/rl/__init__.py": "",
        "zprl/rl/learner.py": "from .steering import steer\ndef run():\n    from zprl import seeding\n    return seeding, 'page.html.j2', 'zprl.worker', 'tasks'\n",
        "zprl/rl/page.html.j2": '<style>{% include "style.css.j2" %}</style>{# "other.html" #}',
        "zprl/rl/style.css.j2": "p {}",
        "zprl/rl/other.html": "<p>",
        "zprl/rl/steering.py": "from ..rl import bounds\n",
        "zprl/rl/bounds.py": "A = 1\n",
        "zprl/rl/tasks/lift.yaml": "a: 1",
        "zprl/rl/unused.py": "",
        "zprl/seeding.py": '"""zprl.mentioned"""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from zprl import hints\n',
        "zprl/worker.py": "import zprl.terminal\n",
        "zprl/mentioned.py": "A = 1\n",
        "zprl/hints.py": "A = 1\n",
        "zprl/terminal.py": "A = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path
    code_closure.closure.cache_clear()


USED = [
    "pipelines/stages/train.py",
    "zprl/__init__.py",
    "zprl/rl/bounds.py",
    "zprl/rl/learner.py",
    "zprl/rl/page.html.j2",
    "zprl/rl/steering.py",
    "zprl/rl/style.css.j2",
    "zprl/rl/tasks/lift.yaml",
    "zprl/seeding.py",
    "zprl/worker.py",
]


def closure(project: Path) -> list[str]:
    code_closure.closure.cache_clear()
    return [path.as_posix() for path in code_closure.closure(project / "pipelines/stages/train.py")]


def test_imports_in_functions_named_modules_and_templates_are_followed(project: Path) -> None:
    """Types, docstrings, empty packages, neighbours and what only reports are left out."""
    assert closure(project) == USED


@pytest.mark.parametrize("name", USED)
def test_an_edit_of_what_is_used_changes_the_digest(project: Path, name: str) -> None:
    start = project / "pipelines/stages/train.py"
    before = code_closure.digest(start)
    with open(project / name, "a") as file:
        file.write("\n# edited\n" if name.endswith(".py") else "edited")
    code_closure.closure.cache_clear()
    assert code_closure.digest(start) != before


@pytest.mark.parametrize(
    "name",
    [
        "zprl/rl/other.html",
        "zprl/rl/unused.py",
        "zprl/hints.py",
        "zprl/mentioned.py",
        "zprl/terminal.py",
    ],
)
def test_an_edit_of_anything_else_does_not(project: Path, name: str) -> None:
    start = project / "pipelines/stages/train.py"
    before = code_closure.digest(start)
    (project / name).write_text("edited = True\n")
    code_closure.closure.cache_clear()
    assert code_closure.digest(start) == before


def test_plug_ins_of_a_group_are_followed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    (project / "zprl/rl/space.py").write_text("A = 1\n")
    (project / "zprl/seeding.py").write_text(
        "from zprl import plugins\n\ndef load(name):\n    return plugins.load('spaces', name)\n"
    )
    points = EntryPoints([EntryPoint("latent", "zprl.rl.space:Latent", "zprl.spaces")])
    monkeypatch.setattr(code_closure, "entry_points", lambda group: points.select(group=group))
    assert closure(project) == sorted([*USED, "zprl/rl/space.py"])
