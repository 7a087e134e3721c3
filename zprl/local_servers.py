"""The servers that ``zprl ui`` runs for this folder, read from the file that names them.

A file outlives a killed process, and its port may belong to somebody else by then.  So a server is
believed only where the file is private, its process is alive and ours, and the kernel says that
this very process listens at the address.  Only then is the login sent there.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem

HOST = "127.0.0.1"
FILE = Path(".prefect/ui.json")
"""Written by ``zprl ui``, readable by its user alone."""
LEASE = Path(".prefect/ui.lock")
"""Held by ``zprl ui`` while it runs."""
_URL = re.compile(rf"http://{re.escape(HOST)}:[0-9]{{1,5}}")
_MAX_BYTES = 100_000
_CLOCK_S = 2.0
"""How far two readings of a process's start time may differ."""


@dataclass(frozen=True)
class LocalServer:
    """A server on this machine.

    Attributes:
        url: Its address, without a path.
        pid: The process that listens there.
        started: When that process started: tells a reused process id from the old process.
        login: The secret that clients present.
    """

    url: str
    pid: int
    started: float
    login: str

    @property
    def port(self) -> int:
        """Return the port it listens at."""
        return int(self.url.rsplit(":", 1)[1])


def new_login() -> str:
    """Return a random secret, in the form in which Prefect and curl want name and password."""
    return f"zprl:{secrets.token_urlsafe(32)}"


def read(file: Path = FILE) -> dict[str, LocalServer]:
    """Return the running servers by name; a file that names none is stale and is removed."""
    named = _parse(_private_text(file))
    servers = {name: server for name, server in named.items() if _listens(server)}
    if not servers:
        _remove_stale(file)
    return servers


def login_for(url: str) -> str | None:
    """Return the login of the running server with this address, ``None`` for any other address."""
    wanted = normalised(url)
    return next((server.login for server in read().values() if server.url == wanted), None)


def normalised(url: str) -> str:
    """Return an address as :class:`LocalServer` spells it.

    ``localhost`` is written by its number, and no slash stands at the end.
    """
    return url.rstrip("/").replace("//localhost:", f"//{HOST}:")


def write(servers: Mapping[str, LocalServer], file: Path = FILE) -> None:
    """Replace the file, readable by this user alone."""
    durable.private_folder(file.parent, close=True)
    named = {name: asdict(server) for name, server in servers.items()}
    durable.write_json(file, named, private=True)


def started(pid: int) -> float:
    """Return when a process started, which tells it from a later one of its id; 0 for none."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def same(pid: int, since: float) -> bool:
    """Return whether a process id still belongs to the process that started at that time."""
    return abs(started(pid) - since) <= _CLOCK_S


def request(server: LocalServer, method: str, path: str, *, timeout_s: float = 10.0) -> Any:
    """Send a request with the server's login, past all proxies; return the JSON of its answer.

    Raises:
        EnvironmentProblem: there is no good answer.
    """
    connection = http.client.HTTPConnection(HOST, server.port, timeout=timeout_s)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {server.login}"})
        answer = connection.getresponse()
        if answer.status == 200:
            return durable.parse_json(answer.read(_MAX_BYTES), "its answer")
        problem = f"status {answer.status}"
    except (OSError, http.client.HTTPException, DataError) as error:
        problem = str(error) or type(error).__name__
    finally:
        connection.close()
    raise EnvironmentProblem(
        f"{server.url}{path} gives no good answer: {problem}",
        remedy="see .cache/ui.log, or start `zprl ui` again",
    )


def _private_text(file: Path) -> str:
    """Return the text of a regular file that only we can read or write; empty otherwise."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(fd, "rb") as opened:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            return ""
        return opened.read(_MAX_BYTES).decode(errors="replace")


def _parse(text: str) -> dict[str, LocalServer]:
    """Return what the file names; nothing where any of it is not as `write` writes it."""
    try:
        named = durable.parse_json(text, str(FILE))
        servers = {name: LocalServer(**given) for name, given in named.items()}
        good = all(_URL.fullmatch(server.url) for server in servers.values())
    except (DataError, TypeError, AttributeError):
        return {}
    return servers if good else {}


def _listens(server: LocalServer) -> bool:
    """Return whether the process is ours, the one that was meant, and listens at the address."""
    import psutil

    try:
        process = psutil.Process(server.pid)
        ours = process.uids().effective == os.geteuid()
        meant = abs(process.create_time() - server.started) <= _CLOCK_S
        sockets = process.net_connections(kind="tcp4") if ours and meant else []
    except (psutil.Error, OSError, ValueError, TypeError, OverflowError):
        return False
    address = (HOST, server.port)
    return any(each.status == psutil.CONN_LISTEN and each.laddr == address for each in sockets)


def _remove_stale(file: Path) -> None:
    """Remove the file, unless a ``zprl ui`` is about to write it: that one holds the lease."""
    if file != FILE or not os.path.lexists(file):
        return
    with contextlib.suppress(EnvironmentProblem, OSError):
        lease = durable.lease(LEASE)
        try:
            file.unlink(missing_ok=True)
        finally:
            os.close(lease)
