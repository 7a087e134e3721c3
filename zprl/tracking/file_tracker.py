"""Tracking to a file of JSON lines, for a stage in a container that lacks MLflow.

:class:`TrackedReplay` sends the lines to a tracker of the host.
``ZPRL_TRACKING=file:PATH`` chooses it.  A line is ``{"points": [[name, value, step, milliseconds],
...]}``, ``{"path": ..., "folder": ...}`` or ``{"tags": {...}}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl import durable
from zprl.errors import DataError

if TYPE_CHECKING:
    from zprl.tracking import Point, Tracker

PREFIX = "file:"
LONGEST = 1 << 24
"""Bytes read of a file at once; a longer line is left alone."""


class FileRun:
    """Writes one run; implements :class:`zprl.tracking.Backend`."""

    def __init__(self, path: Path) -> None:
        self.run_id = f"{PREFIX}{path}"
        self._path = path

    def last_steps(self) -> dict[str, int]:
        """Return nothing: the reader of the file knows what came before."""
        return {}

    def send(self, points: list[Point]) -> None:
        """Write a batch of metrics."""
        self._write({"points": points})

    def send_path(self, path: Path, folder: str) -> None:
        """Write the path of a file or folder."""
        self._write({"path": str(Path(path).absolute()), "folder": folder})

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Write tags by name."""
        self._write({"tags": dict(tags)})

    def end(self, status: str) -> None:
        """Do nothing: the process's exit code gives the status."""

    def _write(self, record: Mapping[str, Any]) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(record) + "\n")


class TrackedReplay:
    """Sends the lines of a growing file to a tracker.

    Args:
        path: The file; of the paths it names, only those below the working folder are attached.
        tracker: The receiving tracker.
    """

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self._path = path
        self._tracker = tracker
        self._read = 0

    def forward(self) -> int:
        """Send the new lines and return their number; lines that cannot be read are passed over."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read)
                text = file.read(LONGEST)
        except OSError:
            return 0

        whole = text[: text.rfind(b"\n") + 1]  # the last line may be on its way
        self._read += len(whole)
        lines = whole.splitlines()
        for line in lines:
            try:
                self._send(durable.parse_json(line, "a line", limit=LONGEST, allow_nan=True))
            except (DataError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
                continue
        return len(lines)

    def _send(self, record: Mapping[str, Any]) -> None:
        for name, value, step, _ in record.get("points", ()):
            self._tracker.log(int(step), **{str(name): float(value)})
        if "tags" in record:
            self._tracker.tag(**{str(name): str(text) for name, text in record["tags"].items()})
        if "path" in record:
            path = Path(record["path"]).resolve()
            if path.is_relative_to(Path.cwd().resolve()):
                self._tracker.log_file(path, str(record["folder"]))
