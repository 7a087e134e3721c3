"""Commands of child processes: they run installed code, never code of the folder that the parent stands in.

``python -m`` puts the working folder first on the path, and git runs programs that a repository's own configuration names.
Either would let a folder of downloaded recordings run code in the process that is started to read it.
"""

from __future__ import annotations

import os
import subprocess
import sys

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Has the effect of ``-P`` on every Python that is started further down, such as Prefect's engine or a library's helper."""
GIT_OPTIONS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false")
GIT_ENVIRONMENT = {"GIT_ALLOW_PROTOCOL": "", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
"""No transport: a repository that lacks an object may name the program that fetches it."""


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter with ``arguments``, without the working folder on its path."""
    return [sys.executable, "-P", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: this process's own, and ``more``; Pythons that its libraries start are safe, too."""
    return {**os.environ, **SAFE_PATH, **more}


def git(*arguments: str, timeout_s: float = 20.0) -> str | None:
    """Return what a git command that only reads prints, or ``None`` where it fails or there is no git.

    Args:
        arguments: Command and options.
        timeout_s: Longest time that it may take [s].
    """
    command, env = ["git", *GIT_OPTIONS, *arguments], environment(**GIT_ENVIRONMENT)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s, env=env)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout
