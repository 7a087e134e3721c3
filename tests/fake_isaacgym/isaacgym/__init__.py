"""A stand-in for Isaac Gym Preview 4, for tests: no physics, but the arm's kinematics, a cube that can be gripped, and Gym's own traps.

Values change only when they are refreshed, poses of links and Jacobians only when time passes, indexed writes reach only the actors named
and count once between two steps, and parameters have no attributes but their own.  Written for these tests; nothing here is NVIDIA's.
``FAKE_ISAACGYM``: words that change it: ``local`` (tensors count from the environment, not from the world), ``nosim``, ``hang``, ``die``,
``nonsense``.
"""

import sys

if "torch" in sys.modules:
    raise ImportError(
        "PyTorch was imported before isaacgym modules.  Please import torch after isaacgym modules."
    )
