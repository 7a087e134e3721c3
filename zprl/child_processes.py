"""Commands of child processes: they run installed code, never code of the working folder.

``python -m`` puts the working folder first on the path, and git runs programs that a repository's
own configuration names. Either would let a folder of downloaded recordings run code in the process
that is started to read it.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from zprl import durable
from zprl.errors import ZprlError

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Has the effect of ``-P`` on every Python that is started further down, such as Prefect's engine
or a library's helper."""
GIT_OPTIONS = (
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "log.showSignature=false",
)
GIT_ENVIRONMENT = {"GIT_ALLOW_PROTOCOL": "", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
"""No transport: a repository that lacks an object may name the program that fetches it."""
GIT_STATUS = ("status", "--porcelain", "--ignore-submodules=all")
"""Looks into no submodule: git would look with the submodule's own configuration."""
MOST_PRINTED = 16 * 2**20
"""Most that a git command may print [B]: a repository of 3 MB can hold a file of gigabytes."""
NO_MATCH = 1
"""What ``git config`` exits with where it knows no such key."""
DVC_CACHE = "DVC_SITE_CACHE_DIR"
"""Where DVC keeps pickles of what it knows of files.  By default all users share that folder, and
each can replace what lies there."""

_SEARCHED = {
    "PYTHONPATH": re.compile(rf"(?<![^{os.pathsep}])/[^{os.pathsep}]*"),
    "LD_LIBRARY_PATH": re.compile(r"(?<![^:;])(?:/|\$ORIGIN|\$\{ORIGIN\})[^:;]*"),
}
"""Search paths, and the parts of them that children get: an empty or relative one means the working
folder to them."""


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter, without the working folder on its path."""
    return [sys.executable, "-P", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: this process's own, and ``more``.

    Pythons that its libraries start are safe, too.
    """
    variables = {**os.environ, **SAFE_PATH, DVC_CACHE: dvc_cache(), **more}
    for name, kept in _SEARCHED.items():
        if parts := kept.findall(variables.pop(name, "")):
            variables[name] = os.pathsep.join(parts)
    return variables


def dvc_cache() -> str:
    """Return the folder for DVC's caches, which no other user can enter.

    This process's environment may name another one.
    """
    own = private_folder("dvc")
    if named := os.environ.get(DVC_CACHE):
        return str(durable.private_folder(Path(named).expanduser().absolute()))
    return str(own)


def private_folder(name: str) -> Path:
    """Return a folder below the user's own caches, made for this user alone.

    Where there can be none, it is a temporary one of this process.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
        folder = durable.private_folder(base / "zprl" / name)
        _check_owner(folder.parent, folder)
        folder.chmod(0o700)
    except (ZprlError, OSError, RuntimeError):  # nobody's home, read-only, or another user's
        folder = Path(_temporary().name) / name
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _check_owner(*folders: Path) -> None:
    """Refuse folders of another user, who can replace what lies in them.

    Raises:
        PermissionError: one is.
    """
    for folder in folders:
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to another user")


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="zprl-", ignore_cleanup_errors=True)


def git(*arguments: str, timeout_s: float = 20.0, limit: int = MOST_PRINTED) -> str | None:
    """Return what a git command that only reads prints; ``None``: it failed, or there is no git.

    Show contents with ``cat-file blob`` and changes with :data:`GIT_STATUS`: others run what
    attributes and configuration name.

    Args:
        arguments: Command and options.
        timeout_s: Longest time that it may take [s].
        limit: Most that it may print [B]; a command that prints more has failed.
    """
    try:
        status, printed = _git(arguments, timeout_s, limit, _no_filters(timeout_s))
        return printed.decode() if status == 0 else None
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _git(
    arguments: tuple[str, ...], timeout_s: float, limit: int, more: dict[str, str]
) -> tuple[int, bytes]:
    """Return exit status and output of a git command, which is killed when its time is up.

    Raises:
        subprocess.SubprocessError: it prints more than ``limit`` bytes.
    """
    env = environment(**GIT_ENVIRONMENT, **more)
    command = ["git", *GIT_OPTIONS, *arguments]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, env=env) as process:
        killer = threading.Timer(timeout_s, process.kill)
        killer.start()

        try:
            assert process.stdout is not None
            printed = process.stdout.read(limit + 1)
            if len(printed) > limit:
                process.kill()
                raise subprocess.SubprocessError(f"git printed more than {limit} bytes")
            return process.wait(), printed
        finally:
            killer.cancel()


def _no_filters(timeout_s: float) -> dict[str, str]:
    """Return variables that empty every filter that a configuration names.

    Git runs filters to compare a file with its blob.

    Raises:
        subprocess.SubprocessError: the configuration cannot be read.
    """
    listing = ("config", "--includes", "--name-only", "-z", "--get-regexp", r"^filter\.")
    status, listed = _git(listing, timeout_s, MOST_PRINTED, {})
    if status not in (0, NO_MATCH):
        raise subprocess.SubprocessError(f"git config exited with {status}")
    keys = list(dict.fromkeys(os.fsdecode(listed).split("\0")[:-1]))
    first = os.environ.get("GIT_CONFIG_COUNT", "")
    start = int(first) if first.isdecimal() else 0

    variables = {"GIT_CONFIG_COUNT": str(start + len(keys))}
    for number, key in enumerate(keys, start):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = "false" if key.endswith(".required") else ""
    return variables
