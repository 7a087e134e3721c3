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
GIT_STATUS = ("status", "--porcelain", "--ignore-submodules=all")
"""Looks into no submodule: git would look with the submodule's own configuration."""
NO_MATCH = 1
"""What ``git config`` exits with where it knows no such key."""


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter with ``arguments``, without the working folder on its path."""
    return [sys.executable, "-P", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: this process's own, and ``more``; Pythons that its libraries start are safe, too."""
    return {**os.environ, **SAFE_PATH, **more}


def git(*arguments: str, timeout_s: float = 20.0) -> str | None:
    """Return what a git command that only reads prints, or ``None`` where it fails or there is no git.

    Show contents with ``cat-file blob`` and changes with :data:`GIT_STATUS`: others run what attributes and configuration name.

    Args:
        arguments: Command and options.
        timeout_s: Longest time that it may take [s].
    """
    try:
        done = _git(arguments, timeout_s, _no_filters(timeout_s))
        return done.stdout.decode() if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _git(arguments: tuple[str, ...], timeout_s: float, more: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    env = environment(**GIT_ENVIRONMENT, **more)
    return subprocess.run(["git", *GIT_OPTIONS, *arguments], capture_output=True, check=False, timeout=timeout_s, env=env)


def _no_filters(timeout_s: float) -> dict[str, str]:
    """Return variables that empty every filter that a configuration names: git runs them to compare a file with its blob.

    Raises:
        subprocess.SubprocessError: the configuration cannot be read.
    """
    listed = _git(("config", "--includes", "--name-only", "-z", "--get-regexp", r"^filter\."), timeout_s, {})
    if listed.returncode not in (0, NO_MATCH):
        raise subprocess.SubprocessError(f"git config exited with {listed.returncode}")
    keys = list(dict.fromkeys(os.fsdecode(listed.stdout).split("\0")[:-1]))
    first = os.environ.get("GIT_CONFIG_COUNT", "")
    start = int(first) if first.isdecimal() else 0

    variables = {"GIT_CONFIG_COUNT": str(start + len(keys))}
    for number, key in enumerate(keys, start):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = "false" if key.endswith(".required") else ""
    return variables
