"""A session with the robot as a step of the pipeline: is there one that fits, and if not, live one.

A session is data, not a stage: ``dvc repro`` never moves a robot.  ``python -m
pipelines.robot_session`` lives a session with what the pipeline has made (or goes on with one that
was interrupted), then hands it to DVC (``session.dvc``).
"""

from __future__ import annotations

import argparse
import enum
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.stages.stage import BASE, EPISODES, LEARNER, RUNS, SESSION, STEERING
from zprl import child_processes, config, durable, terminal
from zprl.config import Params
from zprl.errors import ConfigError, DataError, EnvironmentProblem, ZprlError

WORK = RUNS / "session"
SIMULATED = {"latent": "latent", "action": "action_residual"}
"""Interface to the name of what finetune_sim left for it."""


class Standing(enum.StrEnum):
    """What is to be done about the session."""

    ABSENT = "absent"
    OTHER = "lived with something else"
    UNFINISHED = "unfinished"
    DONE = "done"


def sources(params: Params) -> dict[str, Path | None]:
    """What a session starts from, by its name in the session's ``start`` folder; ``None`` for what only a simulation could give."""
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
    """Whether there is a session, and whether it was lived with what the pipeline has now."""
    from zprl.recordings.store import SessionStore

    if not SESSION.exists():
        return Standing.ABSENT
    store = SessionStore.open(SESSION)
    found = sources(params)
    fits = store.header.config == params.finetune_real and store.header.seed == params.run.seed
    for name, inside in (("base", ""), ("steering", ""), ("learner", "agent.safetensors")):
        if (source := found[name]) is not None:
            fits &= durable.digest(SESSION / "start" / (inside or name)) == durable.digest(
                source / inside
            )
    if not fits:
        return Standing.OTHER
    labels = store.labels.current()
    done: dict[str, int] = {}
    for episode in store.episodes():
        done[episode.phase] = done.get(episode.phase, 0) + (
            labels.get(episode.number) in ("success", "failure")
        )
    wanted = params.finetune_real
    complete = (
        done.get("evaluate_before", 0) >= wanted.evaluate_episodes
        and done.get("train", 0) >= wanted.train_episodes
        and done.get("evaluate_after", 0) >= wanted.evaluate_episodes
    )
    return Standing.DONE if complete else Standing.UNFINISHED


def live(params: Params, *, stopping: list[bool]) -> None:
    """Live a session to its end."""
    from zprl.session import run

    found = standing(params)
    say(f"session: {found}")
    if found is Standing.DONE:
        return
    if found is Standing.OTHER:
        set_aside()
    if found in (Standing.ABSENT, Standing.OTHER):
        durable.sweep(Path())
        if not isinstance(params.finetune_sim, config.Rl):
            raise ConfigError(
                "a session steers a frozen policy",
                remedy="set finetune_sim.algorithm to sac, e.g. with preset method/zprl",
            )
        begin = {
            "config": params.finetune_real,
            "agent": params.finetune_sim,
            "seed": params.run.seed,
        }
        run.create(SESSION, **begin, episodes=EPISODES, work=WORK, **sources(params))
    run.run(SESSION, WORK, say=say, stopping=lambda: stopping[0])


def set_aside() -> None:
    """Keep a session that does not fit any more, out of the way."""
    from zprl.recordings.store import SessionStore

    name = SessionStore.open(SESSION).header.id
    target = RUNS / "sessions" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    durable.private_folder(target.parent)
    SESSION.rename(target)
    if WORK.exists():
        WORK.rename(target.with_name(f"{target.name}.work"))
    say(f"the session before was lived with other policies or settings; it is kept in {target}")


def version() -> None:
    """Hand the session to DVC."""
    try:
        command, env = (
            child_processes.python("-m", "dvc", "add", "--quiet", str(SESSION)),
            child_processes.environment(),
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    except OSError as error:
        raise EnvironmentProblem(f"dvc cannot be run: {error}", remedy="`zprl doctor`") from error
    if done.returncode:
        raise DataError(
            f"dvc cannot take the session: {done.stderr.strip()[-300:]}",
            remedy="`dvc add session` says more",
        )


def say(text: str) -> None:
    """One line of progress, at once."""
    terminal.say(f"[robot_session] {text}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; exit codes as everywhere."""
    argparse.ArgumentParser(
        prog="python -m pipelines.robot_session", description=__doc__
    ).parse_args(arguments)
    stopping = [False]

    def ask(*_: object) -> None:
        stopping[0] = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    try:
        live(config.load(), stopping=stopping)
        version()
    except ZprlError as error:
        terminal.say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
