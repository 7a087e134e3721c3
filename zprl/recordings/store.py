"""A session on disk.

::

    session/
        session.json                         the header, digests of what stands beside it
        task.yaml  limits.yaml  start/       what it runs under, and what it starts with
        episodes/000001/                     committed episodes (:mod:`zprl.recordings.episode`)
        labels.jsonl                         their labels (:mod:`zprl.recordings.labels`)

There is one writer at a time, the recorder; readers may come and go meanwhile and see each episode
once it is complete.  No file is an index: the folders themselves are the list.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field, JsonValue, ValidationError

from zprl import durable
from zprl.config import Real
from zprl.errors import DataError
from zprl.recordings import checksummed_json
from zprl.recordings.append_file import lease, remove
from zprl.recordings.episode import RecordedEpisode
from zprl.recordings.episode_record import EpisodeFacts, EpisodeRecord, folder_path, open_path
from zprl.recordings.episode_writer import EpisodeWriter
from zprl.recordings.labels import LabelEntry, LabelFile
from zprl.strict_model import StrictModel

__all__ = [
    "EpisodeFacts",
    "EpisodeRecord",
    "EpisodeWriter",
    "LabelEntry",
    "RecordedEpisode",
    "SessionHeader",
    "SessionStore",
]

FORMAT_VERSION = 1
MAX_NUMBER = 999_999
HEADER, TASK, LIMITS, LABELS = "session.json", "task.yaml", "limits.yaml", "labels.jsonl"
START, EPISODES, MCAP = "start", "episodes", "mcap"
OWNER_ONLY = 0o700
"""Rights of a session's folder: recordings may show people."""
SESSION_INPUTS = (TASK, LIMITS, START)
"""Parts whose digests the header's file holds."""
COMMITTED = re.compile(r"\d{6}")
OPEN = re.compile(r"open-(\d{6})" + re.escape(durable.PARTIAL))


class SessionHeader(StrictModel):
    """Description of a session, fixed when it is made."""

    id: str = Field(pattern=r"^[\w][\w.-]{0,80}$")
    task: str = Field(min_length=1, max_length=200, description="Name of the task.")
    seed: int = Field(ge=0)
    rate_hz: float = Field(gt=0, le=1000, description="Control steps per second.")
    chunk_steps: int = Field(ge=1, description="Actions per decision.")
    config: Real = Field(description="The section `finetune_real`: space, plan and learner.")
    world: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Hardware, or the simulated robot with its physics.",
    )

    @property
    def space(self) -> str:
        """Place at which the residual enters the frozen policy."""
        return self.config.space


