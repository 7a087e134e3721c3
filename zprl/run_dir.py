"""The folder in which a stage keeps what it needs to continue after a kill.

It is never a DVC output (DVC deletes outputs before a stage starts).  Its name is a hash of
everything the result depends on, so a changed number or input starts afresh and an unchanged one
continues::

    runs/<stage>/<key>/
        KEY.json          what the key was made of
        LEASE             locked while a process works here
        NOTES.json        small facts that are not part of the result: tracker run id, seconds spent
        gen-00000120/     one generation: tensors (safetensors), state.json,
                          COMMIT (sha-256 of each file)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl import durable, safe_names
from zprl.errors import DataError

if TYPE_CHECKING:
    import torch

KEEP = 2
"""Generations that are kept: the older one serves where a kill has damaged the newest."""
GENERATION, STATE = "gen-", "state.json"
MAX_STATE = 64 * 2**20
"""Longest state of a generation, in bytes: it may hold one row per judged episode."""


@dataclass(frozen=True)
class Generation:
    """One committed state: ``step`` it was taken at, ``state`` (JSON) and groups of tensors."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


class RunDir:
    """Resume state of one stage; a context manager that holds the lease in its ``with`` block.

    Args:
        root: Folder of all runs, usually ``runs``.
        stage: Name of the stage.
        key: JSON value of everything the result depends on (input digests, parameters, code
            digest).
    """

    def __init__(self, root: Path | str, stage: str, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.key = key
        self.path = Path(root) / stage / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._lease: int | None = None

    def __enter__(self) -> RunDir:
        durable.private_folder(self.path)
        self._lease = durable.lease(self.path / "LEASE")
        durable.sweep(self.path)
        durable.write_json(self.path / "KEY.json", self.key)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    # -- notes -------------------------------------------------------------------------------------

    def notes(self) -> dict[str, Any]:
        """Return facts about the run that must not enter its result."""
        path = self.path / "NOTES.json"
        return durable.read_json(path) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Merge ``facts`` into the notes."""
        durable.write_json(self.path / "NOTES.json", {**self.notes(), **facts})

    # -- generations -------------------------------------------------------------------------------

    def save(
        self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> None:
        """Commit a generation and drop all but the newest two."""

        def fill(folder: Path) -> None:
            for group, values in tensors.items():
                durable.write_tensors(folder / f"{group}.safetensors", values)
            durable.write_json(folder / STATE, dict(state))
            sums = {file.name: durable.digest(file) for file in folder.iterdir()}
            durable.write_json(folder / "COMMIT", sums)

        durable.write_dir(self.path / f"{GENERATION}{step:08d}", fill)
        for old in self._folders()[KEEP:]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Generation | None:
        """Return the newest generation whose files verify, or ``None``."""
        for folder in self._folders():
            try:
                sums = durable.read_json(folder / "COMMIT")
                if not all(map(safe_names.plain, sums)):
                    continue
                if any(durable.digest(folder / name) != value for name, value in sums.items()):
                    continue

                step = int(folder.name.removeprefix(GENERATION))
                tensors = {
                    name.removesuffix(".safetensors"): durable.read_tensors(folder / name)
                    for name in sums
                    if name != STATE
                }
                return Generation(step, durable.read_json(folder / STATE, limit=MAX_STATE), tensors)
            except (AttributeError, DataError, TypeError, ValueError):
                continue
        return None

    def _folders(self) -> list[Path]:
        """Return the folders of generations, newest first."""
        folders = self.path.glob(f"{GENERATION}*")
        return sorted((p for p in folders if not p.name.endswith(durable.PARTIAL)), reverse=True)
