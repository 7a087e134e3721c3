"""The learner of a session: a fold over the labels, in the order in which they were given.

``fold(state, label) -> state`` is a pure function of the recorded episode, the label and the seed:
it adds the episode's transitions and does the updates they pay for.  The process beside the robot
and the pipeline's replay run this same fold, so what the pipeline makes is, bit for bit, what
acted.  A label that corrects an earlier one changes that episode's reward from there on and pays
for no new updates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zprl import durable, plugins, seeding
from zprl.config import Real, Rl
from zprl.errors import DataError
from zprl.models.bundle import load_policy, read_bundle
from zprl.models.policy import FlowPolicy
from zprl.recordings.transitions import EpisodeTransitions
from zprl.rl import learner_checkpoint, steering_bundle
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac
from zprl.rl.steering_spaces import SteeringSpace
from zprl.rl.updates import LOSSES, Updates

BASE, STEERING, DEMOS = "base", "steering", "demos.safetensors"
"""Names in a session's ``start`` folder, beside those of :mod:`zprl.rl.learner_checkpoint`."""
CAPACITY = 200_000
RECENT = 40
"""Success is reported over so many labelled training episodes (official code)."""

Row = dict[str, float]


class SessionLearner:
    """Folds labels into an agent.

    Args:
        folder: The session's ``start`` folder.
        config: The ``finetune_real`` section the session was started with.
        seed: The session's seed.
    """

    def __init__(self, folder: Path | str, config: Real, *, seed: int) -> None:
        folder = Path(folder)
        self.folder, self.config, self.seed = folder, config, seed

        # The frozen policy and the residual's space, as simulation left them.
        document, tensors = read_bundle(folder / STEERING, steering_bundle.KIND)
        learnt = Rl.model_validate(document["config"])
        self.policy: FlowPolicy = load_policy(
            folder / BASE, noise_scale=learnt.steering.noise_scale
        )
        self.space: SteeringSpace = plugins.load("spaces", str(document["space"]))()
        self.rl = agent_config(learnt, config)

        # The agent: that of simulation, or what the configuration keeps of it.
        self.scale = tensors["scale"]
        self.dim = len(self.scale)
        self.state_dim = self.policy.spec.policy.embedding_dim + self.dim
        self.agent = Sac(
            self.state_dim, self.scale, self.rl, seeding.torch_generator(seed, "agent-init")
        )
        self._take_over()

        # The memories that fill a batch.
        self.replay = Replay(CAPACITY, self.state_dim, self.dim)
        shares = {learner_checkpoint.REPLAY: config.sim_fraction, DEMOS: config.demo_fraction}
        others = [
            (learner_checkpoint.load_replay(folder / name, self.state_dim, self.dim), share)
            for name, share in shares.items()
            if share
        ]
        self.updates = Updates(self.agent, self.rl, seed=seed, main=self.replay, others=others)
        self.chunk_discount = config.step_discount**self.policy.spec.policy.chunk_steps

        self.published = -1
        """Version of the weights published last."""
        self.labels = 0
        """Labels consumed."""
        self.episodes: dict[int, tuple[int, int, bool]] = {}
        """Episode's number to the row of its last chunk (-1: none kept), its steps, success."""
        self.paid = 0.0
        """Updates paid for by chunks and not yet done; a fraction is carried on."""
        self.curve: list[Row] = []

    def _take_over(self) -> None:
        if self.config.start in ("fresh", "base"):
            return

        fresh_actor = self.agent.actor.net.flat.clone()
        learner_checkpoint.load_agent(self.folder, self.agent)
        if self.config.start == "critics":
            self.agent.actor.net.flat.copy_(fresh_actor)
            self.agent.actor_adam.first.zero_()
            self.agent.actor_adam.second.zero_()
            self.agent.actor_adam.steps = 0

    @property
    def version(self) -> int:
        """The weights' version: how many labels they know."""
        return self.labels

    def consume(
        self,
        recorded: EpisodeTransitions | None,
        number: int,
        *,
        success: bool,
        learn: bool = True,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Take in the next label of the session.

        Args:
            recorded: The episode's decisions, or ``None`` where the label corrects one taken in
                before, or is of an evaluation.
            number: The labelled episode.
            success: Its label.
            learn: False only adds the rows: for going on from a checkpoint made later.
            tick: Called after each update (heartbeats).
        """
        self.labels += 1
        if number in self.episodes:
            self._correct(number, success=success)
            return
        if recorded is None:
            return

        count = self._add(recorded, success=success)
        if learn and len(self.replay):
            self.paid += count * self.config.updates_per_chunk
            self.curve.append(self._row(self._do_updates(tick)))

    def _do_updates(self, tick: Callable[[], None]) -> Row:
        """Do the updates that are paid for; return the last losses."""
        due = int(self.paid)
        self.paid %= 1.0

        # The first episodes train the critics alone.
        trains_actor = len(self.episodes) > self.config.critic_episodes
        actor_from = 0 if trains_actor else self.updates.done + due
        return self.updates.run(due, actor_from=actor_from, tick=tick)

    def _add(self, recorded: EpisodeTransitions, *, success: bool) -> int:
        """Append the episode's transitions; return how many."""
        self._check(recorded)
        during = torch.cat([recorded.embedding, recorded.anchor], -1)
        final = torch.cat([recorded.final_embedding, recorded.final_anchor])
        states = torch.cat([during, final[None]])

        # No value follows an episode's end, not even a time-out's (official code).
        last = len(recorded.steps) - 1
        reward = torch.zeros(len(recorded.steps))
        reward[last] = self._reward(int(recorded.steps[last]), success=success)
        discount = torch.full((len(recorded.steps),), self.chunk_discount)
        discount[last] = 0.0

        # A chunk in which a person intervened was not the agent's.
        keep = ~recorded.intervened
        self.replay.add(
            state=states[:-1][keep],
            point=recorded.point[keep],
            reward=reward[keep],
            discount=discount[keep],
            next_state=states[1:][keep],
        )

        row = self.replay.added - 1 if bool(keep[last]) else -1
        self.episodes[recorded.number] = (row, int(recorded.steps[last]), success)
        return int(keep.sum())

    def _reward(self, steps: int, *, success: bool) -> float:
        """Return the reward of an episode's last chunk.

        1 at its last step, discounted within the chunk (official code).
        """
        return self.config.step_discount ** max(steps - 1, 0) if success else 0.0

    def _correct(self, number: int, *, success: bool) -> None:
        row, steps, _ = self.episodes[number]
        self.episodes[number] = (row, steps, success)
        if row >= self.replay.added - self.replay.capacity and row >= 0:
            self.replay.data["reward"][row % self.replay.capacity] = self._reward(
                steps, success=success
            )

    def _check(self, recorded: EpisodeTransitions) -> None:
        m, d, r = len(recorded.steps), self.state_dim - self.dim, self.dim
        wanted = {
            "embedding": (m, d),
            "anchor": (m, r),
            "point": (m, r),
            "intervened": (m,),
            "final_embedding": (d,),
            "final_anchor": (r,),
        }
        wrong = [
            name for name, shape in wanted.items() if tuple(getattr(recorded, name).shape) != shape
        ]
        if wrong or m == 0:
            raise DataError(
                f"episode {recorded.number}: {', '.join(wrong) or 'no decision'} "
                "does not fit the policy",
                remedy="`zprl session verify` finds what is damaged",
            )

    def _row(self, losses: Row) -> Row:
        recent = [ok for _, _, ok in self.episodes.values()][-RECENT:]
        return {
            "episodes": len(self.episodes),
            "chunk_steps": self.replay.added,
            "updates": self.updates.done,
            "version": self.version,
            "success_rate": sum(recent) / len(recent),
            **{name: losses.get(name, 0.0) for name in LOSSES},
        }

    # -- checkpoints: the agent alone; rows are read again from the episodes -----------------------

    def save(self, path: Path | str) -> None:
        """Write a checkpoint."""
        facts: dict[str, Any] = {
            "labels": self.labels,
            "updates": self.updates.done,
            "paid": self.paid,
            "curve": self.curve,
        }

        def fill(folder: Path) -> None:
            durable.write_json(folder / "facts.json", facts)
            durable.write_tensors(folder / learner_checkpoint.AGENT, self.agent.state())

        durable.write_dir(path, fill)

    def restore(self, path: Path | str) -> None:
        """Continue from :meth:`save`, after the same labels were consumed with ``learn=False``."""
        facts = durable.read_json(Path(path) / "facts.json")
        if facts["labels"] != self.labels:
            raise DataError(
                f"{path} knows {facts['labels']} labels, {self.labels} were read",
                remedy="delete it; the session learns anew",
            )
        learner_checkpoint.load_agent(path, self.agent)
        self.updates.done, self.paid, self.curve = facts["updates"], facts["paid"], facts["curve"]


def agent_config(simulation: Rl, config: Real) -> Rl:
    """Return the agent's configuration on the robot.

    The networks are those of simulation, the learning rates and periods those of the session.
    """
    return simulation.changed(
        updates={"batch_size": config.batch_size},
        learning_rates={
            "actor": config.actor_learning_rate,
            "critics": config.critic_learning_rate,
        },
        actor={"period": config.actor_period},
        returns={"step_discount": config.step_discount},
        demonstrations={"fraction": config.demo_fraction},
    )


def weights_digest(weights: Tensor) -> str:
    """Return the SHA-256 of the residual's weights."""
    return hashlib.sha256(weights.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
