"""Labels of the episodes: a file that only grows, one JSON object a line.

A line is never changed.  A correction is a later line that names the one it supersedes; the order
of the lines is the order in which the learner takes them in.  Each line holds a check over itself
and the line before it, so that a changed, lost or moved line is noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from zprl import durable
from zprl.errors import DataError
from zprl.recordings.append_file import Appender
from zprl.strict_model import StrictModel

MAX_BYTES = 8 * 2**20
"""Longest file: 50,000 labels."""
MAX_LINE = 8192
"""Longest line, in bytes: source and nonce have at most 200 letters each."""
CHECK_DIGITS = 16


class LabelEntry(StrictModel):
    """One line of the file."""

    seq: int = Field(ge=1, description="Number of the line, from 1.")
    episode: int = Field(ge=1)
    label: Literal["success", "failure", "discard"]
    source: str = Field(max_length=200, description="Who said it: keyboard, console, time-out.")
    nonce: str = Field(
        min_length=1, max_length=200, description="The same nonce twice is one input."
    )
    author: str | None = Field(
        None,
        max_length=60,
        description="Who gave it; lines of programs, and older ones, have no such key.",
    )
    supersedes: int | None = Field(None, ge=1, description="The line that this one corrects.")


class LabelFile:
    """The labels of a session: the one writer appends, readers see new lines as they come.

    Args:
        path: The file; it may be missing.
        write: Be the writer: finish or cut off a line that a killed writer left torn.

    Raises:
        DataError: a whole line is damaged.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self._lines: list[LabelEntry] = []
        self._end = 0
        self._check = ""
        self._appender: Appender | None = None
        self._read()
        if write:
            self._appender = Appender(path)
            self._mend()

    def in_order(self) -> list[LabelEntry]:
        """Return all lines, in the order in which they were given."""
        self._read()
        return list(self._lines)

    def current(self) -> dict[int, str]:
        """Return the present label of each labelled episode."""
        return {line.episode: line.label for line in self.in_order()}

    def of_nonce(self, nonce: str) -> LabelEntry | None:
        """Return the line that an input has become; ``None`` for none."""
        return next((line for line in self.in_order() if line.nonce == nonce), None)

    def append(
        self, episode: int, label: str, *, source: str, nonce: str, author: str | None = None
    ) -> LabelEntry:
        """Append a label and wait until it is on the disk.

        Returns:
            Its line; where the nonce came before, the line of that time.

        Raises:
            DataError: not a label.
            EnvironmentProblem: the disk is full or broken; nothing was appended.
        """
        if self._appender is None:
            raise RuntimeError("these labels were opened for reading")
        known = self.of_nonce(nonce)
        if known is not None:
            return known

        before = [line.seq for line in self._lines if line.episode == episode]
        fields = {
            "seq": len(self._lines) + 1,
            "episode": episode,
            "label": label,
            "source": source,
            "nonce": nonce,
            "author": author,
        }
        supersedes = before[-1] if before else None
        try:
            line = LabelEntry.model_validate(fields | {"supersedes": supersedes})
        except ValidationError as error:
            raise DataError(
                f"not a label: {fields}", remedy="labels are success, failure and discard"
            ) from error

        text, check = _encode(line, self._check)
        self._appender.append(text, sync=True)
        self._take(line, check, len(text))
        return line

    def close(self) -> None:
        """Close the file; harmless when closed."""
        if self._appender is not None:
            self._appender.close()

    @property
    def torn(self) -> bool:
        """True where the file ends in a part of a line: a killed writer's, never acknowledged."""
        self._read()
        return self.path.exists() and self.path.stat().st_size > self._end

    # -- reading -----------------------------------------------------------------------------------

    def _read(self) -> None:
        """Add the lines that are new since the last time."""
        tail = self._tail()
        for raw in tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True):
            line, check = self._decode(raw)
            self._take(line, check, len(raw))

    def _tail(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, 2) > MAX_BYTES:
                    raise DataError(
                        f"{self.path} is no file of labels: {file.tell()} bytes",
                        remedy="restore it from a copy",
                    )
                file.seek(self._end)
                return file.read()
        except FileNotFoundError:
            return b""

    def _decode(self, raw: bytes) -> tuple[LabelEntry, str]:
        """Return the next line and its check; raise where either does not fit."""
        number = len(self._lines) + 1
        try:
            fields = durable.parse_json(raw, "it", limit=MAX_LINE)
            check = fields.pop("check")
            line = LabelEntry.model_validate(fields)

            text, expected = _encode(line, self._check)
            fits = line.seq == number and (line.supersedes is None or line.supersedes < number)
            if text != raw or check != expected or not fits:
                raise ValueError("its check does not fit")
        except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path}, line {number} is damaged: {str(error).splitlines()[0]}",
                remedy="restore the file from a copy (`dvc checkout`)",
            ) from error
        return line, check

    def _take(self, line: LabelEntry, check: str, size: int) -> None:
        self._lines.append(line)
        self._check = check
        self._end += size

    def _mend(self) -> None:
        """Finish a torn last line that lacks nothing but its end; cut off any other."""
        tail = self._tail()
        if not tail or self._appender is None:
            return
        try:
            line, check = self._decode(tail + b"\n")
        except DataError:
            self._appender.cut(self._end)
            return
        self._appender.append(b"\n", sync=True)
        self._take(line, check, len(tail) + 1)


def _encode(line: LabelEntry, check_before: str) -> tuple[bytes, str]:
    """Return the text of a line, and its check over itself and the check before it."""
    fields = line.model_dump(exclude={"author"} if line.author is None else None)
    text = json.dumps(fields, sort_keys=True)
    check = hashlib.sha256(f"{check_before}{text}".encode()).hexdigest()[:CHECK_DIGITS]
    return (json.dumps(fields | {"check": check}, sort_keys=True) + "\n").encode(), check