class SessionStore:
    """A session's folder, made by :meth:`create` or :meth:`open`.

    A writer is a context manager, or calls :meth:`close`.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        self.header, self.digests = read_header(path)
        check_files(path, self.digests)
        self._lease = lease(path) if write else -1
        self._episodes = path / EPISODES
        self.write = write
        if write:
            self._clean()
        self.labels = LabelFile(path / LABELS, write=write)

    @classmethod
    def create(
        cls,
        path: Path | str,
        header: SessionHeader,
        *,
        task_yaml: str,
        limits_yaml: str,
        start: Path | str,
    ) -> Self:
        """Begin a session and open it for writing.

        Args:
            path: The session's folder; it must not exist.
            header: Its description.
            task_yaml: Text of the task file.
            limits_yaml: Text of the limits file.
            start: Folder that is copied as ``start/`` (see :func:`zprl.session.setup.gather`).

        Raises:
            DataError: the folder exists, or ``start`` does not.
        """
        path = Path(path)
        start = Path(start)
        if path.exists():
            remedy = "open it to go on with it, or give another name"
            raise DataError(f"{path} exists already", remedy=remedy)
        if not start.is_dir():
            raise DataError(
                f"{start} does not exist", remedy="gather what the session starts with first"
            )

        def fill(folder: Path) -> None:
            folder.chmod(OWNER_ONLY)
            durable.write_text(folder / TASK, task_yaml)
            durable.write_text(folder / LIMITS, limits_yaml)
            unfinished = shutil.ignore_patterns(f"*{durable.PARTIAL}")
            shutil.copytree(start, folder / START, ignore=unfinished)
            durable.write_bytes(folder / LABELS, b"")
            (folder / EPISODES).mkdir()

            # Last, because it holds the digests of the others.
            document = {
                "format_version": FORMAT_VERSION,
                "header": header.model_dump(mode="json"),
                "digests": {name: durable.digest(folder / name) for name in SESSION_INPUTS},
            }
            durable.write_json(folder / HEADER, checksummed_json.write(document))

        durable.write_dir(path, fill)
        return cls(path, write=True)

    @classmethod
    def open(cls, path: Path | str, *, write: bool = False) -> Self:
        """Open a session.

        Args:
            path: Its folder.
            write: Be the one writer, and tidy up after a killed one.  A reader changes nothing on
                the disk.

        Raises:
            DataError: it is not there or damaged.
            EnvironmentProblem: another process writes it.
        """
        return cls(Path(path), write=write)

    def close(self) -> None:
        """Give the writer's lease back; harmless for a reader."""
        self.labels.close()
        if self._lease >= 0:
            os.close(self._lease)
            self._lease = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- episodes ----------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """Return the numbers of the committed episodes, ascending."""
        return sorted(
            int(p.name) for p in self._entries() if COMMITTED.fullmatch(p.name) and p.is_dir()
        )

    def __contains__(self, number: int) -> bool:
        return folder_path(self._episodes, number).is_dir()

    def __len__(self) -> int:
        return len(self.numbers())

    def episode(self, number: int) -> RecordedEpisode:
        """Return a committed episode.

        Raises:
            DataError: there is no such episode, or it is damaged.
        """
        return RecordedEpisode.of(self._episodes, number)

    def episodes(self) -> Iterator[RecordedEpisode]:
        """Yield all committed episodes, in order; tensors are read when they are asked for."""
        for number in self.numbers():
            yield self.episode(number)

    def open_numbers(self) -> list[int]:
        """Return the numbers of episodes that were neither committed nor discarded."""
        matches = (OPEN.fullmatch(p.name) for p in self._entries())
        return sorted(int(match.group(1)) for match in matches if match)

    def next_number(self) -> int:
        """Return one more than the highest number in use."""
        return max([0, *self.numbers(), *self.open_numbers()]) + 1

    def open_episode(self, number: int, *, limits_digest: str | None = None) -> EpisodeWriter:
        """Begin an episode.

        Args:
            number: Number of the episode.
            limits_digest: SHA-256 of the limits that the driver runs with; by default of the
                session's file.

        Raises:
            DataError: the number is in use.
        """
        self._writer_only()
        in_use = number in self or number in self.open_numbers()
        if in_use or not 1 <= number <= MAX_NUMBER:
            raise DataError(
                f"{self.path}: episode {number} cannot be begun: the number is in use",
                remedy="take next_number()",
            )
        return EpisodeWriter(
            self._episodes, number, limits_digest=limits_digest or self.digests[LIMITS]
        )

    def resume_episode(self, number: int) -> EpisodeWriter:
        """Go on with an episode whose writer was killed: every row that it had appended is there.

        Raises:
            DataError: there is no such open episode.
        """
        self._writer_only()
        if number not in self.open_numbers():
            raise DataError(
                f"{self.path}: episode {number} is not open",
                remedy="open_numbers() names those that are",
            )
        return EpisodeWriter(
            self._episodes, number, limits_digest=self.digests[LIMITS], resume=True
        )

    def discard_open(self, number: int) -> None:
        """Throw away an open episode; harmless when there is none."""
        self._writer_only()
        remove(open_path(self._episodes, number))

    # -- labels ------------------------------------------------------------------------------------

    def label(
        self, episode: int, label: str, *, source: str, nonce: str, author: str | None = None
    ) -> LabelEntry:
        """Append a label for a committed episode; a later label corrects an earlier one.

        Returns:
            Its line; where the nonce came before, the line of that time.

        Raises:
            DataError: there is no such episode, or no such label.
            EnvironmentProblem: the disk is full or broken; nothing was appended.
        """
        self._writer_only()
        if episode not in self:
            raise DataError(
                f"{self.path}: there is no episode {episode} to label", remedy="commit it first"
            )
        return self.labels.append(episode, label, source=source, nonce=nonce, author=author)

    # -- tidying up --------------------------------------------------------------------------------

    def _entries(self) -> list[Path]:
        # Version control keeps no empty folder.
        return list(self._episodes.iterdir()) if self._episodes.is_dir() else []

    def _clean(self) -> None:
        """Remove half-written folders and committed rows; keep the rows of open episodes."""
        for path in self._entries():
            match = OPEN.fullmatch(path.name)
            if match and int(match.group(1)) in self:
                remove(path)
            elif not match and path.name.endswith(durable.PARTIAL):
                shutil.rmtree(path, ignore_errors=True)
        durable.sweep(self.path)

    def _writer_only(self) -> None:
        if not self.write:
            raise RuntimeError("this session was opened for reading")


def check_files(path: Path, digests: Mapping[str, str]) -> None:
    """Refuse a session whose task or limits, by which an arm moves, changed since it began.

    Args:
        path: The session's folder.
        digests: Digests by name, as the header's file has them.

    Raises:
        DataError: one of them has changed.
    """
    for name in (TASK, LIMITS):
        if durable.digest(path / name) != digests[name]:
            raise DataError(
                f"{path / name} is not the one the session began with",
                remedy="restore it, or begin a new session",
            )


def read_header(path: Path) -> tuple[SessionHeader, dict[str, str]]:
    """Read the header of a session, and the digests of the files beside it.

    Raises:
        DataError: it is not there, damaged, or of another format.
    """
    if not (path / HEADER).is_file():
        raise DataError(
            f"{path} is not a session: {HEADER} is missing", remedy="give the folder of a session"
        )
    document: dict[str, Any] = checksummed_json.read(path / HEADER)
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}, this zprl reads {FORMAT_VERSION}",
            remedy="update zprl",
        )
    try:
        digests = {name: str(document["digests"][name]) for name in SESSION_INPUTS}
        return SessionHeader.model_validate(document["header"]), digests
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"{path / HEADER} does not describe a session: {error}", remedy="restore it from a copy"
        ) from error
