"""Several sources read at once, each in a process of its own; what comes out is the same for any number of processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

from zprl.data.checking import safe_source
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.handed import Handed, items
from zprl.data.readers.probe import Probe
from zprl.data.sources import Reader, Source


def read_ahead(sources: Sequence[Source], workers: int) -> Iterator[Source]:
    """The same sources in the same order; with more than one worker, each is being read in another process when it comes.

    Readers of files that may hang keep their limits of time and memory there; other readers have none, as in this process.
    """
    if workers == 1 or len(sources) < 2:
        yield from sources
        return
    probes = [{guarded: Probe(guarded=guarded) for guarded in (True, False)} for _ in range(workers)]
    idle: SimpleQueue[dict[bool, Probe]] = SimpleQueue()
    for pair in probes:
        idle.put(pair)

    def read(source: Source) -> Handed | str:
        pair = idle.get()
        try:
            return pair[hasattr(source.reader, "read_here")].read_as(source.reader, source.path)
        finally:
            idle.put(pair)

    def begin(source: Source) -> Source:
        may = safe_source(source) and hasattr(source.reader, "obs_keys")
        return Source(source.path, cast("Reader", _Begun(source.reader, pool.submit(read, source)))) if may else source

    pool = ThreadPoolExecutor(workers)  # each thread only waits for its process
    try:
        rest = iter(sources)
        begun = deque(begin(source) for source in islice(rest, workers + 1))
        while begun:
            yield begun.popleft()
            begun.extend(begin(source) for source in islice(rest, 1))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for pair in probes:
            for probe in pair.values():
                probe.close()
        pool.shutdown()


class _Begun:
    """A reader whose source is being read already."""

    def __init__(self, reader: Reader, found: Future[Handed | str]) -> None:
        self._reader, self._found = reader, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, path: Path) -> Iterator[Episode | Finding]:
        yield from items(self._found.result(), path)
