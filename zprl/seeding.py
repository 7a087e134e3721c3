"""Randomness as a pure function of (seed, purpose, counters).

No generator is ever carried along, saved or restored: random numbers for update 1,234 come from
the generator of update 1,234.  That is why an interrupted run and an uninterrupted one draw the
same numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed for one use of randomness.

    >>> derive(0, "batch", 1) == derive(0, "batch", 1)
    True
    >>> derive(0, "batch", 1) == derive(0, "batch", 2)
    False
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(
    seed: int, purpose: str, *counters: int, device: str = "cpu"
) -> torch.Generator:
    """Return a fresh torch generator for one use of randomness."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, purpose, *counters))


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a fresh numpy generator for one use of randomness."""
    import numpy as np

    return np.random.Generator(np.random.Philox(derive(seed, purpose, *counters)))
