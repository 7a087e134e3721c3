"""Judge one policy, or take the verdict that an interrupted attempt already reached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from zprl import durable
from zprl.errors import DataError
from zprl.evaluation.result import Evaluation


def kept(folder: Path, make: Callable[[], Evaluation]) -> tuple[Evaluation, bool]:
    """Return the evaluation in ``folder``, made and kept there first where it is missing.

    Args:
        folder: Below a stage's run folder, whose name already stands for policy, task, seed and
            code.
        make: Runs the evaluation.

    Returns:
        The evaluation, and True where it had been kept before.
    """
    if folder.exists():
        try:
            return Evaluation.read(folder), True
        except DataError:
            shutil.rmtree(folder)
    evaluation = make()
    evaluation.save(folder)
    return evaluation, False


def deliver(folder: Path, target: Path) -> None:
    """Copy a kept evaluation to the output that the next stage reads, all or nothing."""

    def fill(temp: Path) -> None:
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, temp / file.name)

    durable.write_dir(target, fill)
