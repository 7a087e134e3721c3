"""Ranges by hand: what is mapped, what is dropped, what is left alone."""

from __future__ import annotations

import pytest
import torch

from zprl.data.normalizer import Normalizer
from zprl.errors import DataError

OBS = {
    "pos": torch.tensor([[0.0, 7.0], [2.0, 7.0], [4.0, 7.0]]),
    "quat": torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
}
ACTIONS = torch.tensor([[-1.0, 0.3, 10.0], [0.0, 0.3, 20.0], [3.0, 0.3, 30.0]])


@pytest.fixture
def normalizer() -> Normalizer:
    return Normalizer.fit(OBS, ACTIONS)


def test_observation_range_maps_to_unit_range(normalizer: Normalizer) -> None:
    out = normalizer.normalize_obs(OBS)
    assert out["pos"][:, 0].tolist() == [-1.0, 0.0, 1.0]


def test_constant_observation_is_zero_whatever_its_value(normalizer: Normalizer) -> None:
    out = normalizer.normalize_obs({"pos": torch.tensor([[2.0, 7.0], [2.0, 1e6]])})
    assert out["pos"][:, 1].tolist() == [0.0, 0.0]


def test_quaternion_passes_unchanged(normalizer: Normalizer) -> None:
    assert torch.equal(normalizer.normalize_obs(OBS)["quat"], OBS["quat"])


def test_constant_action_is_dropped_and_put_back_bit_for_bit(normalizer: Normalizer) -> None:
    assert normalizer.num_features == 2
    features = normalizer.normalize_actions(ACTIONS)
    torch.testing.assert_close(features, torch.tensor([[-1.0, -1.0], [-0.5, 0.0], [1.0, 1.0]]))
    back = normalizer.denormalize_actions(torch.full((4, 5, 2), 0.5))
    assert back.shape == (4, 5, 3)
    assert torch.equal(back[..., 1], ACTIONS[0, 1].expand(4, 5))
    assert back[0, 0].tolist() == [2.0, ACTIONS[0, 1].item(), 25.0]


def test_nothing_is_clamped(normalizer: Normalizer) -> None:
    assert (
        normalizer.denormalize_actions(torch.tensor([2.0, 0.0])).tolist()[0] == 5.0
    )  # middle 1 + 2 x half range 2
    assert normalizer.normalize_obs({"pos": torch.tensor([[8.0, 7.0]])})["pos"][0, 0].item() == 3.0


@pytest.mark.parametrize(("noise", "features"), [(9e-6, 1), (2e-5, 2)])
def test_tolerance_of_constant(noise: float, features: int) -> None:
    actions = torch.tensor([[0.0, 0.5], [1.0, 0.5 + noise]])
    assert Normalizer.fit({}, actions).num_features == features


def test_rounding_of_a_large_constant_is_constant() -> None:
    actions = torch.tensor([[0.0, 1000.0], [1.0, 1000.0 + 6.2e-5]])  # neighbouring float32 numbers
    assert actions[0, 1] != actions[1, 1]
    assert Normalizer.fit({}, actions).num_features == 1


def test_no_motion_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no action dimension varies"):
        Normalizer.fit(OBS, torch.ones(3, 2))


def test_rebuilt_from_dims_and_state(normalizer: Normalizer) -> None:
    again = Normalizer({"pos": 2, "quat": 4}, 3, 2)
    again.load_state_dict(normalizer.state_dict())
    assert torch.equal(again.normalize_actions(ACTIONS), normalizer.normalize_actions(ACTIONS))
    other = Normalizer.from_state(normalizer.state_dict(), {"pos": 2, "quat": 4})
    assert other.num_features == 2
    assert torch.equal(other.normalize_obs(OBS)["pos"], normalizer.normalize_obs(OBS)["pos"])
    assert not list(normalizer.parameters())


def test_gradient_flows_through_denormalise(normalizer: Normalizer) -> None:
    features = torch.zeros(2, requires_grad=True)
    normalizer.denormalize_actions(features).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [2.0, 10.0]  # the half ranges
