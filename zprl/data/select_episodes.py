"""Selection of single episodes out of recordings of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zprl.data.episode import Episode
from zprl.data.sources import Source
from zprl.errors import DataError
from zprl.suggestions import did_you_mean

GROWTH = (32, 512, 8192, None)
"""Items of a source that are read at first, and then, as long as an episode is not among them."""
NAMED = 10_000
"""Names remembered for a suggestion."""
SHOWN = 5


def first_episodes(sources: Sequence[Source], most: int) -> list[Episode]:
    """Return the first ``most`` episodes, an equal share of each source."""
    share = -(-most // max(1, len(sources)))
    chosen: list[Episode] = []
    for source in sources:
        for number, episode in enumerate(_episodes(source, first=2 * share)):  # defects count, too
            if number == share or len(chosen) == most:
                break
            chosen.append(episode)
    return chosen


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
    position = 0
    for source in sources:
        here = position
        # Most episodes asked for are among the first, and reading a large source takes long.
        for first in GROWTH:
            position = here
            items = 0
            for episode in _episodes(source, first=first):
                items += 1
                for want in wanted:
                    if want not in chosen and _is(want, episode.name, position):
                        chosen[want] = episode
                if first == GROWTH[0] and len(names) < NAMED:
                    names.append(episode.name)
                position += 1
                if len(chosen) == len(set(wanted)):
                    return [chosen[want] for want in wanted]
            if first is None or items < first:
                break

    missing = next(want for want in wanted if want not in chosen)
    raise DataError(f"no episode '{missing}' among {position}", remedy=_hint(missing, names))


def _hint(missing: str, names: Sequence[str]) -> str:
    """Return the nearest of the names, else the first ones."""
    ends = [name.split("/")[-1] for name in names]
    if question := did_you_mean(missing, [*names, *ends]):
        return question
    more = ", ..." if len(names) > SHOWN else ""
    return f"there are {', '.join(names[:SHOWN]) or 'none'}{more}"


def _is(want: str, name: str, position: int) -> bool:
    return name == want or name.endswith(f"/{want}") or (want.isdecimal() and int(want) == position)


def _episodes(source: Source, *, first: int | None) -> Iterator[Episode]:
    source.reader.first = first
    return (item for item in source.reader.read(source.path) if isinstance(item, Episode))
