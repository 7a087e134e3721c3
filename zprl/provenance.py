"""The origin of a result: code, versions, data.

Only facts that do not change from run to run enter results.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from zprl import child_processes

PACKAGES = (
    "torch",
    "numpy",
    "lightning",
    "isaaclab",
    "ovphysx",
    "mujoco",
    "mlflow",
    "prefect",
    "dvc",
)


def git_commit() -> str | None:
    """Return the commit of the working tree, with ``-dirty`` when it has changes.

    Returns:
        ``None`` outside a repository.
    """
    commit = (child_processes.git("rev-parse", "--verify", "HEAD") or "").strip()
    if not commit:
        return None
    changes = child_processes.git(*child_processes.GIT_STATUS, "--untracked-files=no")
    if changes is None:
        return None
    return f"{commit}-dirty" if changes else commit


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def machine(device: str = "cpu") -> str:
    """Return the processors of this machine, and its GPU where ``device`` is ``cuda``.

    It says whose seconds a timing counts.
    """
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    name = model[1].strip() if model else platform.processor() or platform.machine()
    if device == "cpu":
        return f"{os.cpu_count()} x {name}"

    import torch

    return f"{os.cpu_count()} x {name}, {torch.cuda.get_device_name()}"
