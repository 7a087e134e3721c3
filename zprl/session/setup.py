"""The ``start`` folder of a session: all that the session needs to be replayed.

::

    start/
        base/                the frozen policy
        steering/            the residual that left simulation
        agent.safetensors    simulation's agent with critics and optimisers
        replay.safetensors   simulation's newest transitions, where the learner mixes some in
        demos.safetensors    the demonstrations as transitions

Where there is no simulation of the task, ``steering`` is a new agent's residual, near zero, and
agent and replay are missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl import durable, plugins, seeding
from zprl.config import Real, Rl
from zprl.data.store import EpisodeStore
from zprl.errors import DataError
from zprl.models.bundle import load_policy, read_bundle
from zprl.rl import demo_transitions, learner_checkpoint, residual_scale, steering_bundle
from zprl.rl.sac import Sac
from zprl.rl.session_learner import BASE, DEMOS, STEERING


def gather(
    folder: Path,
    *,
    base: Path,
    steering: Path | None,
    learner: Path | None,
    episodes: Path,
    config: Real,
    agent: Rl,
    seed: int,
) -> None:
    """Fill the ``start`` folder.

    Args:
        folder: Where to; it must not exist.
        base: Bundle of the frozen policy.
        steering: Bundle of the residual learned in simulation, for ``config.space``; ``None``
            where there is no simulation.
        learner: What its learner left (:mod:`zprl.rl.learner_checkpoint`); ``None`` likewise.
        episodes: The demonstrations (:class:`zprl.data.store.EpisodeStore`).
        config: The ``finetune_real`` section.
        agent: The agent where there is no simulation (section ``finetune_sim``).
        seed: The session's seed.

    Raises:
        DataError: the pieces do not belong together.
    """
    if steering is None or learner is None:
        durable.write_dir(
            folder, lambda target: _from_base(target, base, episodes, config, agent, seed)
        )
        return

    _from_simulation(folder, base, steering, learner, episodes, config, seed)


def _from_simulation(
    folder: Path,
    base: Path,
    steering: Path,
    learner: Path,
    episodes: Path,
    config: Real,
    seed: int,
) -> None:
    """Fill the folder with the residual and the agent that left simulation."""
    document, tensors = read_bundle(steering, steering_bundle.KIND)
    _check_steering(document, steering, base, config)
    agent = Rl.model_validate(document["config"])
    policy = load_policy(base, noise_scale=agent.steering.noise_scale)
    memory = demo_transitions.transitions(
        policy,
        plugins.load("spaces", config.space)(),
        EpisodeStore.open(episodes),
        scale=tensors["scale"],
        step_discount=agent.returns.step_discount,
        seed=seed,
        fitted=agent.demonstrations.residual == "fitted",
    )

    def fill(target: Path) -> None:
        shutil.copytree(base, target / BASE)
        shutil.copytree(steering, target / STEERING)
        shutil.copyfile(learner / learner_checkpoint.AGENT, target / learner_checkpoint.AGENT)
        if config.sim_fraction:
            replay = learner_checkpoint.REPLAY
            shutil.copyfile(learner / replay, target / replay)
        durable.write_tensors(target / DEMOS, memory.data)

    durable.write_dir(folder, fill)


def _check_steering(document: Mapping[str, Any], steering: Path, base: Path, config: Real) -> None:
    """Refuse a steering bundle of another base policy or another space.

    Raises:
        DataError: it is one.
    """
    if document.get("base_digest") != durable.digest(base):
        raise DataError(
            f"{steering} was learned on another base policy than {base}",
            remedy="run finetune_sim again",
        )
    space = document["space"]
    if space != config.space:
        raise DataError(
            f"{steering} steers by '{space}', the session wants '{config.space}'",
            remedy="give the steering bundle of that space, or change finetune_real.space",
        )


def _from_base(
    target: Path, base: Path, episodes: Path, config: Real, agent: Rl, seed: int
) -> None:
    """Write a new agent on the base policy, its residual near zero.

    It is the very one that the session's learner begins with.
    """
    policy = load_policy(base, noise_scale=agent.steering.noise_scale)
    space = plugins.load("spaces", config.space)()
    store = EpisodeStore.open(episodes)
    scale = residual_scale.propose(agent, residual_scale.measure(policy, space, store, seed=seed))
    state_dim = policy.spec.policy.embedding_dim + len(scale)
    new = Sac(state_dim, scale, agent, seeding.torch_generator(seed, "agent-init"))

    shutil.copytree(base, target / BASE)
    steering_bundle.save_steering(
        target / STEERING,
        new.actor,
        scale,
        space=space,
        config=agent,
        base_digest=durable.digest(base),
        provenance={"simulation": None, "seed": seed},
    )
    if config.demo_fraction:
        memory = demo_transitions.transitions(
            policy,
            space,
            store,
            scale=scale,
            step_discount=config.step_discount,
            seed=seed,
            fitted=agent.demonstrations.residual == "fitted",
        )
        durable.write_tensors(target / DEMOS, memory.data)
