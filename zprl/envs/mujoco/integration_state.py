"""MuJoCo's integration state: everything that the next steps of a simulation depend on."""

from __future__ import annotations

import mujoco
import numpy as np

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def read(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Return the state (S,), float64."""
    state = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, data, state, _STATE)
    return state


def write(model: mujoco.MjModel, data: mujoco.MjData, state: np.ndarray) -> None:
    """Go back to a state (S,); the steps after it repeat bit for bit."""
    mujoco.mj_setState(model, data, state, _STATE)
    mujoco.mj_forward(model, data)
    # Forward moves the solver's warm start, which is a part of the state.
    mujoco.mj_setState(model, data, state, _STATE)
