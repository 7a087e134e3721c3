"""Origins of stored episodes: their sources, digests of these, and content before conversion.

``sources.json`` lies beside the data report and not in the episode store, whose bytes follow from
its episodes alone: the same episodes from another file are the same store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from zprl import durable
from zprl.data.episode import Episode
from zprl.data.episode_checks import Change, FunctionChange
from zprl.data.sources import Source
from zprl.errors import DataError
from zprl.strict_model import StrictModel

SOURCES = "sources.json"
FORMAT_VERSION = 1
MAX_BYTES = 64 * 2**20

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceOrigin(StrictModel):
    """One file or folder, and how it was read."""

    sha256: Digest
    reader: str
    obs_keys: tuple[str, ...] | None
    actions: str | None = None


class EpisodeOrigin(StrictModel):
    """One stored episode."""

    name: str
    source: str
    content: Digest = Field(description="Episode.content_hash of what is stored.")
    recorded_name: str = Field(description="Its name in the source; another one where it was cut.")
    recorded_content: Digest = Field(
        description="Episode.content_hash of what was read, before conversion."
    )


class EpisodeSources(StrictModel):
    """The content of ``sources.json``."""

    format_version: int = Field(FORMAT_VERSION, ge=FORMAT_VERSION, le=FORMAT_VERSION)
    sources: dict[str, SourceOrigin]
    episodes: tuple[EpisodeOrigin, ...]

    @model_validator(mode="after")
    def _named(self) -> Self:
        lost = {episode.source for episode in self.episodes} - set(self.sources)
        if lost:
            raise ValueError(f"no source is called {min(lost)}")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            DataError: it is missing, damaged or too large.
        """
        try:
            content = durable.read_json(path, limit=MAX_BYTES)
            known = cls.model_fields.keys()
            strange = len(content.keys() - known) if isinstance(content, dict) else 0
            if strange:  # checked before each of them becomes a mistake of its own
                raise DataError(
                    f"{path} has {strange} unknown keys",
                    remedy="run the ingest stage again (dvc repro ingest)",
                )
            return cls.model_validate(content)
        except ValidationError as error:
            first = f"{error.error_count()} mistakes"  # the text of all may be long
            raise DataError(
                f"{path} does not say where episodes come from: {first}",
                remedy="run the ingest stage again (dvc repro ingest)",
            ) from error


class SourceRecorder:
    """Records origins of episodes while they are read, before and after they are changed.

    Example::

        recorder = SourceRecorder()
        result = read_all(sources, limits=limits, changes=recorder.around(changes))
        recorder.write(folder / SOURCES, used)
    """

    def __init__(self) -> None:
        self._read: tuple[str, str] = ("", "")
        self._hashes: dict[tuple[Path, str], str] = {}
        self._seen: dict[str, list[EpisodeOrigin]] = {}
        self._sources: dict[str, Source] = {}

    def around(self, changes: Sequence[Change]) -> list[Change]:
        """Return the changes, with a recording one before the first and after the last."""
        if not changes:
            return [FunctionChange(self._only)]
        return [FunctionChange(self._before), *changes, FunctionChange(self._after)]

    def write(self, path: Path, used: Sequence[Episode]) -> None:
        """Write ``sources.json`` for the episodes that are used; equal input gives equal bytes.

        Each source is read once more, for its digest.
        """
        rows = [self._of(episode) for episode in used]
        document = EpisodeSources(
            sources={name: self._source(name) for name in sorted({row.source for row in rows})},
            episodes=tuple(rows),
        )
        durable.write_json(path, document.model_dump(mode="json"))

    def _before(self, source: Source, episode: Episode) -> Iterator[Episode]:
        self._read = (episode.name, episode.content_hash())
        self._hashes[source.path, episode.name] = self._read[1]
        yield episode

    def _after(self, source: Source, episode: Episode) -> Iterator[Episode]:
        self._note(source, episode, episode.content_hash())
        yield episode

    def _only(self, source: Source, episode: Episode) -> Iterator[Episode]:
        content = episode.content_hash()
        self._read = (episode.name, content)
        self._note(source, episode, content)
        yield episode

    def _note(self, source: Source, episode: Episode, content: str) -> None:
        """Remember the origin of an episode as it is stored."""
        path = source.path.as_posix()
        self._sources[path] = source
        # A change may have held the episode back while others were read.
        held = self._hashes.get((source.path, episode.name))
        name, recorded = self._read if held is None else (episode.name, held)
        row = EpisodeOrigin(
            name=episode.name,
            source=path,
            content=content,
            recorded_name=name,
            recorded_content=recorded,
        )
        self._seen.setdefault(episode.name, []).append(row)

    def _of(self, episode: Episode) -> EpisodeOrigin:
        rows = self._seen[episode.name]
        if len(rows) == 1:
            return rows[0]
        content = episode.content_hash()  # of equal names only one is used
        return next(row for row in rows if row.content == content)

    def _source(self, name: str) -> SourceOrigin:
        source = self._sources[name]
        return SourceOrigin(
            sha256=durable.digest(source.path),
            reader=source.reader.name,
            obs_keys=source.reader.obs_keys,
            actions=source.reader.actions_key,
        )
