"""Suggest the name that was probably meant in place of an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""Least similarity of a suggestion, as :func:`difflib.get_close_matches` defines it."""


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    lead: str = "",
    prefix: str = "",
    cutoff: float = CUTOFF,
) -> str:
    """Return a question that names the nearest known name; empty where none is near.

    Args:
        name: The unknown name.
        known: Names that exist.
        lead: Text before the question, such as ``"; "`` after a sentence.
        prefix: Text before the suggested name, such as the family that it belongs to.
        cutoff: Least similarity, in [0, 1].

    >>> did_you_mean("sed", ["seed", "steps"], lead="; ")
    "; did you mean 'seed'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"{lead}did you mean '{prefix}{near[0]}'?" if near else ""
