"""Print for people: text from strangers' files reaches a terminal as letters alone.

Everything that the command line prints goes through here, tables and errors too.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zprl.errors import ZprlError

if TYPE_CHECKING:
    from rich.console import Console

INDENT = "\n    "


def plain(text: str) -> str:
    """Return a text without control, format and unassigned characters.

    Each becomes a space, ends of lines too.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


def block(text: str) -> str:
    """Return :func:`plain` lines, indented after the first.

    So none of them looks like a line of our own.
    """
    return INDENT.join(plain(line) for line in text.splitlines())


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line at once, :func:`plain`."""
    print(plain(line), file=sys.stderr if err else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """Print indented JSON, in which control characters are escaped."""
    print(json.dumps(value, indent=2), flush=True)


def say_error(error: BaseException, *, trace: bool = False) -> None:
    """Print what went wrong to standard error: the kind, one sentence and what to do about it.

    Args:
        error: An expected failure, or a bug.
        trace: Print the traceback first.
    """
    if trace:
        for line in "".join(traceback.format_exception(error)).splitlines():
            say(f"| {line}", err=True)

    kind = type(error).__name__
    if isinstance(error, ZprlError):
        message = error.message
        remedy = error.remedy
    else:
        kind = f"internal error: {kind}"
        message = str(error)
        remedy = "run `zprl -v ...` for the traceback and report it"

    print(f"{kind}: {block(message)}", file=sys.stderr, flush=True)
    if remedy is not None:
        print(f"  remedy: {block(remedy)}", file=sys.stderr, flush=True)


def console(**options: Any) -> Console:
    """Return a console of ``rich`` whose every text is :func:`plain`; colours and bars stay.

    Args:
        **options: Of :class:`rich.console.Console`.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(self, *arguments: Any, **named: Any) -> Iterable[Segment]:
            for segment in super().render(*arguments, **named):
                if segment.control:
                    yield segment
                else:
                    lines = map(plain, segment.text.split("\n"))
                    yield Segment("\n".join(lines), segment.style)

    return PlainConsole(**options)
