"""Updates per second of the latent-RL learner against Stable-Baselines3's SAC, in one run on one thread.

    python benchmarks/learner_updates.py

Both learners get the same observation and action widths, hidden layers, batch size and critic
count, and full replay buffers of random transitions; process time is counted, in alternating
rounds, and the medians' ratio is printed.  Two rows are printed: the recipe's own schedule (the
actor learns at every second update, as published) and Stable-Baselines3's (actor, temperature and
targets at every update).  Neither side steps an environment.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC

from zprl import config, seeding
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac

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


def ours(rl: config.Rl, state_dim: int, residual_dim: int):
    generator = torch.Generator().manual_seed(0)
    agent = Sac(state_dim, torch.full((residual_dim,), 0.2), rl, generator)
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

    return update


def rate(run, count: int) -> float:
    start = time.process_time()
    run(count)
    return count / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    params = config.load()
    # Stable-Baselines3's networks have no layer normalisation, so equal networks have none here.
    rl = params.finetune_sim.changed(networks={"critic_layer_norm": False})
    residual_dim = params.vib.latent_dim
    state_dim = params.policy.embedding_dim + residual_dim
    sb3 = theirs(rl, state_dim, residual_dim)
    every = rl.changed(actor={"period": 1}, critics={"target_period": 1})
    learners = {
        "recipe's schedule": ours(rl, state_dim, residual_dim),
        "  with LayerNorm": ours(
            rl.changed(networks={"critic_layer_norm": True}), state_dim, residual_dim
        ),
        "actor at every update": ours(every, state_dim, residual_dim),
    }
    found: dict[str, list[float]] = {name: [] for name in ("SB3", *learners)}
    with torch.inference_mode():
        for update in learners.values():
            rate(lambda n, update=update: [update() for _ in range(n)], 30)
    rate(lambda n: sb3.train(n, rl.updates.batch_size), 30)
    for _ in range(ROUNDS):
        found["SB3"].append(rate(lambda n: sb3.train(n, rl.updates.batch_size), UPDATES))
        with torch.inference_mode():
            for name, update in learners.items():
                found[name].append(
                    rate(lambda n, update=update: [update() for _ in range(n)], UPDATES)
                )
    median = {name: statistics.median(rates) for name, rates in found.items()}
    print(
        f"state {state_dim}, residual {residual_dim}, hidden {rl.networks.hidden}, critics {rl.critics.count}, batch {rl.updates.batch_size}, one thread"
    )
    for name, value in median.items():
        print(f"  {name:24s} {value:7.0f} updates/s   ratio to SB3 {value / median['SB3']:.2f}")


if __name__ == "__main__":
    main()
