"""The same learner on CUDA: it runs, resumes exactly where CUDA allows, and agrees with the CPU on one update."""

import pytest
import torch

from tests.toy_world import ReachWorld, toy_policy
from zprl.config import Rl
from zprl.envs.chunk import ChunkEnv
from zprl.rl import demos, scale
from zprl.rl.interfaces import LatentResidual
from zprl.rl.learner import Learner
from zprl.rl.sac import Batch, Sac

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CONFIG = Rl(num_envs=8, segments=2, chunk_steps_per_segment=6, warmup_chunks=16, batch_size=32, hidden=(16, 16))


def test_learner_runs_on_cuda(tmp_path):
    from tests.factories import make_store

    store = make_store(tmp_path / "store", 4, length=10)
    policy = toy_policy(store).to("cuda")
    spread = scale.measure(policy, LatentResidual(), store, seed=0)
    rows = demos.transitions(policy, LatentResidual(), store, scale=scale.propose(CONFIG, spread), step_discount=0.9, seed=0)
    assert rows.data["inputs"].is_cuda
    learner = Learner(toy_policy().to("cuda"), LatentResidual(), scale=torch.ones(2), config=CONFIG, seed=0, device="cuda")
    make_env = lambda: ChunkEnv(ReachWorld(8, device="cuda"), 4)  # noqa: E731
    learner.run_segment(make_env)
    facts, tensors = learner.state()
    other = Learner(toy_policy().to("cuda"), LatentResidual(), scale=torch.ones(2), config=CONFIG, seed=0, device="cuda")
    other.restore(facts, {g: {k: v.cpu() for k, v in ts.items()} for g, ts in tensors.items()})
    for one in (learner, other):
        one.run_segment(make_env)
    torch.testing.assert_close(learner.agent.critics.flat, other.agent.critics.flat)
    assert learner.agent.critics.flat.is_cuda


def test_critic_update_agrees_with_the_cpu():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 8, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        agent = Sac(6, torch.ones(2), CONFIG, torch.Generator().manual_seed(1), device=device)
        agent.target = lambda batch, _: batch.reward
        batch = Batch(rows.to(device), torch.zeros(64, device=device), torch.zeros(64, device=device), rows.to(device))
        agent.update_critics(batch, torch.Generator(device))
        found.append(agent.critics.grad.cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
