"""Judge one policy or take the verdict an interrupted attempt already reached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation.result import Evaluation


def kept(folder: Path, make: Callable[[], Evaluation]) -> tuple[Evaluation, bool]:
    """Return the evaluation in ``folder`` and True, or make it, keep it there, and return it and False.

    Args:
        folder: Below a stage's run folder, whose name already stands for policy, task, seed and
            code.
        make: Runs the evaluation.
    """
    if folder.exists():
        try:
            return Evaluation.read(folder), True
        except DataError:
            shutil.rmtree(folder)
    found = make()
    found.save(folder)
    return found, False


def deliver(folder: Path, target: Path) -> None:
    """Copy a kept evaluation to where the next stage looks for it, all or nothing."""

    def fill(temp: Path) -> None:
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, temp / file.name)

    durable.write_dir(target, fill)
