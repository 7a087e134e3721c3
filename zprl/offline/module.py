"""The gradient step, for Lightning."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from zprl.errors import ConfigError
from zprl.offline.datamodule import Batch
from zprl.offline.losses import Draws, offline_losses
from zprl.offline.state import TrainState, learning_rate


class OfflineModule(LightningModule):
    """One forward pass, one backward pass and one AdamW update per step.

    What outlives the process is in :class:`TrainState`.
    """

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.policy = state.policy
        self.state = state

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the state's own optimiser, restored or new, and its schedule from there on."""
        state = self.state
        for group in state.optimizer.param_groups:
            # The schedule multiplies this: with 1 it gives the learning rate itself, to the bit.
            group["initial_lr"] = 1.0

        schedule = LambdaLR(
            state.optimizer,
            lambda step: learning_rate(step, state.config),
            last_epoch=state.step - 1,
        )
        return {
            "optimizer": state.optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the total loss of step ``batch[0]``."""
        step, data = batch
        draws = Draws.at(
            self.policy, len(data["actions"]), self.state.seed, step, device=self.device
        )
        losses = offline_losses(self.policy, data["obs"], data["actions"], draws)

        # Before the update, so that the last resume point stays healthy.
        if not torch.isfinite(losses.total):
            raise ConfigError(
                f"the loss is {losses.total.item()} at pretraining step {step}",
                remedy="lower pretrain.learning_rate, or look at the data with `zprl demos check`",
            )
        self.state.curves.add(losses.stacked())
        return losses.total
