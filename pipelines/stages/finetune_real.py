"""Stage ``finetune_real``: the learner, replayed over what a session recorded.

The stage moves no robot.  It checks every byte of the session, folds the learner over its labels in
the order in which they were given, and so arrives at the bundle that ran on the robot; where it
does not (another machine's arithmetic), it says so.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from rich.progress import Progress

from pipelines.stages.curves import as_csv
from pipelines.stages.stage import EVALUATION, METRICS, PLOTS, SESSION, STEERING, Stage, main
from zprl import durable, provenance
from zprl.errors import DataError
from zprl.evaluation import session_metrics
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify
from zprl.rl import session_replay
from zprl.rl.session_learner import BASE, SessionLearner
from zprl.rl.session_learner import STEERING as LEARNED
from zprl.rl.steering_bundle import save_steering

NAME = "real"


def finetune_real(stage: Stage) -> None:
    """Verify, replay, judge; write bundle, curve, evaluations and ``metrics/real.json``."""
    # The session's learner had one thread; another number sums in another order.
    torch.set_num_threads(1)
    broken = verify(SESSION)
    if broken:
        raise DataError(
            f"the session is damaged: {broken[0]}", remedy="`dvc checkout session.dvc` restores it"
        )

    store = SessionStore.open(SESSION)
    learner, same = _replay(stage, store)
    _save(store, learner, same_as_on_robot=same)

    before = session_metrics.evaluation(store, "evaluate_before")
    after = session_metrics.evaluation(store, "evaluate_after")
    for evaluation in (before, after):
        evaluation.save(EVALUATION / evaluation.policy)
    metrics = session_metrics.metrics(store, before, after) | {"same_as_on_robot": same}
    durable.write_json(METRICS / "real.json", metrics)

    _track(stage, learner, metrics)
    stage.log.info(
        f"success {before.summary()['success_rate']:.3f} before, "
        f"{after.summary()['success_rate']:.3f} after "
        f"({before.episodes} and {after.episodes} episodes)"
    )


def _replay(stage: Stage, store: SessionStore) -> tuple[SessionLearner, bool]:
    """Return the learner at the session's end, and whether its weights are those that acted."""
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("replaying the learner", total=len(store.labels.in_order()))
        learner, digests = session_replay.fold(store, tick=lambda: bar.advance(task))

    differing = session_replay.differing(store, digests)
    outcome = "the very weights that acted on the robot"
    if differing:
        outcome = f"other weights than acted on the robot, from version {differing[0]} on"
    stage.log.info(
        f"{len(learner.episodes)} labelled training episodes, {learner.updates.done:,} updates: "
        f"{outcome}"
    )
    return learner, not differing


def _save(store: SessionStore, learner: SessionLearner, *, same_as_on_robot: bool) -> None:
    """Write the steering bundle and the learning curve."""
    header = store.header
    save_steering(
        STEERING / NAME,
        learner.agent.actor,
        learner.scale,
        space=learner.space,
        config=learner.rl,
        base_digest=durable.digest(SESSION / "start" / BASE),
        provenance={
            "task": header.task,
            "session": header.id,
            "seed": header.seed,
            "episodes": len(learner.episodes),
            "updates": learner.updates.done,
            "same_as_on_robot": same_as_on_robot,
            "versions": provenance.versions(),
        },
    )
    if learner.curve:
        durable.write_text(PLOTS / "finetune_real.csv", as_csv(learner.curve))


def _track(stage: Stage, learner: SessionLearner, metrics: dict[str, Any]) -> None:
    for row in learner.curve:
        stage.tracker.log(int(row["episodes"]), **{k: v for k, v in row.items() if k != "episodes"})
    stage.log_numbers(metrics)
    stage.tracker.log_dir(STEERING / NAME, "steering")
    stage.made(STEERING / NAME)

    # The session's digest does not say which bundles it began with.
    starts = (SESSION / "start" / name for name in (BASE, LEARNED))
    begun = [path for path in starts if path.is_dir()]
    stage.tracker.tag(**{f"zprl.input.{path.as_posix()}": durable.digest(path) for path in begun})


if __name__ == "__main__":
    main("finetune_real", finetune_real, sections=(), inputs=(SESSION,))
