"""Records of lineage: runs with the digests of their inputs and outputs, versions, sources.

Two things are the same when their SHA-256 is (:func:`zprl.durable.digest`), wherever they lie; so a
base policy that was copied into a robot session, or downloaded from the registry, is still the one
that a run made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zprl.data.episode_sources import EpisodeSources

FINISHED = "FINISHED"
HERE = "here"
"""Status of a record made from files that lie here, without a run in the tracking store."""


@dataclass(frozen=True)
class RunRecord:
    """One run of one stage.

    Attributes:
        id: Of the tracking store; for a record of what lies here, its path.
        stage: Name of the stage.
        status: The tracking store's word, e.g. ``FINISHED``; :data:`HERE`.
        started: ISO time, empty where it is not known.
        commit: Of the code, ``-dirty`` where it had changes; empty where it is not known.
        inputs: SHA-256 by path of what was read.
        outputs: SHA-256 by path of what was made.
        params: Flattened parameters.
        note: What else there is to say, e.g. what the gate decided.
    """

    id: str
    stage: str
    status: str = FINISHED
    started: str = ""
    commit: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class VersionRecord:
    """A version of a registered model.

    Attributes:
        model: Its name.
        number: Of the version.
        aliases: E.g. ``champion``.
        run_id: Run that registered it.
        inputs: SHA-256 by path of what it was made and judged from.
    """

    model: str
    number: str
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model} version {self.number}" + (
            f" ({', '.join(self.aliases)})" if self.aliases else ""
        )


def _no_origins(run: RunRecord) -> EpisodeSources | None:
    return None


@dataclass(frozen=True)
class Records:
    """All known runs and versions.

    Attributes:
        store: Where the runs come from, as a phrase.
        runs: Tracked ones and those made from what lies here.
        versions: Registered versions.
        origins: Where the episodes of an ingest run come from; ``None`` where it did not say.
    """

    store: str
    runs: tuple[RunRecord, ...] = ()
    versions: tuple[VersionRecord, ...] = ()
    origins: Callable[[RunRecord], EpisodeSources | None] = _no_origins
