"""The page's part about the robot session: before and after, the gate, the learning curve."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zprl.evaluation.result import Evaluation
from zprl.report import tables
from zprl.report.figures import mark
from zprl.report.inputs import ROBOT_AFTER, ROBOT_BEFORE, Sources
from zprl.report.style import PageFigure, Theme, render_figure

COLUMNS = ("episodes", "success_rate", "chunk_steps", "updates")
LABELS = {ROBOT_BEFORE: "as it left simulation", ROBOT_AFTER: "after the session"}


def part(sources: Sources) -> dict[str, Any]:
    """Return rows, sentence and the gate's decision.

    Raises:
        DataError: a result is missing or broken.
    """
    before = sources.evaluation(ROBOT_BEFORE)
    after = sources.evaluation(ROBOT_AFTER)
    pair = tables.compare(before, after)
    curve = sources.curve("finetune_real.csv", *COLUMNS)
    decision = sources.document("promotion_real.json", "accept", "reasons")

    won, lost = tables.count(pair.only_second), tables.count(pair.only_first)
    sentence = (
        f"{int(curve['episodes'][-1])} labelled training episodes, "
        f"{int(curve['chunk_steps'][-1]):,} decisions, {int(curve['updates'][-1]):,} updates. "
        f"On the same starts the policy now succeeds in {won} where it failed before, and fails in "
        f"{lost} where it succeeded (exact McNemar test: {tables.p_text(pair.p_value)})."
    )
    return {
        "task": after.task,
        "rows": [_row(LABELS[ROBOT_BEFORE], before), _row(LABELS[ROBOT_AFTER], after)],
        "sentence": sentence,
        "accept": decision["accept"] is True,
        "reasons": [str(reason) for reason in decision["reasons"]],
    }


def _row(label: str, evaluation: Evaluation) -> dict[str, str]:
    numbers = evaluation.summary()
    return {
        "label": label,
        "rate": tables.percent(numbers["success_rate"]),
        "interval": tables.interval(numbers["ci_low"], numbers["ci_high"]),
        "count": f"{sum(evaluation.success)} of {evaluation.episodes}",
        "length": tables.number(numbers["episode_length"], 0),
        "jerk": tables.number(numbers["jerk_rms"], 0),
        "variation": tables.number(numbers["total_variation"], 2, scale=1000),
    }


def learning(sources: Sources) -> PageFigure:
    """Draw success of the last labelled training episodes, and the evaluations before and after."""
    curve = sources.curve("finetune_real.csv", *COLUMNS)
    before = sources.evaluation(ROBOT_BEFORE)
    after = sources.evaluation(ROBOT_AFTER)

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        colour = theme.policies["finetune_sim"]
        axes.plot(
            curve["episodes"],
            curve["success_rate"],
            color=colour,
            label="training, last 40 episodes",
        )
        mark(axes, 0, before, theme.policies["base"], "evaluation before")
        mark(axes, curve["episodes"][-1], after, colour, "evaluation after")
        axes.set(ylim=(-0.02, 1.03), xlabel="labelled training episodes", ylabel="success")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(loc="outside lower left", ncols=3, fontsize=8.5)

    caption = (
        "Line: mean of the last 40 labelled training episodes, in which the learner explores. "
        "Dots: deterministic evaluation on the same starts before and after, with 95 % Wilson "
        "intervals."
    )
    return render_figure(
        "robot_learning", "Learning on the robot", caption, size=(9.4, 3.2), draw=draw
    )
