"""The process itself: it makes a world and carries out orders on a socket.

It is started with the number of a socket.  Each order, a header of JSON and raw float32 arrays, is
answered once.  The first names the task's file (see :mod:`zprl.envs.isaacgym.lift_cube`) and makes
the world; what a lab must put right goes back as ``error``, and any other exception ends the
process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from . import wire
from .world import GymWorld, Refused

if TYPE_CHECKING:
    import numpy as np
    import torch

NEEDED = (
    "CONTROL_HZ",
    "PHYSICS_STEPS",
    "URDF",
    "FLIP_VISUALS",
    "HAND",
    "TOOL_OFFSET",
    "ARM",
    "FINGERS",
    "FINGERS_CLOSED",
    "SCENE",
    "WORKSPACE",
    "MAX_REACH",
    "BOXES",
    "OBS_DIMS",
    "observe",
    "success",
)
"""Names in a task's file."""


def make(order: Mapping[str, Any]) -> GymWorld:
    """Make the world that the first order asks for.

    Raises:
        Refused: with what a lab must put right.
    """
    try:
        import isaacgym  # before torch, as it insists
        from isaacgym import gymapi, gymtorch  # noqa: F401 - compiles itself at the first import
    except ImportError as error:
        raise Refused(
            f"{sys.executable} cannot import Isaac Gym: {error}",
            "install Preview 4 into that Python 3.8 ('pip install -e python' in its folder), with "
            "PyTorch",
        ) from error

    own = Path(isaacgym.__file__).resolve().parents[2] / "assets"
    assets = str(Path(order["assets"] or own).absolute())
    task = _load_task(order["file"])
    return GymWorld(task, assets, order["num_envs"], order["episode_steps"], order["device"])


def _load_task(file: str) -> Any:
    """Return a task's file as a module.

    Raises:
        Refused: it cannot be run, or lacks a name.
    """
    spec = importlib.util.spec_from_file_location("zprl_task", file)
    assert spec is not None and spec.loader is not None
    task = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(task)
    except Exception as error:
        raise Refused(f"{file} cannot be run: {error!r}", "it must be Python 3.8") from error

    lacking = [name for name in NEEDED if not hasattr(task, name)]
    if lacking:
        raise Refused(
            f"{file} has no {lacking[0]}",
            "zprl/envs/isaacgym/lift_cube.py shows what stands in a task's file",
        )
    return task


def serve(end: socket.socket) -> None:
    """Make a world and carry out orders until the other side is gone."""
    order, _ = wire.receive(end)
    try:
        world = make(order)
    except Refused as error:
        wire.send(end, {"error": list(error.args)}, {})
        return

    about = {
        "obs_dims": world.obs_dims(),
        "control_hz": world.task.CONTROL_HZ,
        "draws": world.draws(),
        "scene": [*world.task.SCENE, *world.task.BOXES],
    }
    wire.send(end, about, {"home": _numbers(world.home_tool)})
    while True:
        order, arrays = wire.receive(end)
        answer = _obey(world, order["do"], arrays)
        wire.send(end, {}, {name: _numbers(value) for name, value in answer.items()})


def _obey(world: GymWorld, do: str, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Carry out an order and return the tensors of its answer."""
    import torch

    def tensor(name: str, width: int) -> torch.Tensor:
        array = wire.taken(arrays, name, (world.num_envs, width))
        return torch.from_numpy(array).to(world.device)

    if do == "reset":
        return {"obs": world.reset(tensor("start", world.draws()))}
    if do == "step":
        return world.step(tensor("action", 8), tensor("start", world.draws()))
    return {"scene": world.scene()}


def _numbers(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def main(arguments: Sequence[str]) -> None:
    """Serve on the socket whose number is given."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: there is nothing to save

    # The neighbours of this package are no modules of this Python.
    folder = Path(__file__).resolve().parents[1]
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != folder]
    os.chdir("/")

    with socket.socket(fileno=int(arguments[0])) as end:
        try:
            serve(end)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone


if __name__ == "__main__":
    main(sys.argv[1:])
