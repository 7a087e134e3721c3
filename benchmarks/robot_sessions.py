"""What sessions with the robot are worth: several seeds, and the rival beside them, each from the same simulation result.

    python benchmarks/robot_sessions.py [--seeds 3] [--rival-seeds 1] [--train 250] [--work
    runs/robot_sessions]

Runs the sessions one after another on the task's simulated robot (an interrupted one goes on, a finished
one is only read), then writes ``docs/results/robot_sessions.{csv,png,md}``.  Needs the artifacts of
``dvc repro``, and a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipelines.robot_session import sources
from pipelines.stages.stage import EPISODES
from zprl import child_processes, config
from zprl.evaluation import session_metrics
from zprl.evaluation.intervals import wilson
from zprl.recordings.store import SessionStore
from zprl.report import tables
from zprl.session import run

RESULTS = Path("docs/results")
RECENT = 40
COLOURS = {"latent": "#1f5fbf", "action": "#b8860b"}
NAMES = {"latent": "latent residual (ZPRL)", "action": "action residual"}
COLUMNS = (
    "space",
    "seed",
    "session_episodes",
    "episodes",
    "base_success_rate",
    "success_rate",
    "ci_low",
    "ci_high",
    "mcnemar_p",
    "base_jerk_rms",
    "jerk_rms",
    "base_total_variation",
    "total_variation",
    "clip_rate",
    "robot_time_s",
    "wall_s",
)


def live(folder: Path, params: config.Params, seed: int) -> SessionStore:
    """Live a session to its end, unless it has come there."""
    work = folder.with_name(f"{folder.name}.work")
    if not folder.exists():
        run.create(
            folder,
            config=params.finetune_real,
            agent=params.finetune_sim,
            seed=seed,
            **sources(params),
            episodes=EPISODES,
            work=work,
        )
    wanted = params.finetune_real.train_episodes + 2 * params.finetune_real.evaluate_episodes
    store = SessionStore.open(folder)
    if sum(label in ("success", "failure") for label in store.labels.current().values()) < wanted:
        run.run(folder, work)
    return SessionStore.open(folder)


def row(store: SessionStore) -> dict[str, Any]:
    """The numbers of one session."""
    before, after = (
        session_metrics.evaluation(store, "evaluate_before"),
        session_metrics.evaluation(store, "evaluate_after"),
    )
    metrics = session_metrics.metrics(store, before, after)
    return {
        **{name: metrics.get(name) for name in COLUMNS},
        "mcnemar_p": tables.compare(before, after).p_value,
    }


def curve(store: SessionStore) -> np.ndarray:
    """Success of the last :data:`RECENT` labelled training episodes, after each (official code's measure)."""
    labels = store.labels.current()
    done = [
        labels[e.number] == "success"
        for e in store.episodes()
        if e.phase == "train" and labels.get(e.number) in ("success", "failure")
    ]
    return np.array([np.mean(done[max(0, i - RECENT) : i]) for i in range(RECENT, len(done) + 1)])


def draw(rows: list[dict[str, Any]], curves: list[np.ndarray], path: Path) -> None:
    """Each session a line: while it learned, and what the evaluations before and after found."""
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    for i, (found, values) in enumerate(zip(rows, curves, strict=True)):
        colour, style = COLOURS[found["space"]], ("-", "--", ":", "-.")[found["seed"] % 4]
        left.plot(
            RECENT + np.arange(len(values)),
            values,
            color=colour,
            ls=style,
            label=f"{NAMES[found['space']]}, seed {found['seed']}",
        )
        ends = [x + 0.03 * (i - (len(rows) - 1) / 2) for x in (0, 1)]
        rates = [found["base_success_rate"], found["success_rate"]]
        right.plot(ends, rates, color=colour, ls=style)
        for at, rate in zip(ends, rates, strict=True):
            low, high = wilson(round(rate * found["episodes"]), found["episodes"])
            right.errorbar(
                at,
                rate,
                yerr=[[rate - low], [high - rate]],
                color=colour,
                capsize=3,
                marker="o",
                lw=1,
            )
    left.set(
        xlabel="labelled training episodes",
        ylabel="success on the simulated robot",
        ylim=(0, 1),
        title=f"While learning: the last {RECENT} episodes",
    )
    ticks = ["as it left simulation", "after the session"]
    right.set(
        xticks=[0, 1],
        xticklabels=ticks,
        xlim=(-0.4, 1.4),
        title="Evaluation, same starts, 95 % Wilson",
    )
    left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower left", ncols=3, fontsize=8.5)
    figure.savefig(path, dpi=130)


def page(rows: list[dict[str, Any]], command: str, commit: str) -> str:
    """The table as Markdown, with how it was made."""
    lines = [
        "# Sessions on the simulated Franka",
        "",
        f"`{command}` at commit `{commit}`, finished {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {os.cpu_count()} processors.",
        "",
        "Each session starts from the same simulation result and has no access to the others. Success counts are of the same starts before",
        "and after, deterministic policy, 95 % Wilson interval; p is McNemar's exact test on those pairs. Robot and wall time are of the",
        "training episodes alone. Jerk and total variation are means over the evaluation episodes, before and after.",
        "",
        "![Success while learning, before and after](robot_sessions.png)",
        "",
        "| residual | seed | training episodes | before | after | p | jerk m/s³ | variation mm/step | clipped | robot time | wall time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        n = r["episodes"]
        low, high = wilson(round(r["base_success_rate"] * n), n)
        lines.append(
            f"| {NAMES[r['space']]} | {r['seed']} | {r['session_episodes']} | {r['base_success_rate']:.0%} ({low:.0%} to {high:.0%}) | "
            f"{r['success_rate']:.0%} ({r['ci_low']:.0%} to {r['ci_high']:.0%}) of {n} | {r['mcnemar_p']:.3f} | "
            f"{r['base_jerk_rms']:.0f} → {r['jerk_rms']:.0f} | {1e3 * r['base_total_variation']:.1f} → {1e3 * r['total_variation']:.1f} | "
            f"{r['clip_rate']:.0%} | {r['robot_time_s']:.0f} s | {r['wall_s']:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Live what is missing, then write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="sessions with the latent residual")
    parser.add_argument(
        "--rival-seeds", type=int, default=1, help="sessions with the action residual"
    )
    parser.add_argument("--train", type=int, default=250, help="labelled training episodes of each")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/robot_sessions"), help="where the sessions are kept"
    )
    asked = parser.parse_args()
    rows, curves = [], []
    for space, seeds in (("latent", asked.seeds), ("action", asked.rival_seeds)):
        for seed in range(seeds):
            params = config.load()
            real = params.finetune_real.model_copy(
                update={"space": space, "train_episodes": asked.train}
            )
            store = live(
                asked.work / f"{space}{seed}",
                params.model_copy(update={"finetune_real": real}),
                seed,
            )
            rows.append(row(store))
            curves.append(curve(store))
            print({name: rows[-1][name] for name in COLUMNS[:8]}, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(RESULTS / "robot_sessions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, curves, RESULTS / "robot_sessions.png")
    commit = (child_processes.git("rev-parse", "--short", "HEAD") or "").strip()
    (RESULTS / "robot_sessions.md").write_text(page(rows, " ".join(["python", *sys.argv]), commit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
