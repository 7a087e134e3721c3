"""The agent's updates, alike in simulation and on a robot: batches, and the parts' periods.

Every random number is a function of (seed, number of the update): a learner that goes on from a
checkpoint and one that never stopped do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from zprl import seeding
from zprl.config import Rl
from zprl.rl.replay import Replay, join
from zprl.rl.sac import Sac

Report = Callable[[], dict[str, float]]

LOSSES = ("q_mean", "critic_loss", "actor_loss", "alpha", "entropy")
"""Losses in a learning curve; zero before the first update."""


class Updates:
    """Updates of one agent.

    Args:
        agent: What learns.
        config: Batch size and periods.
        seed: Training seed.
        main: The memory that fills what the others leave of a batch.
        others: Further memories with their share of each batch; empty ones are left out.
    """

    def __init__(
        self,
        agent: Sac,
        config: Rl,
        *,
        seed: int,
        main: Replay,
        others: Sequence[tuple[Replay, float]] = (),
        device: str = "cpu",
    ) -> None:
        self.agent = agent
        self.config = config
        self.seed = seed
        self.device = device
        self.main = main
        self.others = [(memory, share) for memory, share in others if len(memory) and share]
        self.done = 0

    def run(
        self, count: int, *, actor_from: int = 0, tick: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Do ``count`` updates; return the losses of the last period, none without an update.

        Args:
            count: How many; none where it is not positive.
            actor_from: Number of the update from which the actor learns, too.
            tick: Called after each update (heartbeats).
        """
        losses: dict[str, float] = {}
        for i in range(count):
            reports = self.step(actor=self.done >= actor_from)
            # Computing a loss waits for the device: only the last period's are computed.
            if i >= count - self.config.actor.period:
                for report in reports:
                    losses |= report()
            tick()
        return losses

    @torch.inference_mode()
    def step(self, *, actor: bool = True) -> list[Report]:
        """Do one update: critics always, actor (where it may learn) and targets by their periods.

        Returns:
            Functions that compute the losses.
        """
        config, step = self.config, self.done
        generator = seeding.torch_generator(self.seed, "update", step, device=self.device)

        # Each memory fills its share of the batch.
        counts = [round(share * config.updates.batch_size) for _, share in self.others]
        batch = self.main.sample(config.updates.batch_size - sum(counts), generator)
        for (memory, _), count in zip(self.others, counts, strict=True):
            batch = join(batch, memory.sample(count, generator))

        reports = [self.agent.update_critics(batch, generator)]
        if actor and step % config.actor.period == 0:
            reports.append(self.agent.update_actor(batch, generator))
        if step % config.critics.target_period == 0:
            self.agent.update_targets()

        self.done += 1
        return reports
