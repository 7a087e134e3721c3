"""Open the socket at which the operator's page is reached.

The supervisor holds it for the whole run and hands it down: while the process of the page is
replaced, nobody else can take the port, to which open pages send cookies and presses by themselves.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

from zprl import durable
from zprl.errors import ConfigError, DataError, EnvironmentProblem
from zprl.session.process import Settings
from zprl.session.processes.console.access import ADDRESS


def listen(host: str, port: int = 0) -> socket.socket:
    """Listen at an address; no child inherits the socket unless it is handed down.

    Args:
        host: Address to bind.
        port: Port to bind; 0 takes any free one.

    Raises:
        ConfigError: not an address.
        EnvironmentProblem: the port is taken.
    """
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as error:
        raise ConfigError(
            f"the console's host {host!r} is not an address", remedy="give one, such as 127.0.0.1"
        ) from error

    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise EnvironmentProblem(
            f"the console cannot be served at {host}:{port}: {error.strerror}",
            remedy="give another port",
        ) from error


def open_for(settings: Settings) -> socket.socket:
    """Listen as the settings say; without a port, at the one of the run before, if it is free.

    Pages that are still open reach the new run at that port.

    Raises:
        ConfigError: the host is not an address.
        EnvironmentProblem: the port is taken.
    """
    if not settings.console_port and (before := _port(settings.work / ADDRESS)):
        try:
            return listen(settings.console_host, before)
        except EnvironmentProblem:
            pass  # taken by now
    return listen(settings.console_host, settings.console_port)


def handed_down(settings: Settings) -> socket.socket:
    """Return the socket that the supervisor has opened; a new one where it has opened none.

    Raises:
        EnvironmentProblem: the file descriptor is no listening socket.
    """
    if settings.console_fd is None:
        return open_for(settings)

    problem = EnvironmentProblem(
        "the console was handed no socket that listens", remedy="start the session again"
    )
    try:
        listening = socket.socket(fileno=settings.console_fd)
    except OSError as error:
        raise problem from error
    if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listening.detach()  # not ours to close
        raise problem
    listening.set_inheritable(False)
    return listening


def _port(path: Path) -> int | None:
    """Return the port of the run before; ``None`` where it is not known."""
    try:
        port: int | None = urlsplit(durable.read_json(path)["url"]).port
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return port
