"""What our loop costs over bare Isaac Lab stepping: ``ChunkEnv.step`` against ``ManagerBasedRLEnv.step``.

    python benchmarks/chunk_overhead.py --num-envs 64 --blocks 30

Both sides step the *same* simulator with the same targets, in alternating blocks whose order flips
every time, and each pair gives one ratio of CPU time.  Runs in separate simulators, best of a few,
were tried first and are worthless on a shared machine: they once made our loop 16 % cheaper than
the step it contains.  So the median of the pairs is the figure, the quartiles say how much to
believe it, and the result is "unresolved" when the limit lies between them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch

from zprl.config import Task
from zprl.envs.chunk import ChunkEnv
from zprl.envs.isaac import lift_cube

CHUNK_STEPS = 8
CHUNKS_PER_BLOCK = 5
LIMIT = 1.30
"""Our loop may cost 30 % more than the bare step (ours)."""


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(num_envs: int, blocks: int) -> list[tuple[float, float]]:
    """CPU seconds (bare, ours) of each pair of blocks; no episode ends within the measurement."""
    pairs = []
    with ChunkEnv(lift_cube.make(Task(episode_steps=10**6), num_envs=num_envs), CHUNK_STEPS) as env:
        env.reset(0)
        world = env.env
        chunk = world.hold()[:, None].repeat(1, CHUNK_STEPS, 1)
        with torch.no_grad():
            isaac_action = world._to_isaac(world.hold()).clone()

        @torch.no_grad()
        def bare() -> None:
            for _ in range(CHUNKS_PER_BLOCK * CHUNK_STEPS):
                world._env.step(isaac_action)

        def ours() -> None:
            for _ in range(CHUNKS_PER_BLOCK):
                env.step(chunk)

        bare()  # the first steps compile kernels
        ours()
        for number in range(blocks):
            if number % 2:
                first = _seconds(ours)
                pairs.append((_seconds(bare), first))
            else:
                first = _seconds(bare)
                pairs.append((first, _seconds(ours)))
    return pairs


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = measure(args.num_envs, args.blocks)
    low, middle, high = statistics.quantiles([ours / bare for bare, ours in pairs], n=4)
    steps = args.num_envs * CHUNKS_PER_BLOCK * CHUNK_STEPS
    verdict = "within" if high <= LIMIT else "over" if low > LIMIT else "unresolved"
    result = {
        "num_envs": args.num_envs,
        "pairs": len(pairs),
        "cpu_cost_ratio": {
            "median": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        },
        "limit": LIMIT,
        "verdict": verdict,
        "env_steps_per_cpu_second_median": {
            "bare": round(steps / statistics.median(bare for bare, _ in pairs)),
            "ours": round(steps / statistics.median(ours for _, ours in pairs)),
        },
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
