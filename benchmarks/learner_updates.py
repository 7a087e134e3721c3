"""Updates per second of the latent-RL learner against libraries, in one run on one thread.

    python benchmarks/learner_updates.py

The rivals are Stable-Baselines3's SAC, and the learner's own update made of library parts: critics
stacked by ``torch.func``, autograd, and torch's fused Adam.  All get the same observation and
action widths, hidden layers, batch size and critic count, and full replay buffers of random
transitions.  Process time is counted in alternating rounds, and the median over the rounds of each
learner's ratio to its rival is printed, so that load of the machine touches both alike.  Rows are
printed for the recipe's own schedule (the actor learns at every second update, as published) and
for Stable-Baselines3's (actor, temperature and targets at every update).  No side steps an
environment.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import itertools
import math
import statistics
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from torch import nn
from torch.func import functional_call, stack_module_state

from zprl import config, seeding
from zprl.rl.replay import Replay
from zprl.rl.sac import LOG_2PI, Batch, Sac

ROUNDS, UPDATES, ROWS = 5, 100, 5000


class Sized(gymnasium.Env):
    """Never stepped: it only tells Stable-Baselines3 the widths."""

    def __init__(self, state_dim: int, residual_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (state_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (residual_dim,), np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def theirs(rl: config.Rl, state_dim: int, residual_dim: int) -> SAC:
    nets = {"net_arch": list(rl.networks.hidden), "n_critics": rl.critics.count}
    model = SAC(
        "MlpPolicy",
        Sized(state_dim, residual_dim),
        policy_kwargs=nets,
        batch_size=rl.updates.batch_size,
        buffer_size=ROWS,
        device="cpu",
    )
    model._setup_learn(1)
    rng = np.random.default_rng(0)
    for _ in range(ROWS):
        obs, nxt = rng.standard_normal((2, 1, state_dim), dtype=np.float32)
        model.replay_buffer.add(
            obs,
            nxt,
            rng.uniform(-1, 1, (1, residual_dim)).astype(np.float32),
            np.zeros(1),
            np.zeros(1, bool),
            [{}],
        )
    return model


def network(sizes: tuple[int, ...], *, layer_norm: bool) -> nn.Sequential:
    """Return the layers of :class:`zprl.rl.networks.EnsembleMLP` with one member, as modules."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        norm = [nn.LayerNorm(fan_out, elementwise_affine=False)] if layer_norm else []
        layers += [nn.Linear(fan_in, fan_out), *norm, nn.ReLU()]
    while not isinstance(layers[-1], nn.Linear):
        layers.pop()
    return nn.Sequential(*layers)


