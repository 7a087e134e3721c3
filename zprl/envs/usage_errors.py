"""Errors of calls at the wrong time, alike in every environment."""

from __future__ import annotations

from zprl.errors import EnvironmentProblem


def closed_error() -> EnvironmentProblem:
    """Return the error of an environment that is used after ``close``."""
    return EnvironmentProblem(
        "the environment is closed", remedy="make a new one with zprl.envs.make"
    )


def reset_error(call: str = "step()") -> EnvironmentProblem:
    """Return the error of a call before the first reset."""
    return EnvironmentProblem(f"{call} before the first reset()", remedy="call reset(seed) first")
