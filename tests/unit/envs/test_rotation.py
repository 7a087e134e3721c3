from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zprl.envs.rotation import DOWN_6D, quat_from_6d, quat_to_6d, rotate

H = math.sqrt(0.5)
BY_HAND = [
    ((0, 0, 0, 1), (1, 0, 0, 0, 1, 0)),  # identity
    ((1, 0, 0, 0), DOWN_6D),  # half a turn about x
    ((0, 1, 0, 0), (-1, 0, 0, 0, 1, 0)),
    ((0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)),
    ((0, 0, H, H), (0, 1, 0, -1, 0, 0)),  # quarter turn about z: x goes to y, y to -x
    ((H, 0, 0, H), (1, 0, 0, 0, 0, 1)),  # quarter turn about x: y goes to z
]


@pytest.mark.parametrize(("quat", "columns"), BY_HAND)
def test_by_hand(quat: tuple[float, ...], columns: tuple[float, ...]):
    quat_, columns_ = (
        torch.tensor([quat], dtype=torch.float32),
        torch.tensor([columns], dtype=torch.float32),
    )
    assert torch.allclose(quat_to_6d(quat_), columns_, atol=1e-6)
    assert torch.allclose(quat_from_6d(columns_), quat_, atol=1e-6)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4).filter(
        lambda q: sum(x * x for x in q) > 0.01
    )
)
def test_there_and_back_up_to_sign(values: list[float]):
    quat = torch.nn.functional.normalize(torch.tensor([values]), dim=-1)
    back = quat_from_6d(quat_to_6d(quat))
    assert (quat * back).sum().abs().item() == pytest.approx(1, abs=1e-4)


def test_scaled_and_skewed_columns_are_made_orthonormal():
    columns = torch.tensor([[3.0, 0, 0, 1.0, -2.0, 0]])
    assert torch.allclose(quat_from_6d(columns), torch.tensor([[1.0, 0, 0, 0]]), atol=1e-6)


def test_rotate_by_hand():
    quarter = torch.tensor([[0.0, 0, H, H]])
    assert torch.allclose(
        rotate(quarter, torch.tensor([[1.0, 0, 2.0]])), torch.tensor([[0.0, 1, 2.0]]), atol=1e-6
    )
