"""The learners on the device under test (``--device``): placement, and exact resumption.

On a CPU they agree bit for bit; on CUDA sums may be taken in another order.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.factories import make_store
from tests.toy_world import ReachWorld, toy_policy
from zprl import plugins
from zprl.config import PolicyGradient, Rl
from zprl.envs.chunk import ChunkEnv
from zprl.rl import demo_transitions, residual_scale
from zprl.rl.learner import Learner
from zprl.rl.policy_gradient import PolicyGradientLearner
from zprl.rl.sac import Batch, Sac
from zprl.rl.steering_spaces import LatentResidual

pytestmark = pytest.mark.gpu

SIZE = {"num_envs": 8, "segments": 2, "chunk_steps_per_segment": 6}
SMALL = {
    "budget": SIZE,
    "exploration": {"warmup_chunks": 16},
    "updates": {"batch_size": 32},
    "networks": {"hidden": (16, 16)},
}
GRADIENT = {
    "budget": SIZE,
    "rollouts": {"steps": 4, "epochs": 2},
    "updates": {"batch_size": 16},
}
SAC = Rl(**SMALL)
LEARNERS: dict[str, Rl | PolicyGradient] = {
    "latent": SAC,
    "best-of": SAC.changed(steering={"best_of": 4}),
    "progressive": SAC.changed(
        steering={"space": "action"}, exploration={"progressive_chunks": 100}
    ),
    "noise": SAC.changed(steering={"space": "noise"}),
    "embedding": SAC.changed(steering={"space": "embedding"}),
    "noise-aliasing": Rl(algorithm="noise_aliasing", steering={"space": "noise"}, **SMALL),
    "dppo": PolicyGradient(algorithm="ppo", chain={"noise": "fixed"}, **GRADIENT),
    "reinflow": PolicyGradient(algorithm="ppo", chain={"noise": "learned"}, **GRADIENT),
}


def learner(name: str, device: str) -> Learner | PolicyGradientLearner:
    config, policy = LEARNERS[name], toy_policy().to(device)
    if isinstance(config, PolicyGradient):
        return PolicyGradientLearner(policy, config, seed=0, device=device)
    space = plugins.load("spaces", config.steering.space)()
    obs = {key: value[:, None] for key, value in ReachWorld(8, device=device).reset(0).items()}
    anchor = space.anchor(
        policy, policy.embed(obs), policy.draw_noise(8, torch.Generator().manual_seed(0)).to(device)
    )
    return Learner(
        policy,
        space,
        scale=torch.full((anchor.shape[1],), 0.5),
        config=config,
        seed=0,
        device=device,
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_there_and_resumes(name: str, device: str) -> None:
    def make_env() -> ChunkEnv:
        return ChunkEnv(ReachWorld(8, device=device), 4)

    one, other = learner(name, device), learner(name, device)
    before = {
        group: {key: value.clone() for key, value in values.items()}
        for group, values in one.state()[1].items()
    }
    one.run_segment(make_env)
    facts, tensors = one.state()
    assert one.updates > 0
    for group, values in tensors.items():
        assert all(value.device.type == device for key, value in values.items() if value.dim()), (
            group
        )
        assert any(
            value.shape != before[group][key].shape or not torch.equal(value, before[group][key])
            for key, value in values.items()
        )
    # A resume point is read from files, which come back on the CPU.
    other.restore(
        facts,
        {
            group: {key: value.cpu() for key, value in values.items()}
            for group, values in tensors.items()
        },
    )
    for each in (one, other):
        each.run_segment(make_env)
    for group, values in one.state()[1].items():
        for key, value in values.items():
            found = other.state()[1][group][key]
            same = {"rtol": 0, "atol": 0} if device == "cpu" else {}
            torch.testing.assert_close(
                found, value, **same, check_device=False, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_demonstrations_lie_there(tmp_path: Path, device: str) -> None:
    store = make_store(tmp_path / "store", 4, length=10)
    policy = toy_policy(store).to(device)
    spread = residual_scale.measure(policy, LatentResidual(), store, seed=0)
    rows = demo_transitions.transitions(
        policy,
        LatentResidual(),
        store,
        scale=residual_scale.propose(SAC, spread),
        step_discount=0.9,
        seed=0,
    )
    assert {value.device.type for value in rows.data.values()} == {device}
    assert rows.data["inputs"].isfinite().all()


def test_critic_update_agrees_with_the_cpu(device: str) -> None:
    if device == "cpu":
        pytest.skip("compares with the CPU: on the CPU it could not fail")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 8, generator=generator)
    found = []
    for place in ("cpu", device):
        agent = Sac(6, torch.ones(2), SAC, torch.Generator().manual_seed(1), device=place)
        agent.target = lambda batch, _: batch.reward
        batch = Batch(
            rows.to(place),
            torch.zeros(64, device=place),
            torch.zeros(64, device=place),
            rows.to(place),
        )
        agent.update_critics(batch, torch.Generator(place))
        found.append(agent.critics.grad.cpu())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
