"""A session in full swing, as the operator's page would see it."""

from __future__ import annotations

import io
import math
import random

from zprl.recordings.phases import PhaseKind
from zprl.session import clock
from zprl.session.events import Label, State
from zprl.session.processes.console.snapshot import (
    ArmHealth,
    EpisodeRow,
    EventRow,
    Gauge,
    HeartbeatRow,
    LearningCurve,
    LimitRow,
    Snapshot,
)

MORNING = 1_790_000_000.0


def episodes(count: int = 57, seed: int = 9) -> tuple[EpisodeRow, ...]:
    """20 evaluations, then training that gets better; the last one has no label yet."""
    luck = random.Random(seed)
    rows = []
    for number in range(1, count + 1):
        before = number <= 20
        good = luck.random() < (0.4 if before else 0.35 + 0.6 * (1 - math.exp(-(number - 20) / 14)))
        label = Label.SUCCESS if good else Label.FAILURE
        if number in (27, 41):
            label = Label.DISCARD
        rows.append(
            EpisodeRow(
                number=number,
                phase=PhaseKind.EVALUATE_BEFORE if before else PhaseKind.TRAIN,
                label=None if number == count else label,
                steps=112 + luck.randrange(80) if good else 240,
                seconds=8.0,
                stop="label" if good else "time up",
                version=None if before else max(0, number - 22),
                clips=luck.choice((0, 0, 0, 1, 3)),
                intervened=number in (23, 24, 31),
            )
        )
    return tuple(rows)


def snapshot(**changes: object) -> Snapshot:
    """A snapshot of episode 58, running."""
    luck = random.Random(5)
    facts: dict = {
        "session": "lift-cube-0412",
        "task": "lift cube",
        "simulated": True,
        "mode": "async",
        "seq": 412,
        "at": clock.now(),
        "state": State.RUNNING,
        "episode": 58,
        "phase": PhaseKind.TRAIN,
        "phase_done": 34,
        "phase_episodes": 120,
        "step": 86,
        "episode_steps": 240,
        "prompt": "Watch the arm. Press SUCCESS once the cube is lifted, FAILURE if it cannot be any more.",
        "rule": "A success is a cube held at least 10 cm above the table for one second.",
        "label_episode": 58,
        "weights": 35,
        "clips": 2,
        "arms": (
            ArmHealth(
                name="franka",
                mode="moving",
                ok=True,
                gauges=(
                    Gauge(name="Force", value=7.3, limit=25.0, unit="N"),
                    Gauge(name="Torque", value=0.9, limit=4.0, unit="Nm"),
                    Gauge(name="Tick p99", value=12.4, limit=15.0, unit="ms"),
                    Gauge(name="State age", value=4.0, limit=50.0, unit="ms"),
                ),
            ),
        ),
        "processes": tuple(
            HeartbeatRow(name=name, age_s=age, limit_s=1.0, restarts=restarts)
            for name, age, restarts in (
                ("supervisor", 0.1, 0),
                ("driver", 0.0, 0),
                ("actor", 0.1, 0),
                ("learner", 0.4, 1),
                ("recorder", 0.2, 0),
                ("camera front", 0.0, 0),
            )
        ),
        "events": (
            EventRow(
                at=MORNING - 312, level="note", kind="started", reason="episode 55, weights v32"
            ),
            EventRow(
                at=MORNING - 250,
                level="hold",
                kind="chunk_late",
                reason="the next chunk was 40 ms late; the arm held its pose",
            ),
            EventRow(
                at=MORNING - 181,
                level="note",
                kind="restart",
                reason="learner is back after 6.2 s; nothing was lost",
            ),
            EventRow(
                at=MORNING - 120,
                level="soft_stop",
                kind="wrench",
                reason="26.1 N for 3 ticks; 25 N are allowed",
            ),
            EventRow(
                at=MORNING - 118, level="note", kind="recovered", reason="recovery 1 of 3 in 600 s"
            ),
            EventRow(
                at=MORNING - 12,
                level="clip",
                kind="workspace",
                reason="target 4 mm below the table plane was raised",
            ),
            EventRow(
                at=MORNING - 9, level="clip", kind="step", reason="a step of 61 mm was cut to 50 mm"
            ),
        ),
        "episodes": episodes(),
        "curves": tuple(
            LearningCurve(
                name=name,
                x="update",
                points=[
                    (100 * i, start + rise * (1 - math.exp(-i / 20)) + noise * luck.random())
                    for i in range(60)
                ],
            )
            for name, start, rise, noise in (
                ("critic loss", 0.22, -0.2, 0.015),
                ("Q of executed", 0.32, 0.45, 0.03),
                ("entropy", -1, -2.9, 0.2),
            )
        ),
        "cameras": ("front",),
        "limits": (
            LimitRow(name="Workspace x", value="0.35 to 0.70 m"),
            LimitRow(name="Workspace y", value="-0.25 to 0.25 m"),
            LimitRow(name="Workspace z", value="0.02 to 0.50 m"),
            LimitRow(name="Step", value="50 mm"),
            LimitRow(name="Speed", value="0.25 m/s"),
            LimitRow(name="Jerk", value="30 m/s³"),
            LimitRow(name="Force", value="25 N"),
            LimitRow(name="Recoveries", value="3 in 600 s"),
        ),
        "limits_digest": "5f" * 32,
    }
    return Snapshot(**{**facts, **changes})


def camera_image(t: float = 0.0) -> bytes:
    """A JPEG of a gripper above a cube on a table, ``t`` in [0, 1] of the way up."""
    from PIL import Image, ImageDraw, ImageFilter

    image = Image.new("RGB", (960, 720), "#3d4650")
    draw = ImageDraw.Draw(image)
    for row in range(330):
        shade = 52 + row // 6
        draw.line((0, row, 960, row), fill=(shade, shade + 8, shade + 16))
    draw.polygon([(70, 330), (890, 330), (1060, 720), (-100, 720)], fill="#b99a72")
    for k in range(9):
        draw.line((70 + k * 102, 330, -100 + k * 145, 720), fill="#ad8e67", width=2)
    lift = int(130 * t)
    blur = Image.new("L", image.size, 0)
    ImageDraw.Draw(blur).ellipse((400, 525, 600, 580), fill=120)
    image.paste("#5d4a33", mask=blur.filter(ImageFilter.GaussianBlur(14)))
    draw = ImageDraw.Draw(image)
    y = 470 - lift
    draw.polygon([(450, y), (540, y), (560, y - 28), (470, y - 28)], fill="#e0554f")
    draw.polygon([(540, y), (560, y - 28), (560, y + 60), (540, y + 90)], fill="#8f2a27")
    draw.rectangle((450, y, 540, y + 90), fill="#c43d38")
    draw.rectangle((430, y - 110, 448, y + 45), fill="#23282e")
    draw.rectangle((562, y - 110, 580, y + 45), fill="#23282e")
    draw.rounded_rectangle((410, y - 190, 600, y - 105), 16, fill="#e8ebee")
    draw.rectangle((470, 0, 540, y - 190), fill="#dfe3e7")
    draw.line((505, 0, 505, y - 190), fill="#c4cad0", width=3)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
