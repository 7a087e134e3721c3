"""Gym's tensors as PyTorch's and back."""

import torch

from . import gymapi


def wrap_tensor(gym_tensor):
    return gym_tensor.buffer


def unwrap_tensor(torch_tensor):
    assert torch_tensor.is_contiguous(), "Input tensor must be contiguous"
    assert torch_tensor.dtype in (torch.float32, torch.int32), torch_tensor.dtype
    return gymapi.Tensor(torch_tensor)