class FromParts:
    """The updates of :class:`Sac` by ``torch.func``, autograd and fused Adam."""

    def __init__(
        self, state_dim: int, scale: torch.Tensor, rl: config.Rl, generator: torch.Generator
    ) -> None:
        self.rl, self.scale, self.width, self.dim = rl, scale, state_dim, len(scale)
        torch.manual_seed(0)
        sizes = (state_dim + self.dim, *rl.networks.hidden, 1)
        critics = [
            network(sizes, layer_norm=rl.networks.critic_layer_norm)
            for _ in range(rl.critics.count)
        ]
        self.critics, _ = stack_module_state(critics)
        self.targets = {name: value.detach().clone() for name, value in self.critics.items()}
        skeleton = copy.deepcopy(critics[0]).to("meta")
        self.evaluate = torch.vmap(
            lambda weights, inputs: functional_call(skeleton, weights, (inputs,)).squeeze(-1),
            in_dims=(0, None),
        )
        self.actor = network((state_dim, *rl.networks.hidden, 2 * self.dim), layer_norm=False)
        self.log_alpha = torch.full((1,), math.log(rl.entropy.initial_alpha), requires_grad=True)

        adam = torch.optim.Adam
        self.critic_adam = adam(self.critics.values(), rl.learning_rates.critics, fused=True)
        self.actor_adam = adam(self.actor.parameters(), rl.learning_rates.actor, fused=True)
        self.alpha_adam = adam([self.log_alpha], rl.learning_rates.alpha, fused=True)

    def values(self, weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        out = self.evaluate(weights, inputs)
        return (torch.tanh(out) + 1) * 0.5 if self.rl.critics.bounded else out

    def sample(self, inputs: torch.Tensor, generator: torch.Generator):
        """Return inputs with the point that the actor chooses, and the residual's log-density."""
        state = inputs[:, : self.width]
        mean, raw = self.actor(state).split(self.dim, -1)
        span = 0.5 * (self.rl.actor.log_std_max - self.rl.actor.log_std_min)
        log_std = self.rl.actor.log_std_min + span * (torch.tanh(raw) + 1)
        noise = torch.randn(len(state), self.dim, generator=generator)
        before = mean + log_std.exp() * noise

        log_det = 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
        log_prob = (-0.5 * noise.square() - log_std - 0.5 * LOG_2PI - log_det).sum(-1)
        anchor = state[:, self.width - self.dim :]
        point = anchor + self.scale * torch.tanh(before)
        return torch.cat([state, point], -1), log_prob

    def update_critics(self, batch: Batch, generator: torch.Generator) -> None:
        with torch.no_grad():
            inputs, log_prob = self.sample(batch.next_inputs, generator)
            value = self.values(self.targets, inputs).amin(0)
            if self.rl.entropy.in_target:
                value = value - self.log_alpha.exp() * log_prob
            y = batch.reward + batch.discount * value
        loss = (self.values(self.critics, batch.inputs) - y).square().mean(1).sum()
        self._step(self.critic_adam, loss, list(self.critics.values()))

    def update_actor(self, batch: Batch, generator: torch.Generator) -> None:
        inputs, log_prob = self.sample(batch.inputs, generator)
        weights = {name: value.detach() for name, value in self.critics.items()}
        alpha = self.log_alpha.exp().detach()
        loss = (alpha * log_prob - self.values(weights, inputs).mean(0)).mean()
        self._step(self.actor_adam, loss, list(self.actor.parameters()))

        target = self.rl.entropy.target_per_dim * self.dim
        self._step(self.alpha_adam, -self.log_alpha * (log_prob.detach().mean() + target), None)

    def update_targets(self) -> None:
        torch._foreach_lerp_(
            list(self.targets.values()),
            [value.detach() for value in self.critics.values()],
            self.rl.critics.tau,
        )

    def _step(self, adam: torch.optim.Adam, loss: torch.Tensor, clipped) -> None:
        adam.zero_grad()
        loss.backward()
        if clipped is not None:
            nn.utils.clip_grad_norm_(clipped, self.rl.updates.grad_clip, foreach=True)
        adam.step()


def learner(kind: type[Sac] | type[FromParts], rl: config.Rl, state_dim: int, residual_dim: int):
    """Return a function that makes one update on the next batch of a full replay buffer."""
    generator = torch.Generator().manual_seed(0)
    agent = kind(state_dim, torch.full((residual_dim,), 0.2), rl, generator)
    replay = Replay(ROWS, state_dim, residual_dim)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    replay.add(
        state=draw(ROWS, state_dim),
        point=draw(ROWS, residual_dim),
        reward=torch.zeros(ROWS),
        discount=torch.full((ROWS,), 0.92),
        next_state=draw(ROWS, state_dim),
    )
    count = 0

    def update() -> None:
        nonlocal count
        step = seeding.torch_generator(0, "update", count)
        batch = replay.sample(rl.updates.batch_size, step)
        agent.update_critics(batch, step)
        if count % rl.actor.period == 0:
            agent.update_actor(batch, step)
        if count % rl.critics.target_period == 0:
            agent.update_targets()
        count += 1

    def run(updates: int) -> None:
        # Own gradients need no graph of the operations.
        with torch.inference_mode(kind is Sac):
            for _ in range(updates):
                update()

    return run


def rate(run, count: int) -> float:
    """Return updates per second of process time."""
    start = time.process_time()
    run(count)
    return count / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    params = config.load()
    # Stable-Baselines3's networks have no layer normalisation, so equal networks have none here.
    normed = params.finetune_sim
    rl = normed.changed(networks={"critic_layer_norm": False})
    every = rl.changed(actor={"period": 1}, critics={"target_period": 1})
    residual_dim = params.vib.latent_dim
    sizes = (params.policy.embedding_dim + residual_dim, residual_dim)

    sb3 = theirs(rl, *sizes)
    learners = {
        "SB3": lambda count: sb3.train(count, rl.updates.batch_size),
        "recipe": learner(Sac, rl, *sizes),
        "recipe, every update": learner(Sac, every, *sizes),
        "recipe, LayerNorm": learner(Sac, normed, *sizes),
        "torch.func, LayerNorm": learner(FromParts, normed, *sizes),
        "recipe, 10 critics": learner(Sac, many(normed), *sizes),
        "torch.func, 10 critics": learner(FromParts, many(normed), *sizes),
    }
    for run in learners.values():
        run(30)
    rates: dict[str, list[float]] = {name: [] for name in learners}
    for _ in range(ROUNDS):
        for name, run in learners.items():
            rates[name].append(rate(run, UPDATES))

    print(
        f"state {sizes[0]}, residual {residual_dim}, hidden {rl.networks.hidden}, "
        f"critics {rl.critics.count}, "
        f"batch {rl.updates.batch_size}, one thread"
    )
    for name, rival in {
        "recipe": "SB3",
        "recipe, every update": "SB3",
        "recipe, LayerNorm": "torch.func, LayerNorm",
        "recipe, 10 critics": "torch.func, 10 critics",
    }.items():
        ratios = [a / b for a, b in zip(rates[name], rates[rival], strict=True)]
        print(
            f"  {name:22s} {statistics.median(rates[name]):7.0f} updates/s   "
            f"ratio to {rival}: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def many(rl: config.Rl) -> config.Rl:
    """Return the section with the critics of REDQ."""
    return rl.changed(critics={"count": 10, "target_subset": 10})


if __name__ == "__main__":
    main()
