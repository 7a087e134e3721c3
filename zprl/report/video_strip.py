"""The video strip: one episode under two policies, side by side in time."""

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
from zprl.report.inputs import POLICIES, RECORD_REMEDY
from zprl.report.style import LIGHT, PageFigure

Poses = dict[str, NDArray[np.float64]]
Render = Callable[[Poses], NDArray[np.uint8]]
"""Draws poses (7,) by body name, position [m] and quaternion xyzw, as (height, width, 3)."""

NAME = "video"
"""Name of the page's part, of its file, and of the evaluations' tracks with frames."""
WIDTH = 320
HEIGHT = 240
COLUMNS = 6
GAP = 6
MARGIN = 10
FONT = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf"
DIM = 0.45
"""Share of the image that is left where the episode is over."""
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
    def of(cls, evaluation: Evaluation, episode: int) -> VideoStrip:
        """Take one episode out of an evaluation."""
        tracks = evaluation.tracks
        rows = (tracks[f"{NAME}/episode"] == episode).numpy()
        return cls(
            evaluation.policy,
            tracks[f"{NAME}/step"].numpy()[rows],
            tracks[f"{NAME}/poses"].numpy()[rows].astype(float),
            evaluation.bodies,
            evaluation.success[episode],
            evaluation.length[episode],
        )

    def at(self, step: int) -> Poses:
        """Return the poses of the latest frame that is not after ``step``."""
        index = max(int(np.searchsorted(self.steps, step, side="right")) - 1, 0)
        return dict(zip(self.bodies, self.poses[index], strict=True))


def recorded(evaluation: Evaluation) -> set[int]:
    """Return the episodes of which there are frames."""
    episodes = evaluation.tracks.get(f"{NAME}/episode")
    if episodes is None or not evaluation.bodies:
        return set()
    return set(episodes.tolist())


def choose(first: Evaluation, second: Evaluation) -> tuple[int, str]:
    """Choose the episode to show, and return it with a sentence that says why.

    It is the first recorded one that only the second policy masters, else the first recorded one.

    Raises:
        DataError: no episode was recorded under both.
    """
    both = sorted(recorded(first) & recorded(second))
    if not both:
        raise DataError("no episode was recorded under both policies", remedy=RECORD_REMEDY)

    for episode in both:
        if second.success[episode] and not first.success[episode]:
            among = f"among the {len(both)} recorded ones"
            why = f"{among}, the first that only the steered policy masters."
            return episode, f"Episode {episode}: {why}"
    why = f"none of the {len(both)} recorded ones is mastered by the steered policy alone."
    return both[0], f"Episode {both[0]}: {why}"


def columns(lengths: tuple[int, int]) -> list[int]:
    """Return the environment steps that the columns show, even in time.

    Where one episode is much longer, they are even up to the shorter's end.
    """
    short, long = sorted(lengths)
    if long > UNEVEN * short:
        return [*(round(step) for step in np.linspace(0, short, COLUMNS - 1)), long]
    return [round(step) for step in np.linspace(0, long, COLUMNS)]


def strip(first: Evaluation, second: Evaluation, *, render: Render) -> PageFigure:
    """Draw one row per policy and one column per moment.

    A frame after an episode's end is its last one, dimmed.
    """
    episode, why = choose(first, second)
    rows = [VideoStrip.of(evaluation, episode) for evaluation in (first, second)]
    moments = columns((rows[0].length, rows[1].length))
    size = (COLUMNS * WIDTH + (COLUMNS - 1) * GAP, len(rows) * HEIGHT + (len(rows) - 1) * GAP)
    canvas = Image.new("RGBA", size, (0, 0, 0, 0))  # the gaps show the page, be it light or dark
    for y, video in enumerate(rows):
        last: Image.Image | None = None
        for x, step in enumerate(moments):
            if last is None or step <= video.length:
                last = Image.fromarray(render(video.at(step)), "RGB").resize(
                    (WIDTH, HEIGHT), Image.Resampling.LANCZOS
                )
            frame = _dimmed(last) if step > video.length else last.copy()
            _write(frame, video, step / first.control_hz, label=x == 0, ended=step >= video.length)
            canvas.paste(frame, (x * (WIDTH + GAP), y * (HEIGHT + GAP)))

    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    data = buffer.getvalue()
    caption = f"{why} Same start, same noise; times in simulated seconds."
    return PageFigure(NAME, "What steering changes", caption, light=data, dark=data)


def _dimmed(frame: Image.Image) -> Image.Image:
    grey = frame.convert("L").convert("RGB")
    dark = Image.new("RGB", frame.size, (40, 46, 54))
    return Image.blend(dark, Image.blend(frame, grey, 0.7), DIM)


def _write(
    frame: Image.Image, video: VideoStrip, seconds: float, *, label: bool, ended: bool
) -> None:
    """Write time, the policy's name and the episode's end into a frame."""
    draw = ImageDraw.Draw(frame, "RGBA")
    _pill(draw, f"{seconds:.1f} s", (MARGIN, HEIGHT - MARGIN), "lb", "#10151bb8")
    if label:
        name = POLICIES[video.policy][0]
        _pill(draw, name, (MARGIN, MARGIN), "lt", LIGHT.policies[video.policy])
    if ended:
        text, colour = ("success", LIGHT.good) if video.success else ("failed", LIGHT.bad)
        _pill(draw, text, (WIDTH - MARGIN, MARGIN), "rt", colour)


def _pill(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], anchor: str, colour: str
) -> None:
    """Draw white text on a rounded patch.

    Its corner named by ``anchor`` (l/r, t/b) lies at ``corner``.
    """
    font = ImageFont.truetype(str(FONT), 16)
    width = round(draw.textlength(text, font=font)) + 18
    height = 27
    left = corner[0] if anchor[0] == "l" else corner[0] - width
    top = corner[1] if anchor[1] == "t" else corner[1] - height
    draw.rounded_rectangle((left, top, left + width, top + height), 8, fill=colour)
    draw.text((left + width / 2, top + height / 2), text, font=font, fill="white", anchor="mm")
