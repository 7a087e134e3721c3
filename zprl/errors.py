"""Every failure a user can meet: one sentence, one remedy, one exit code.

Exit codes are part of the public contract: 0 ok, 1 bug, 2 usage or configuration, 3 bad data, 4
environment, 5 interrupted and resumable, 6 gate refused.  A pipeline can therefore tell "run me
again" from "fix your data".
"""

from __future__ import annotations

from typing import ClassVar


class ZprlError(Exception):
    """Base of all expected failures.

    Args:
        message: One sentence that says what is wrong, naming the file, key or episode.
        remedy: One sentence that says what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  remedy: {self.remedy}"


class ConfigError(ZprlError):
    """A command line or ``params.yaml`` that cannot be used."""

    exit_code = 2


class DataError(ZprlError):
    """Demonstrations, bundles or other files that are broken or do not fit."""

    exit_code = 3


class EnvironmentProblem(ZprlError):
    """Something this machine lacks: an extra, a device, disk space, a server."""

    exit_code = 4


class Interrupted(ZprlError):
    """Stopped on request; running the same command again continues."""

    exit_code = 5

    def __init__(
        self, message: str, *, remedy: str = "run the same command again to continue"
    ) -> None:
        super().__init__(message, remedy=remedy)


class GateRefused(ZprlError):
    """The candidate policy did not earn its promotion."""

    exit_code = 6
