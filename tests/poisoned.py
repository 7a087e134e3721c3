"""A folder in which every importable name is a trap.  A trap leaves a mark, so that one that nobody notices counts, too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from zprl import durable

ROOT = Path(__file__).parents[1]
HOOKS = ("sitecustomize", "usercustomize", "conftest", "trap")
"""Names beside the standard library's and those of installed packages; entry points in the folder
name the last one."""
ENTRY_POINTS = """[zprl.readers]
robomimic = trap:Reader
[zprl.tasks]
isaac/lift-cube = trap:make
[mlflow.run_context_provider]
trap = trap:Provider
"""
LIBRARY = '#include <stdio.h>\n__attribute__((constructor)) static void trap(void) {{ fclose(fopen("{mark}", "w")); }}\n'
LOGGING = """version: 1
formatters: {{standard: {{(): os.system, command: "echo > {mark}"}}}}
handlers: {{console: {{class: logging.StreamHandler, formatter: standard}}}}
root: {{handlers: [console]}}
"""
"""Prefect takes such a file where a setting names it, and makes a formatter with what that
names."""
PREFECT_FILES = {
    ".prefect/logging.yml": "{logging}",
    ".prefect/profiles.toml": (
        'active = "trap"\n[profiles.trap]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\nPREFECT_LOGGING_SETTINGS_PATH = "{file}"\n'
    ),
    ".env": 'PREFECT_LOGGING_SETTINGS_PATH={file}\nPREFECT_LOGGING={{"config_path": "{file}"}}\n',
    "prefect.toml": '[logging]\nconfig_path = "{file}"\n',
    "pyproject.toml": '[tool.prefect.logging]\nconfig_path = "{file}"\n',
}
COMPILER = shutil.which("cc")


class Folder:
    """A poisoned folder.

    Attributes:
        path: The folder.
        marks: Folder in which every trap leaves its name.
    """

    def __init__(self, base: Path) -> None:
        self.path, self.marks = base / "folder", base / "marks"
        self.path.mkdir(parents=True)
        self.marks.mkdir()

    def poison(self, where: Path | None = None) -> None:
        """Set a trap for every name that a child can import: modules for the standard library's, packages for what is installed."""
        where = where or self.path
        for name in {*sys.stdlib_module_names, *HOOKS}:
            (where / f"{name}.py").write_text(self._trap(name))
        for name in {*packages_distributions(), "zprl", "pipelines"}:
            if name.isidentifier() and not (where / name).exists():
                (where / name).mkdir()
                (where / name / "__init__.py").write_text(self._trap(name))
        durable.write_text(
            where / "trap-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: trap\nVersion: 1\n"
        )
        durable.write_text(where / "trap-1.dist-info/entry_points.txt", ENTRY_POINTS)
        (where / "matplotlibrc").write_text("backend: module://trap\ntext.usetex: True\n")
        self.poison_prefect(where)
        if COMPILER:
            (where / "trap.c").write_text(LIBRARY.format(mark=self.marks / "libcuda.so.1"))
            subprocess.run(
                [COMPILER, "-shared", "-fPIC", "trap.c", "-o", "libcuda.so.1"],
                cwd=where,
                check=True,
            )

    def poison_prefect(self, where: Path, names: Iterable[str] = PREFECT_FILES) -> None:
        """Write files of Prefect's by which it would run a program at its import."""
        for name in names:
            file = self.marks.with_name(f"{name.replace('/', '-')}.yml")
            file.write_text(text := LOGGING.format(mark=self.marks / name.replace("/", "-")))
            durable.write_text(where / name, PREFECT_FILES[name].format(file=file, logging=text))

    def _trap(self, name: str) -> str:
        return f"open({str(self.marks / name)!r}, 'w').close()\n"

    def program(self, name: str) -> Path:
        """A program that leaves a mark of this name."""
        path = self.marks.with_name(name)
        path.write_text(f"#!/bin/sh\necho > {self.marks / name}\n")
        path.chmod(0o755)
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """Only where this code lies; nothing that a test's parent may have set.

        ``import cv2`` sets a library path that ends in ``:``, which names the working folder to
        every program, ``ls`` included.
        """
        settings = ("PYTHON", "MLFLOW_", "PREFECT_", "ZPRL_", "LD_LIBRARY_PATH")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(settings)}
        return {
            **clean,
            "PYTHONPATH": str(ROOT),
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
            **more,
        }

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        env = self.environment(**more)
        return subprocess.run(
            command,
            cwd=self.path,
            env=env,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def sprung(self) -> list[str]:
        """Names of the traps that were run."""
        return sorted(path.name for path in self.marks.iterdir())
