"""The film strip: one episode under two policies, side by side in time."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zprl.errors import DataError
from zprl.evaluation.result import Evaluation
from zprl.report.inputs import POLICIES
from zprl.report.style import LIGHT, PageFigure

Poses = dict[str, NDArray[np.float64]]
Render = Callable[[Poses], NDArray[np.uint8]]
"""Draws poses (7,) by body name, position [m] and quaternion xyzw, as (height, width, 3)."""

WIDTH, HEIGHT = 320, 240
COLUMNS = 6
GAP = 6
DIM = 0.45
"""Share of the picture that is left where the episode is over."""
UNEVEN = 1.5
"""Where one episode is so many times longer than the other, the last column alone shows its end."""


@dataclass(frozen=True)
class VideoStrip:
    """The frames of one episode under one policy.

    Attributes:
        policy: Name of the policy.
        steps: (M,) environment step of each frame, rising.
        poses: (M, bodies, 7).
        bodies: Names.
        success: How it ended.
        length: Environment steps.
    """

    policy: str
    steps: NDArray[np.int64]
    poses: NDArray[np.float64]
    bodies: tuple[str, ...]
    success: bool
    length: int

    @classmethod
    def of(cls, found: Evaluation, episode: int) -> VideoStrip:
        """Take one episode out of an evaluation."""
        which = (found.tracks["film/episode"] == episode).numpy()
        steps, poses = (
            found.tracks["film/step"].numpy()[which],
            found.tracks["film/poses"].numpy()[which].astype(float),
        )
        return cls(
            found.policy, steps, poses, found.bodies, found.success[episode], found.length[episode]
        )

    def at(self, step: int) -> Poses:
        """The latest frame that is not after ``step``."""
        index = max(int(np.searchsorted(self.steps, step, side="right")) - 1, 0)
        return dict(zip(self.bodies, self.poses[index], strict=True))


def filmed(found: Evaluation) -> set[int]:
    """Episodes of which there are frames."""
    if "film/episode" not in found.tracks or not found.bodies:
        return set()
    return set(found.tracks["film/episode"].tolist())


def choose(first: Evaluation, second: Evaluation) -> tuple[int, str]:
    """The first filmed episode that only the second policy masters, and a sentence that says so; else the first filmed.

    Raises:
        DataError: no episode was filmed under both.
    """
    both = sorted(filmed(first) & filmed(second))
    if not both:
        raise DataError(
            "no episode was filmed under both policies",
            remedy="set evaluate.film_episodes above 0 and run them again",
        )
    for episode in both:
        if second.success[episode] and not first.success[episode]:
            return (
                episode,
                f"Episode {episode}: among the {len(both)} filmed ones, the first that only the steered policy masters.",
            )
    return (
        both[0],
        f"Episode {both[0]}: none of the {len(both)} filmed ones is mastered by the steered policy alone.",
    )


def columns(lengths: tuple[int, int]) -> list[int]:
    """Environment steps that the columns show: even in time, or, where one episode is much longer, even up to the shorter's end."""
    short, long = sorted(lengths)
    if long > UNEVEN * short:
        return [*(round(step) for step in np.linspace(0, short, COLUMNS - 1)), long]
    return [round(step) for step in np.linspace(0, long, COLUMNS)]


def strip(first: Evaluation, second: Evaluation, *, render: Render) -> PageFigure:
    """One row per policy, one column per moment; a frame after an episode's end is its last one, dimmed."""
    episode, why = choose(first, second)
    rows = [VideoStrip.of(found, episode) for found in (first, second)]
    moments = columns((rows[0].length, rows[1].length))
    size = (COLUMNS * WIDTH + (COLUMNS - 1) * GAP, len(rows) * HEIGHT + (len(rows) - 1) * GAP)
    canvas = Image.new("RGBA", size, (0, 0, 0, 0))  # the gaps show the page, be it light or dark
    for y, film in enumerate(rows):
        last: Image.Image | None = None
        for x, step in enumerate(moments):
            if last is None or step <= film.length:
                last = Image.fromarray(render(film.at(step)), "RGB").resize(
                    (WIDTH, HEIGHT), Image.Resampling.LANCZOS
                )
            frame = _dimmed(last) if step > film.length else last.copy()
            _write(frame, film, step / first.control_hz, label=x == 0, ended=step >= film.length)
            canvas.paste(frame, (x * (WIDTH + GAP), y * (HEIGHT + GAP)))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    caption = f"{why} Same start, same noise; times in simulated seconds."
    return PageFigure(
        "film", "What steering changes", caption, buffer.getvalue(), buffer.getvalue()
    )


def _dimmed(frame: Image.Image) -> Image.Image:
    grey = frame.convert("L").convert("RGB")
    return Image.blend(
        Image.new("RGB", frame.size, (40, 46, 54)), Image.blend(frame, grey, 0.7), DIM
    )


def _write(
    frame: Image.Image, film: VideoStrip, seconds: float, *, label: bool, ended: bool
) -> None:
    draw = ImageDraw.Draw(frame, "RGBA")
    _pill(draw, f"{seconds:.1f} s", (10, HEIGHT - 10), "lb", "#10151bb8")
    if label:
        _pill(draw, POLICIES[film.policy][0], (10, 10), "lt", LIGHT.policies[film.policy])
    if ended:
        _pill(
            draw,
            "success" if film.success else "failed",
            (WIDTH - 10, 10),
            "rt",
            LIGHT.good if film.success else LIGHT.bad,
        )


def _pill(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], anchor: str, colour: str
) -> None:
    """White text on a rounded patch whose corner named by ``anchor`` (l/r, t/b) lies at ``corner``."""
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"), 16)
    width, height = round(draw.textlength(text, font=font)) + 18, 27
    left = corner[0] if anchor[0] == "l" else corner[0] - width
    top = corner[1] if anchor[1] == "t" else corner[1] - height
    draw.rounded_rectangle((left, top, left + width, top + height), 8, fill=colour)
    draw.text((left + width / 2, top + height / 2), text, font=font, fill="white", anchor="mm")
