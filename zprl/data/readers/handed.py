"""What one process has read, for another: arrays in a file without a name, findings and names as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.spool import Spool
from zprl.errors import EnvironmentProblem


def hand_over(items: Iterable[Episode | Finding], file: BinaryIO) -> Any:
    """Write episodes to ``file``, which is empty; the rest of what :class:`Handed` needs is the JSON value returned.

    A damaged part (D01) puts the whole file in doubt: then its sentence is returned alone.
    """
    spool, order = Spool(file=file), []
    try:
        for item in items:
            if isinstance(item, Finding):
                if item.code == "D01":
                    return item.message
                order.append(item.as_json())
            else:
                order.append(None)
                spool.append(item)
        spool.flush()
    except EnvironmentProblem as problem:
        return {"problem": problem.message, "remedy": problem.remedy}
    return {"items": order, "index": spool.index}


class Handed:
    """Episodes and findings that another process has read; the episodes' arrays are mapped, not in memory."""

    def __init__(self, file: BinaryIO, answer: dict[str, Any]) -> None:
        if "problem" in answer:
            raise EnvironmentProblem(answer["problem"], remedy=answer["remedy"])
        self._spool = Spool(file=file, index=answer["index"])
        self._order = answer["items"]

    def items(self, path: Path) -> Iterator[Episode | Finding]:
        """In the order they were read in; findings name the source ``path``."""
        episodes = iter(self._spool)
        for finding in self._order:
            yield next(episodes) if finding is None else replace(Finding(**finding), file=path.as_posix())


def items(found: Handed | str, path: Path) -> Iterator[Episode | Finding]:
    """What was handed over, or the finding that refuses all of the source ``path`` (D01) with the sentence ``found``."""
    if isinstance(found, str):
        yield Finding("D01", "error", path.as_posix(), found, "copy it again from its source, or run `dvc pull`")
    else:
        yield from found.items(path)
