"""A session with the robot as a step of the pipeline: run one, unless there is one that fits.

A session is data, not a stage: ``dvc repro`` never moves a robot.  ``python -m
pipelines.robot_session`` runs a session with what the pipeline has made (or goes on with one that
was interrupted), then hands it to DVC (``session.dvc``).
"""

from __future__ import annotations

import argparse
import enum
import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.stages.stage import BASE, EPISODES, LEARNER, RUNS, SESSION, STEERING
from zprl import child_processes, config, durable, logs, terminal
from zprl.config import Params
from zprl.errors import ConfigError, DataError, EnvironmentProblem, ZprlError

if TYPE_CHECKING:
    from zprl.recordings.store import SessionStore

WORK = RUNS / "session"
SIMULATED = {"latent": "finetune_sim", "action": "action_residual"}
"""Steering space to the name of what finetune_sim left for it."""
AGENT = "agent.safetensors"
"""The part of a learner that acts."""

log = logs.StageLogger("robot_session", logging.getLogger(__name__))


class Standing(enum.StrEnum):
    """State of the session, compared with what the pipeline has now."""

    ABSENT = "absent"
    OTHER = "recorded with other policies or settings"
    UNFINISHED = "unfinished"
    DONE = "done"


def sources(params: Params) -> dict[str, Path | None]:
    """Return what a session starts from, by its name in the session's ``start`` folder.

    Returns:
        ``None`` for what only a simulation could give.

    Raises:
        ConfigError: no simulation gives a policy in the session's steering space.
    """
    if params.finetune_real.start == "base":
        return {"base": BASE, "steering": None, "learner": None}
    space = params.finetune_real.space
    if space not in SIMULATED:
        raise ConfigError(
            f"finetune_real.space '{space}' has no simulation result to go on from",
            remedy=f"choose one of {', '.join(SIMULATED)}",
        )
    return {
        "base": BASE,
        "steering": STEERING / SIMULATED[space],
        "learner": LEARNER / SIMULATED[space],
    }


def standing(params: Params) -> Standing:
    """Return whether there is a session, and whether it fits what the pipeline has now."""
    from zprl.recordings.store import SessionStore

    if not SESSION.exists():
        return Standing.ABSENT
    store = SessionStore.open(SESSION)
    if not _fits(store, params):
        return Standing.OTHER

    labels = store.labels.current()
    judged: Counter[str] = Counter()
    for episode in store.episodes():
        judged[episode.phase] += labels.get(episode.number) in ("success", "failure")

    wanted = params.finetune_real
    complete = (
        judged["evaluate_before"] >= wanted.evaluate_episodes
        and judged["train"] >= wanted.train_episodes
        and judged["evaluate_after"] >= wanted.evaluate_episodes
    )
    return Standing.DONE if complete else Standing.UNFINISHED


def _fits(store: SessionStore, params: Params) -> bool:
    """Return whether a session has the pipeline's settings and started from its policies."""
    if store.header.config != params.finetune_real or store.header.seed != params.run.seed:
        return False
    start = SESSION / "start"
    made = sources(params)
    pairs = [(start / name, made[name]) for name in ("base", "steering")]
    if (learner := made["learner"]) is not None:
        pairs.append((start / AGENT, learner / AGENT))
    return all(
        source is None or durable.digest(copy) == durable.digest(source) for copy, source in pairs
    )


def _agent(params: Params) -> config.Rl:
    """Return the settings of the agent that learns in the session.

    Raises:
        ConfigError: simulation's method cannot go on there.
    """
    agent = params.finetune_sim
    if not isinstance(agent, config.Rl) or agent.algorithm != "sac":
        raise ConfigError(
            f"finetune_sim.algorithm {agent.algorithm} cannot go on in a session",
            remedy="set it to sac, e.g. with preset method/zprl",
        )
    if agent.steering.best_of > 1:
        raise ConfigError(
            "a session has no critics that choose among residuals",
            remedy="set finetune_sim.steering.best_of: 1",
        )
    return agent


def live(params: Params, *, stopping: list[bool]) -> None:
    """Run a session to its end.

    Raises:
        ConfigError: simulation left no agent that can go on in a session.
    """
    from zprl.session import run

    state = standing(params)
    log.info("session: %s", state)
    if state is Standing.DONE:
        return

    if state is Standing.OTHER:
        set_aside()
    if state in (Standing.ABSENT, Standing.OTHER):
        durable.sweep(Path())
        agent = _agent(params)
        start = sources(params)
        run.create(
            SESSION,
            config=params.finetune_real,
            agent=agent,
            seed=params.run.seed,
            base=BASE,
            steering=start["steering"],
            learner=start["learner"],
            episodes=EPISODES,
            work=WORK,
        )
    run.run(SESSION, WORK, say=log.info, stopping=lambda: stopping[0])


def set_aside() -> None:
    """Keep a session that does not fit any more, out of the way."""
    from zprl.recordings.store import SessionStore

    name = SessionStore.open(SESSION).header.id
    target = RUNS / "sessions" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    durable.private_folder(target.parent)
    SESSION.rename(target)
    if WORK.exists():
        WORK.rename(target.with_name(f"{target.name}.work"))
    log.info("the session before had other policies or settings; it is kept in %s", target)


def version() -> None:
    """Hand the session to DVC.

    Raises:
        EnvironmentProblem: DVC cannot be run.
        DataError: it refuses.
    """
    command = child_processes.python("-m", "dvc", "add", "--quiet", str(SESSION))
    env = child_processes.environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    except OSError as error:
        raise EnvironmentProblem(f"dvc cannot be run: {error}", remedy="`zprl doctor`") from error
    if done.returncode:
        raise DataError(
            f"dvc cannot take the session: {done.stderr.strip()[-300:]}",
            remedy="`dvc add session` says more",
        )


def main(arguments: list[str] | None = None) -> int:
    """Run a session and version it; return an exit code as every command does."""
    argparse.ArgumentParser(
        prog="python -m pipelines.robot_session", description=__doc__
    ).parse_args(arguments)
    stopping = [False]

    def ask(*_: object) -> None:
        stopping[0] = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    try:
        logs.configure()
        live(config.load(), stopping=stopping)
        version()
    except ZprlError as error:
        terminal.say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
