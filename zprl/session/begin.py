"""What a session starts with, gathered into one folder, so that the session can be replayed without anything else.

::

    start/
        base/                the frozen policy
        steering/            the residual that left simulation
        agent.safetensors    simulation's agent with critics and optimisers
        replay.safetensors   simulation's newest transitions
        demos.safetensors    the demonstrations as transitions
"""

from __future__ import annotations

import shutil
from pathlib import Path

from zprl import durable, plugins
from zprl.config import Real, Rl
from zprl.data.store import EpisodeStore
from zprl.errors import DataError
from zprl.models.bundle import load_policy, read_bundle
from zprl.rl import bundle, demos, start
from zprl.session.learning import BASE, DEMOS, STEERING


def gather(folder: Path, *, base: Path, steering: Path, learner: Path, episodes: Path, config: Real, seed: int) -> None:
    """Fill the ``start`` folder.

    Args:
        folder: Where to; it must not exist.
        base: Bundle of the frozen policy.
        steering: Bundle of the residual learned in simulation, for ``config.interface``.
        learner: What its learner left (:mod:`zprl.rl.start`).
        episodes: The demonstrations (:class:`zprl.data.store.EpisodeStore`).
        config: The ``finetune_real`` section.
        seed: The session's seed.

    Raises:
        DataError: the pieces do not belong together.
    """
    document, tensors = read_bundle(steering, bundle.KIND)
    if document.get("base_digest") != durable.digest(base):
        raise DataError(f"{steering} was learned on another base policy than {base}", remedy="run finetune_sim again")
    if document["interface"] != config.interface:
        raise DataError(
            f"{steering} steers by '{document['interface']}', the session wants '{config.interface}'",
            remedy="give the steering bundle of that interface, or change finetune_real.interface",
        )
    policy = load_policy(base)
    interface = plugins.load("interfaces", config.interface)()
    scale = tensors["scale"]
    memory = demos.transitions(
        policy,
        interface,
        EpisodeStore.open(episodes),
        scale=scale,
        step_discount=Rl.model_validate(document["config"]).step_discount,
        seed=seed,
    )

    def fill(target: Path) -> None:
        shutil.copytree(base, target / BASE)
        shutil.copytree(steering, target / STEERING)
        for name in (start.AGENT, start.REPLAY):
            shutil.copyfile(learner / name, target / name)
        durable.write_tensors(target / DEMOS, memory.data)

    durable.write_dir(folder, fill)
