"""What one process has read, for another: findings and names as JSON, arrays in a file without a name.

Arrays that lie in the source just as they are wanted stay there: their places are told.  In neither
case do the source's bytes meet a library in the second process, which reads runs of plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zprl import durable
from zprl.data.episode import Episode
from zprl.data.episode_buffer import PARTS
from zprl.data.findings import Finding
from zprl.data.readers import stored
from zprl.errors import EnvironmentProblem

SOURCE, SCRATCH = 0, 1
"""In which of the two files an array lies."""


def hand_over(items: Iterable[Episode | Finding], file: BinaryIO, source: Path) -> Any:
    """Write episodes to ``file``, which is empty; the rest of what :class:`Handed` needs is the JSON value returned.

    A damaged part (D01) puts the whole source in doubt: then its sentence is returned alone.
    """
    order: list[Any] = []
    size = 0
    try:
        with durable.explained(source), source.open("rb") as opened:
            identity = stored.identity(opened.fileno())
        for item in items:
            if isinstance(item, Finding):
                if item.code == "D01":
                    return item.message
                order.append(item.as_json())
                continue
            places = []
            for value in (*item.obs.values(), *(getattr(item, part) for part in PARTS)):
                where, offset = SOURCE, stored.place(value)
                if offset is None:
                    where, offset = SCRATCH, size
                    with durable.explained(Path(str(file.name))):
                        size += file.write(np.ascontiguousarray(value).data)
                places.append((value.dtype.str, value.shape, where, offset))
            order.append(
                [item.name, bool(item.success), item.quality, item.rate_hz, list(item.obs), places]
            )
        with durable.explained(Path(str(file.name))):
            file.flush()
    except EnvironmentProblem as problem:
        return {"problem": problem.message, "remedy": problem.remedy}
    return {"items": order, "identity": identity}


class Handed:
    """Episodes and findings that another process has read; an episode's arrays are read when its turn comes."""

    def __init__(self, file: BinaryIO, answer: dict[str, Any]) -> None:
        if "problem" in answer:
            raise EnvironmentProblem(answer["problem"], remedy=answer["remedy"])
        self._file, self._items, self._identity = file, answer["items"], tuple(answer["identity"])

    def items(self, path: Path) -> Iterator[Episode | Finding]:
        """In the order they were read in; findings name the source ``path``, and the last is D01 if it has changed meanwhile."""
        try:
            with path.open("rb") as source:
                numbers = {SOURCE: source.fileno(), SCRATCH: self._file.fileno()}
                if stored.identity(source.fileno()) != self._identity:
                    raise EOFError("it changed while it was read")
                for item in self._items:
                    if isinstance(item, dict):
                        yield replace(Finding(**item), file=path.as_posix())
                        continue
                    name, success, quality, rate_hz, keys, places = item
                    arrays = [
                        stored.read(numbers[where], dtype, shape, offset)
                        for dtype, shape, where, offset in places
                    ]
                    obs, parts = (
                        dict(zip(keys, arrays, strict=False)),
                        dict(zip(PARTS, arrays[len(keys) :], strict=True)),
                    )
                    yield Episode(
                        name=name,
                        obs=obs,
                        **parts,
                        success=success,
                        quality=quality,
                        rate_hz=rate_hz,
                    )
        except (OSError, EOFError) as error:
            yield refusal(path, str(error))


def refusal(path: Path, sentence: str) -> Finding:
    """The finding that refuses all of a source (D01)."""
    return Finding(
        "D01",
        "error",
        path.as_posix(),
        sentence,
        "copy it again from its source, or run `dvc pull`",
    )


def items(found: Handed | str, path: Path) -> Iterator[Episode | Finding]:
    """What was handed over, or the finding that refuses all of the source ``path`` with the sentence ``found``."""
    if isinstance(found, str):
        yield refusal(path, found)
    else:
        yield from found.items(path)
