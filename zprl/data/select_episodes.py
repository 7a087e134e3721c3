"""Single episodes out of recordings of any size."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from zprl.data.episode import Episode
from zprl.data.sources import Source
from zprl.errors import DataError

GROWTH = (32, 512, 8192, None)
"""Items of a source that are read at first, and then, as long as an episode is not among them."""
NAMED = 10_000
"""Names remembered for a suggestion."""


def first_episodes(sources: Sequence[Source], most: int) -> list[Episode]:
    """The first ``most`` episodes, taken in turn from the sources."""
    share = -(-most // max(1, len(sources)))
    found: list[Episode] = []
    for source in sources:
        for number, episode in enumerate(_episodes(source, first=2 * share)):  # defects count, too
            if number == share or len(found) == most:
                break
            found.append(episode)
    return found


def pick(sources: Sequence[Source], wanted: Sequence[str]) -> list[Episode]:
    """The wanted episodes, in the order asked for; each is a name, the end of one (``demo_3``), or a position, counted from 0.

    Raises:
        DataError: one is not there; the nearest name is said.
    """
    found: dict[str, Episode] = {}
    names: list[str] = []
    position = 0
    for source in sources:
        here = position
        for first in GROWTH:
            position = here
            items = 0
            for episode in _episodes(source, first=first):
                items += 1
                for want in wanted:
                    if want not in found and _is(want, episode.name, position):
                        found[want] = episode
                if first == GROWTH[0] and len(names) < NAMED:
                    names.append(episode.name)
                position += 1
                if len(found) == len(set(wanted)):
                    return [found[want] for want in wanted]
            if first is None or items < first or not hasattr(source.reader, "first"):
                break
    missing = next(want for want in wanted if want not in found)
    near = difflib.get_close_matches(
        missing, [*names, *(name.split("/")[-1] for name in names)], n=1
    )
    hint = (
        f"did you mean '{near[0]}'?"
        if near
        else f"there are {', '.join(names[:5]) or 'none'}{', ...' if len(names) > 5 else ''}"
    )
    raise DataError(f"no episode '{missing}' among {position}", remedy=hint)


def _is(want: str, name: str, position: int) -> bool:
    return name == want or name.endswith(f"/{want}") or (want.isdecimal() and int(want) == position)


def _episodes(source: Source, *, first: int | None) -> Iterator[Episode]:
    if hasattr(source.reader, "first"):
        source.reader.first = first
    return (item for item in source.reader.read(source.path) if isinstance(item, Episode))
