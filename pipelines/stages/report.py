"""Stage ``report``: a self-contained HTML page on all results, and its figures as PNG files."""

from __future__ import annotations

from numpy import uint8
from numpy.typing import NDArray

from pipelines.stages.stage import (
    ARTIFACTS,
    BASE,
    EVALUATION,
    EXPLAIN,
    PLOTS,
    PROMOTION,
    PROMOTION_REAL,
    REPORT,
    STEERING,
    TRANSFER,
    Stage,
    main,
)
from zprl import durable
from zprl.report import page, video_strip
from zprl.report.inputs import LEARNERS, POLICIES, ROBOT_AFTER, ROBOT_BEFORE, Sources

INPUTS = (
    ARTIFACTS / "data_report",
    BASE,
    *(EVALUATION / name for name in (*POLICIES, ROBOT_BEFORE, ROBOT_AFTER)),
    *(STEERING / name for name in (*LEARNERS, "real")),
    EXPLAIN,
    PROMOTION,
    PROMOTION_REAL,
    TRANSFER,
    PLOTS / "pretrain.csv",
    PLOTS / "finetune_real.csv",
    *(PLOTS / name for name in LEARNERS.values()),
)


def draw_scene(poses: video_strip.Poses) -> NDArray[uint8]:
    """Draw one frame of the video, (height, width, 3)."""
    from zprl.evaluation import render, scene_solids

    return render.render(
        scene_solids.solids(poses), width=video_strip.WIDTH, height=video_strip.HEIGHT
    )


def report(stage: Stage) -> None:
    """Make the page; parts that are missing are named on it; they do not fail the stage."""
    made = page.make(Sources(ARTIFACTS, PLOTS), title=stage.params.report.title, render=draw_scene)
    durable.write_dir(REPORT, made.fill)
    stage.tracker.log_dir(REPORT, "report")
    for part, problem in made.problems.items():
        stage.log.info(f"missing on the page: {part}: {problem}")
    stage.log.info(
        f"{REPORT / page.HTML}: {len(made.files)} figures, missing parts: {len(made.problems)}"
    )


if __name__ == "__main__":
    # By hand the page can be made at any time, of what is there by then.
    main(
        "report",
        report,
        sections=("report",),
        inputs=tuple(path for path in INPUTS if path.exists()),
    )
