"""The gradient step, for Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from zprl.errors import ConfigError
from zprl.offline.datamodule import Batch
from zprl.offline.losses import Draws, offline_losses
from zprl.offline.state import TrainState, learning_rate


class OfflineModule(LightningModule):
    """One forward pass, one backward pass and one AdamW update per step; the state lives in :class:`TrainState`."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.policy = state.policy
        self.state = state

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The state's own optimiser, which may come from an earlier process."""
        return self.state.optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the total loss of step ``batch[0]``."""
        step, data = batch
        draws = Draws.at(
            self.policy, len(data["actions"]), self.state.seed, step, device=self.device
        )
        losses = offline_losses(self.policy, data["obs"], data["actions"], draws)
        if not torch.isfinite(
            losses.total
        ):  # before the update, so that the last resume point stays healthy
            raise ConfigError(
                f"the loss is {losses.total.item()} at pretraining step {step}",
                remedy="lower pretrain.learning_rate, or look at the data with `zprl data check`",
            )
        self.state.curves.add(losses.stacked())
        return losses.total

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update with this step's learning rate, then average."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.state.step, self.state.config)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.state.finish_update()
