"""Selection of single episodes out of recordings of any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from zprl.data.episode import Episode
from zprl.data.sources import Source
from zprl.errors import DataError
from zprl.suggestions import did_you_mean

GROWTH = (32, 512, 8192, None)
"""Items (episodes and findings) of a source that are read, until the wanted episodes are there.

Most that are asked for are among the first, and reading a large source takes long.
"""
NAMED = 10_000
"""Names remembered for a suggestion."""
SHOWN = 5


def first_episodes(sources: Sequence[Source], most: int) -> list[Episode]:
    """Return the first ``most`` episodes, an equal share of each source."""
    share = -(-most // max(1, len(sources)))
    chosen: list[Episode] = []
    for source in sources:
        chosen += itertools.islice(_episodes(source, at_first=2 * share), share)
    return chosen[:most]


def pick(sources: Sequence[Source], wanted: Sequence[str]) -> list[Episode]:
    """Return the wanted episodes, in the order asked for.

    Args:
        sources: Sources to look into.
        wanted: For each episode its name, the end of one (``demo_3``), or its position, from 0.

    Raises:
        DataError: one is not there; the remedy names the nearest.
    """
    chosen: dict[str, Episode] = {}
    names: list[str] = []
    count = 0
    for episode in itertools.chain.from_iterable(map(_episodes, sources)):
        for want in wanted:
            if want not in chosen and _is(want, episode.name, count):
                chosen[want] = episode
        if len(chosen) == len(set(wanted)):
            return [chosen[want] for want in wanted]

        count += 1
        if len(names) < NAMED:
            names.append(episode.name)

    missing = next(want for want in wanted if want not in chosen)
    raise DataError(f"no episode '{missing}' among {count}", remedy=_hint(missing, names))


def _hint(missing: str, names: Sequence[str]) -> str:
    """Return the nearest of the names, else the first ones."""
    ends = [name.split("/")[-1] for name in names]
    if question := did_you_mean(missing, [*names, *ends]):
        return question
    more = ", ..." if len(names) > SHOWN else ""
    return f"there are {', '.join(names[:SHOWN]) or 'none'}{more}"


def _is(want: str, name: str, position: int) -> bool:
    return name == want or name.endswith(f"/{want}") or (want.isdecimal() and int(want) == position)


def _episodes(source: Source, at_first: int | None = GROWTH[0]) -> Iterator[Episode]:
    """Yield each episode of a source once, reading the source again and farther on demand."""
    known = 0
    for first in (at_first, *GROWTH[1:]):
        source.reader.first = first
        items = 0
        for items, item in enumerate(source.reader.read(source.path), start=1):
            if items > known and isinstance(item, Episode):
                yield item
        if first is None or items < first:
            return
        known = max(known, items)
