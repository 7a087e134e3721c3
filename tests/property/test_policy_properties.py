"""What holds for every grid and every policy shape."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_policy import ACTION_DIM, small_obs, small_policy
from zprl.models.flow_matching import draw_flow_time, interpolate, target_velocity, time_grid
from zprl.models.vib import kl_divergence


@given(kind=st.sampled_from(["uniform", "diffusers"]), steps=st.integers(1, 1000))
def test_grids_fall_from_1_to_0(kind, steps):
    grid = time_grid(kind, steps)
    assert len(grid) == steps + 1
    assert grid[0] == 1.0
    assert grid[-1] == 0.0
    assert all(a > b for a, b in pairwise(grid))
    assert abs(sum(a - b for a, b in pairwise(grid)) - 1) < 1e-9


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    obs_steps=st.integers(1, 3),
    chunk_steps=st.integers(1, 6),
    flow_steps=st.integers(1, 4),
    net=st.sampled_from(["mlp", "unet"]),
    kind=st.sampled_from(["uniform", "diffusers"]),
    bottleneck=st.booleans(),
)
def test_every_policy_acts_in_its_declared_shape(
    rows, obs_steps, chunk_steps, flow_steps, net, kind, bottleneck
):
    policy = small_policy(
        obs_steps=obs_steps,
        chunk_steps=chunk_steps,
        flow_steps=flow_steps,
        velocity_net=net,
        time_grid=kind,
    ).freeze()
    noise = policy.draw_noise(rows, torch.Generator().manual_seed(0))
    assert noise.shape == (rows, 8, policy.num_features)
    chunk = policy.act(small_obs(policy, rows), noise, bottleneck=bottleneck)
    assert chunk.shape == (rows, chunk_steps, ACTION_DIM)
    assert torch.isfinite(chunk).all()


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 20))
def test_velocity_is_the_slope_of_the_line(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    action, noise = (
        torch.randn(rows, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    time = draw_flow_time(rows, generator).double()
    assert ((time > 0) & (time <= 1)).all()
    there = interpolate(action, noise, time)
    assert torch.allclose(there - time[:, None, None] * target_velocity(action, noise), action)


@given(seed=st.integers(0, 2**31))
def test_kl_is_never_negative(seed):
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    assert kl_divergence(mean, log_std) >= 0
