"""Offline training from start or resume point to end."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from zprl import seeding
from zprl.data.windows import ChunkWindows
from zprl.offline.datamodule import WindowData
from zprl.offline.losses import Draws, offline_losses
from zprl.offline.module import OfflineModule
from zprl.offline.state import TrainState
from zprl.run_dir import RunDir

VALIDATION_ROWS = 512
PROGRESS_SECONDS = 10.0
"""Time between lines of progress [s]."""


@dataclass(frozen=True)
class Hooks:
    """Functions that training calls.

    Attributes:
        stopping: Called after every step; True asks for a resume point now.
        saved: Called after every committed generation; may raise to end training there.
        log: Receives the step and that interval's metrics.
        say: Prints a line of progress.
    """

    stopping: Callable[[], bool]
    saved: Callable[[], None]
    log: Callable[[int, dict[str, float]], None]
    say: Callable[[str], None]


def train(
    state: TrainState,
    windows: ChunkWindows,
    validation: ChunkWindows | None,
    *,
    run_dir: RunDir,
    hooks: Hooks,
) -> None:
    """Train ``state`` up to ``state.config.steps``, from the newest generation in ``run_dir`` on.

    Stopping anywhere and calling again gives the same bits as never having stopped (same machine
    type, versions, threads).  Afterwards the averaged weights are in ``state.policy``.
    """
    generation = run_dir.latest()
    if generation is not None:
        state.restore(generation)
        hooks.say(f"continuing at step {state.step} of {state.config.steps}")
    if state.step < state.config.steps:
        _fit(state, windows, validation, run_dir, hooks)
    state.policy.load_state_dict(state.averaged.state_dict())


def _fit(
    state: TrainState,
    windows: ChunkWindows,
    validation: ChunkWindows | None,
    run_dir: RunDir,
    hooks: Hooks,
) -> None:
    config = state.config
    device = next(state.policy.parameters()).device
    data = WindowData(
        windows, seed=state.seed, start=state.step, stop=config.steps, size=config.batch_size
    )
    with _quiet():
        trainer = Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1,
            max_epochs=1,
            max_steps=config.steps - state.step,
            callbacks=[
                AverageWeights(state),
                Logbook(state, validation, hooks),
                ResumePoints(state, run_dir, hooks),
            ],
            default_root_dir=run_dir.path,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(OfflineModule(state), datamodule=data)
        except SIGTERMException:
            # The signal came after the last callback of a step, before Lightning looked for it.
            state.save(run_dir)
            hooks.saved()
            raise


class AverageWeights(Callback):
    """Averages the weights after every update; the callbacks behind it see the finished step."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def on_train_batch_end(self, *_: object) -> None:
        """Average and count the update."""
        self.state.finish_update()


class Logbook(Callback):
    """Closes a row of the curves every ``log_every`` steps.

    The row has the validation loss of the averaged weights.
    """

    def __init__(self, state: TrainState, validation: ChunkWindows | None, hooks: Hooks) -> None:
        self.state, self.hooks = state, hooks
        self._validation: dict[str, Any] | None = None
        if validation is not None:
            seed = seeding.derive(state.seed, "validation")
            self._validation = validation.batch(seed, 0, min(VALIDATION_ROWS, len(validation)))
            self._seed = seed
        self._reported = time.monotonic()

    def on_train_batch_end(self, *_: object) -> None:
        """Log where a row ends."""
        state = self.state
        if state.step % state.config.log_every and state.step != state.config.steps:
            return

        row = state.curves.close_row(state.step, **self.validate())
        metrics = {k: v for k, v in row.items() if k != "step"}
        self.hooks.log(state.step, metrics)

        last = state.step == state.config.steps
        if last or time.monotonic() - self._reported > PROGRESS_SECONDS:
            self._reported = time.monotonic()
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
            self.hooks.say(f"step {state.step}/{state.config.steps}: {numbers}")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return losses on held-out episodes: the same windows, noise and flow times every time."""
        if self._validation is None:
            return {}

        policy = self.state.averaged
        device = next(policy.parameters()).device
        obs = {key: value.to(device) for key, value in self._validation["obs"].items()}
        actions = self._validation["actions"].to(device)
        draws = Draws.at(policy, len(actions), self._seed, 0, device=device)
        losses = offline_losses(policy, obs, actions, draws)
        return {"val_base_loss": losses.base.item(), "val_vib_loss": losses.vib.item()}


class ResumePoints(Callback):
    """Commits a generation every ``checkpoint_every`` steps, at the end, and when asked to stop."""

    def __init__(self, state: TrainState, run_dir: RunDir, hooks: Hooks) -> None:
        self.state, self.run_dir, self.hooks = state, run_dir, hooks

    def on_train_batch_end(self, *_: object) -> None:
        """Save where a generation is due."""
        step, config = self.state.step, self.state.config
        if step % config.checkpoint_every == 0 or step == config.steps or self.hooks.stopping():
            self.state.save(self.run_dir)
            self.hooks.saved()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's own messages.

    They are lines about hardware and signals, tips, and advice that does not fit in-memory batches.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6.6 against torch 2.11.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
