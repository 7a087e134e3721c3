"""Flow matching by hand: 1 is noise, 0 is action, velocity is noise minus action."""

import math

import pytest
import torch

from zprl.errors import ConfigError
from zprl.models.flow_matching import (
    draw_flow_time,
    euler,
    interpolate,
    target_velocity,
    time_embedding,
    time_grid,
)


def test_line_from_action_at_0_to_noise_at_1():
    action, noise = torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 10.0)
    points = interpolate(action, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert points.flatten().tolist() == [2.0, 4.0, 10.0]
    assert target_velocity(action, noise).flatten().tolist() == [8.0, 8.0, 8.0]


def test_grids_have_the_published_numbers():
    assert time_grid("uniform", 5) == pytest.approx((1, 0.8, 0.6, 0.4, 0.2, 0), abs=1e-15)
    assert time_grid("diffusers", 5) == pytest.approx(
        (1, 0.7525, 0.505, 0.2575, 0.01, 0), abs=1e-15
    )
    assert time_grid("diffusers", 2) == (1.0, 0.01, 0.0)
    assert time_grid("uniform", 1) == time_grid("diffusers", 1) == (1.0, 0.0)
    with pytest.raises(ConfigError):
        time_grid("uniform", 0)


@pytest.mark.parametrize("kind", ["uniform", "diffusers"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_point_dataset_is_recovered_from_any_noise(kind, steps):
    # All demonstrations are the point a, so the true field at (x, s) is (x - a) / s.  The opposite
    # sign convention, or times running the other way, would run away from a.
    point = torch.tensor([0.5, -2.0]).expand(7, 3, 2)
    grid = time_grid(kind, steps)
    noise = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(0))
    found = euler(lambda x, i: (x - point) / grid[i], noise, grid)
    assert torch.allclose(found, point, atol=1e-6)


def test_constant_field_moves_by_exactly_minus_itself():
    assert (
        euler(
            lambda x, _: torch.full_like(x, 3.0), torch.ones(1, 1, 1), time_grid("uniform", 4)
        ).item()
        == -2.0
    )


def test_flow_time_is_scaled_by_100_before_the_sines():
    features = time_embedding(torch.tensor([0.0, 0.5]), 4)
    rows = [[0, 0, 1, 1], [math.sin(50), math.sin(50e-4), math.cos(50), math.cos(50e-4)]]
    assert torch.allclose(features, torch.tensor(rows, dtype=torch.float32), atol=1e-5)


def test_training_times_exclude_0_and_fill_the_interval():
    times = draw_flow_time(100_000, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() <= 1
    assert abs(times.mean() - 0.5) < 0.01
