"""Environment steps per second and updates per second, by the number of environments, on the CPU or on CUDA.

    python benchmarks/throughput.py --device cuda --num-envs 64 256 1024 4096

For each number a fresh process makes the Isaac world of `params.yaml` and times, in alternating
blocks in one simulator, Isaac Lab's own step with a fixed target and the training loop's collecting
(steered policy, chunks, replay), whose ratio says what the loop costs.  Then it times updates of
the learner on the memory so filled.  Policy and learner have the sizes of `params.yaml` and random
weights: what they do takes as long as if they had learnt.  Wall-clock time; the median of the
blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from zprl import config, envs, plugins, provenance
from zprl.data.normalizer import Normalizer
from zprl.envs.chunk import ChunkEnv
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.rl.learner import Learner

BLOCKS, CHUNKS, UPDATES = 5, 3, 100


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall-clock seconds until everything asked for is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Running(ChunkEnv):
    """One simulator for all blocks: a block goes on where the last one stopped."""

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        return dict(self._history) or super().reset(seed)

    def __exit__(self, *exc: object) -> None:
        pass


def make_learner(
    params: config.Params, num_envs: int, device: str, obs_dims: dict[str, int], action_dim: int
) -> Learner:
    """A learner of the file's sizes on a policy with random weights."""
    generator = torch.Generator().manual_seed(0)
    frames = {key: torch.randn(64, width, generator=generator) for key, width in obs_dims.items()}
    spec = PolicySpec(
        obs_dims=obs_dims, action_dim=action_dim, policy=params.policy, vib=params.vib
    )
    policy = (
        FlowPolicy(spec, Normalizer.fit(frames, torch.randn(64, action_dim, generator=generator)))
        .freeze()
        .to(device)
    )
    segment = {
        "num_envs": num_envs,
        "segments": 1,
        "chunk_steps_per_segment": (BLOCKS + 1) * CHUNKS,
    }
    rl = params.finetune_sim.changed(
        budget=segment,
        exploration={"warmup_chunks": 0},
        demonstrations={"fraction": 0.0},
        updates={"per_chunk": 1e-12},  # none is due: they are measured by themselves
    )
    scale = torch.full((params.vib.latent_dim,), 0.1)
    return Learner(
        policy,
        plugins.load("spaces", "latent")(),
        scale=scale,
        config=rl,
        seed=0,
        device=device,
    )


def measure(num_envs: int, device: str) -> dict[str, float]:
    """Rates of one number of environments."""
    params = config.load()
    task = params.task.model_copy(update={"episode_steps": 10**6})
    chunk_steps = params.policy.chunk_steps
    with envs.make(task, num_envs=num_envs, device=device) as world:
        keys = [key for key in params.ingest.obs_keys if key in world.spec.obs_dims]
        learner = make_learner(
            params,
            num_envs,
            device,
            {key: world.spec.obs_dims[key] for key in keys},
            world.spec.action_dim,
        )
        env = Running(world, chunk_steps, params.policy.obs_steps)
        env.reset(0)
        with torch.no_grad():
            target = world._to_isaac(world.hold()).clone()
        steps = num_envs * chunk_steps * CHUNKS

        @torch.no_grad()
        def bare() -> None:
            for _ in range(chunk_steps * CHUNKS):
                world._env.step(target)

        learner.config = learner.config.changed(budget={"chunk_steps_per_segment": CHUNKS})

        def collect() -> None:
            learner.run_segment(lambda: env)

        bare()
        collect()
        pairs = []
        for number in range(BLOCKS):
            if number % 2:
                second = seconds(collect, device)
                pairs.append((seconds(bare, device), second))
            else:
                first = seconds(bare, device)
                pairs.append((first, seconds(collect, device)))
    updates = learner._updates
    for _ in range(10):
        updates.step()
    rates = [
        UPDATES / seconds(lambda: [updates.step() for _ in range(UPDATES)], device)
        for _ in range(BLOCKS)
    ]
    return {
        "num_envs": num_envs,
        "bare": steps / statistics.median(first for first, _ in pairs),
        "collecting": steps / statistics.median(second for _, second in pairs),
        "cost": statistics.median(second / first for first, second in pairs),
        "updates": statistics.median(rates),
    }


def main() -> None:
    """Print a table; one child process per row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        print(json.dumps(measure(args.num_envs[0], args.device)))
        return
    params = config.load()
    rl = params.finetune_sim
    print(
        f"{provenance.machine(args.device)}; {params.task.name}, {params.task.physics}; torch {torch.__version__}"
    )
    print(
        f"updates: batch {rl.updates.batch_size}, {rl.critics.count} critics of {list(rl.networks.hidden)}; load average {os.getloadavg()[0]:.1f} at the start"
    )
    table = Table(
        "environments",
        "Isaac Lab's step, env-steps/s",
        "collecting, env-steps/s",
        "time, ratio",
        "updates/s",
    )
    for count in args.num_envs:
        order = [
            sys.executable,
            __file__,
            "--child",
            "--device",
            args.device,
            "--num-envs",
            str(count),
        ]
        done = subprocess.run(order, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{count} environments: {done.stderr[-2000:]}")
        row = json.loads(done.stdout.splitlines()[-1])
        table.add_row(
            str(count),
            *(f"{row[name]:,.0f}" for name in ("bare", "collecting")),
            f"{row['cost']:.2f}",
            f"{row['updates']:,.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
