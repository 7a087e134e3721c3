"""Checkpoints from which a later learner continues: the agent, and a part of its memory.

::

    agent.safetensors    :meth:`zprl.rl.sac.Sac.state`
    replay.safetensors   the newest transitions, in the layout of :class:`zprl.rl.replay.Replay`
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zprl import durable
from zprl.errors import DataError
from zprl.rl.replay import Replay
from zprl.rl.sac import Sac

NEWEST = 4096
"""Transitions kept: several times what a robot session adds (ours)."""
AGENT, REPLAY = "agent.safetensors", "replay.safetensors"


def save_checkpoint(path: Path | str, agent: Sac, replay: Replay) -> None:
    """Write the folder ``path``; the same agent and memory give the same bytes."""
    count = min(len(replay), NEWEST)
    rows = torch.arange(replay.added - count, replay.added) % replay.capacity
    kept = {name: value[rows.to(value.device)] for name, value in replay.data.items()}

    def fill(folder: Path) -> None:
        durable.write_tensors(folder / AGENT, agent.state())
        durable.write_tensors(folder / REPLAY, kept)

    durable.write_dir(path, fill)


def load_agent(path: Path | str, agent: Sac) -> None:
    """Put a saved agent's weights and optimisers into ``agent``.

    Raises:
        DataError: damaged, or of an agent with other sizes.
    """
    state = durable.read_tensors(Path(path) / AGENT)
    wanted = {name: value.shape for name, value in agent.state().items()}
    if {name: value.shape for name, value in state.items()} != wanted:
        raise DataError(
            f"{path} holds an agent of other sizes",
            remedy="make it again with this configuration (dvc repro finetune_sim)",
        )
    if not all(bool(value.to(torch.float64).isfinite().all()) for value in state.values()):
        raise DataError(
            f"{path} holds numbers that are not finite",
            remedy="make it again (dvc repro finetune_sim)",
        )
    agent.restore(state)


def load_replay(path: Path | str, state_dim: int, residual_dim: int) -> Replay:
    """Read transitions: a file written here, or by the session for demonstrations.

    Raises:
        DataError: damaged, or of other sizes.
    """
    data = durable.read_tensors(path)
    width = state_dim + residual_dim
    count = len(data.get("reward", torch.zeros(0)))
    wanted = {
        "inputs": (count, width),
        "reward": (count,),
        "discount": (count,),
        "next_inputs": (count, width),
    }
    if count == 0 or {name: tuple(value.shape) for name, value in data.items()} != wanted:
        raise DataError(
            f"{path} does not hold transitions of width {width}",
            remedy="make it again (dvc repro finetune_sim)",
        )
    if not all(bool(value.isfinite().all()) for value in data.values()):
        raise DataError(
            f"{path} holds numbers that are not finite",
            remedy="make it again (dvc repro finetune_sim)",
        )
    return replay_of(data, state_dim, residual_dim)


def replay_of(data: dict[str, Tensor], state_dim: int, residual_dim: int) -> Replay:
    """A full memory over given transitions."""
    replay = Replay(len(data["reward"]), state_dim, residual_dim)
    replay.restore({"added": torch.tensor(len(data["reward"])), **data})
    return replay
