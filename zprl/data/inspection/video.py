"""An episode to look at, as a strip of stills or a video.

It shows the episode's images, or where it has none the path of its end effector.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from zprl import durable
from zprl.data.episode import Episode, is_image
from zprl.data.inspection.plot_episode import title
from zprl.errors import ConfigError, DataError, EnvironmentProblem

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

STILLS = 12
COLUMNS = 4
MOST_IMAGES = 300
MOST_DRAWINGS = 60
"""Frames of an animation; of a longer episode they are spread evenly.  A drawing takes about a
tenth of a second."""
HEIGHT = 240
"""Images are enlarged or reduced to this height [pixels]."""
MIN_STEP_S = 0.02
"""Shortest time a GIF shows a frame: viewers slow down what is shorter."""
UNKNOWN_HZ = 15.0
DOT_SIZE = 6.0
LAST_DOT_SIZE = 60.0
SUFFIXES = (".png", ".gif", ".mp4")


def save(episode: Episode, path: Path | str) -> int:
    """Write an episode as a file and return the number of frames shown.

    A ``.png`` is a strip of stills, a ``.gif`` or ``.mp4`` a video in the episode's own time.

    Raises:
        ConfigError: another kind of file.
        DataError: neither images nor an end effector's position.
        EnvironmentProblem: an MP4 without PyAV, or a full disk.
    """
    path = Path(path)
    kind = path.suffix.lower()
    _check(episode, path, kind)
    if kind == ".png":
        at = spread(episode.length, STILLS)
        durable.write_bytes(path, _png(_strip(list(_frames(episode, at)))))
        return len(at)

    at = spread(episode.length, MOST_IMAGES if cameras(episode) else MOST_DRAWINGS)
    seconds = episode.length / (episode.rate_hz or UNKNOWN_HZ)
    step_s = max(MIN_STEP_S, seconds / len(at))
    make = _gif if kind == ".gif" else _mp4
    durable.write_bytes(path, make(_frames(episode, at), step_s))
    return len(at)


def _check(episode: Episode, path: Path, kind: str) -> None:
    """Refuse a file or an episode that :func:`save` cannot write."""
    if kind not in SUFFIXES:
        raise ConfigError(
            f"{path} is none of {', '.join(SUFFIXES)}",
            remedy="name the file *.png for a strip, *.gif or *.mp4 for an animation",
        )
    if kind == ".mp4" and importlib.util.find_spec("av") is None:
        raise EnvironmentProblem(
            "an .mp4 needs the module 'av' (PyAV)", remedy="install it, or name the file *.gif"
        )
    if not cameras(episode) and _path_key(episode) is None:
        raise DataError(
            f"{episode.name} has no images and no *eef_pos",
            remedy="`zprl demos plot` draws its numbers",
        )


def cameras(episode: Episode) -> list[str]:
    """Return the keys of observations that are images."""
    return [key for key, value in episode.obs.items() if is_image(value)]


def spread(length: int, most: int) -> list[int]:
    """Return at most ``most`` of the frames, evenly, the first and the last among them.

    >>> spread(3, 10), spread(101, 3)
    ([0, 1, 2], [0, 50, 100])
    """
    places = np.linspace(0, length - 1, min(length, most)).round().astype(int)
    frames: list[int] = np.unique(places).tolist()
    return frames


def _path_key(episode: Episode) -> str | None:
    return next(
        (
            key
            for key, value in episode.obs.items()
            if key.endswith("eef_pos") and value.shape[1:] == (3,)
        ),
        None,
    )


def _frames(episode: Episode, at: Sequence[int]) -> Iterator[Image.Image]:
    if keys := cameras(episode):
        for frame in at:
            yield _beside([Image.fromarray(episode.obs[key][frame]) for key in keys])
        return
    key = _path_key(episode)
    assert key is not None
    yield from _drawings(episode, key, at)


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    """Put images in a row of one height; small ones are enlarged without blurring their pixels."""
    scaled = []
    for image in images:
        width = max(1, round(image.width * HEIGHT / image.height))
        method = Image.Resampling.NEAREST if image.height < HEIGHT else Image.Resampling.BILINEAR
        scaled.append(image.resize((width, HEIGHT), method))

    row = Image.new("RGB", (sum(image.width for image in scaled), HEIGHT))
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width
    return row


def _drawings(episode: Episode, key: str, at: Sequence[int]) -> Iterator[Image.Image]:
    """Draw the path so far, in colours of the gripper, before the whole path in grey."""
    track = episode.obs[key].astype(float)
    name, gripper = _gripper(episode)
    colours = {
        "cmap": "coolwarm",
        "vmin": gripper.min(),
        "vmax": gripper.max() + 1e-9,
    }
    # after_reset: no matplotlibrc, of this user or of the working folder, changes the image.
    with style.context({"font.size": 7}, after_reset=True):
        figure = Figure(figsize=(4.6, 3.6), dpi=100)
        canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped
        axes = _path_axes(figure, track)
        figure.suptitle(title(episode), fontsize=8, parse_math=False)
        passed = axes.scatter(*track[:1].T, c=gripper[:1], s=8, **colours)
        scale = figure.colorbar(passed, cax=figure.add_axes((0.84, 0.25, 0.02, 0.45)))
        scale.set_label(name, parse_math=False)

        for frame in at:
            passed.remove()
            shown = slice(0, frame + 1)
            sizes = np.full(frame + 1, DOT_SIZE)
            sizes[-1] = LAST_DOT_SIZE
            passed = axes.scatter(
                *track[shown].T, c=gripper[shown], s=sizes, depthshade=False, **colours
            )
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _path_axes(figure: Figure, track: np.ndarray) -> Axes3D:
    """Add a cube around a path (L, 3) with the path in grey."""
    middle = (track.max(0) + track.min(0)) / 2
    reach = max(float(np.ptp(track, axis=0).max()) / 2, 1e-3)
    axes = cast("Axes3D", figure.add_axes((0.0, 0.02, 0.76, 0.9), projection="3d"))
    axes.set_box_aspect(None, zoom=0.9)  # room for the labels
    axes.plot(*track.T, color="#9aa5b1", lw=0.8)
    limits = (axes.set_xlim, axes.set_ylim, axes.set_zlim)
    for set_limit, centre in zip(limits, middle, strict=True):
        set_limit(centre - reach, centre + reach)
    axes.set(xlabel="x, m", ylabel="y, m", zlabel="z, m")
    return axes


def _gripper(episode: Episode) -> tuple[str, np.ndarray]:
    """Return name and values (L,) of the gripper's observation, or else the frame's number."""
    keys = [key for key in episode.obs if "gripper" in key and not is_image(episode.obs[key])]
    for key in sorted(keys, key=lambda key: not key.endswith("gripper_command")):
        return key, episode.obs[key][:, 0].astype(float)
    return "frame", np.arange(episode.length, dtype=float)


def _strip(stills: Sequence[Image.Image]) -> Image.Image:
    columns = min(COLUMNS, len(stills))
    width, height = stills[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(stills) // columns) * height), "white")
    for number, still in enumerate(stills):
        sheet.paste(still, (number % columns * width, number // columns * height))
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _gif(frames: Iterator[Image.Image], step_s: float) -> bytes:
    buffer = io.BytesIO()
    first = next(frames)
    # GIF counts in hundredths of a second.
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames,
        duration=max(2, round(100 * step_s)) * 10,
        loop=0,
    )
    return buffer.getvalue()


def _mp4(frames: Iterator[Image.Image], step_s: float) -> bytes:
    from fractions import Fraction

    import av

    buffer = io.BytesIO()
    video_frame: Any = av.VideoFrame  # PyAV leaves its methods untyped
    with av.open(buffer, "w", format="mp4") as container:
        stream = None
        for frame in frames:
            # H.264's colours come in squares of two.
            even = frame.crop((0, 0, frame.width // 2 * 2, frame.height // 2 * 2))
            if stream is None:
                rate = Fraction(1 / step_s).limit_denominator(1000)
                stream = container.add_stream("h264", rate=rate)
                stream.width = even.width
                stream.height = even.height
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(video_frame.from_image(even)))
        if stream is not None:
            container.mux(stream.encode())
    return buffer.getvalue()
