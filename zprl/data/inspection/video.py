"""An episode to look at: its pictures, or where it has none the path of its end effector, as a strip or in motion."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from zprl import durable
from zprl.data.episode import Episode, is_image
from zprl.data.inspection.plot_episode import title
from zprl.errors import ConfigError, DataError, EnvironmentProblem

STILLS = 12
COLUMNS = 4
MOST_PICTURES, MOST_DRAWINGS = 300, 60
"""Frames of an animation; of a longer episode they are spread evenly.  A drawing takes about a
tenth of a second."""
HEIGHT = 240
"""Pictures are enlarged or reduced to this height [pixels]."""
MIN_STEP_S = 0.02
"""Shortest time a GIF shows a frame: viewers slow down what is shorter."""
UNKNOWN_HZ = 15.0
SUFFIXES = (".png", ".gif", ".mp4")


def save(episode: Episode, path: Path | str) -> int:
    """Write a film strip (``.png``) or an animation in the episode's own time (``.gif``, ``.mp4``); returns the number of frames shown.

    Raises:
        ConfigError: another kind of file.
        DataError: neither pictures nor an end effector's position.
        EnvironmentProblem: an MP4 without PyAV, or a full disk.
    """
    path = Path(path)
    kind = path.suffix.lower()
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
            f"{episode.name} has no pictures and no *eef_pos",
            remedy="`zprl demos plot` draws its numbers",
        )
    if kind == ".png":
        at = spread(episode.length, STILLS)
        durable.write_bytes(path, _png(_strip(list(_frames(episode, at)))))
        return len(at)
    at = spread(episode.length, MOST_PICTURES if cameras(episode) else MOST_DRAWINGS)
    seconds = episode.length / (episode.rate_hz or UNKNOWN_HZ)
    step_s = max(MIN_STEP_S, seconds / len(at))
    make = _gif if kind == ".gif" else _mp4
    durable.write_bytes(path, make(_frames(episode, at), step_s))
    return len(at)


def cameras(episode: Episode) -> list[str]:
    """Observations that are pictures."""
    return [key for key, value in episode.obs.items() if is_image(value)]


def spread(length: int, most: int) -> list[int]:
    """At most ``most`` of the frames, evenly, the first and the last among them.

    >>> spread(3, 10), spread(101, 3)
    ([0, 1, 2], [0, 50, 100])
    """
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist()


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


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, all of one height; small ones are enlarged without blurring their pixels."""
    scaled = []
    for picture in pictures:
        how = Image.Resampling.NEAREST if picture.height < HEIGHT else Image.Resampling.BILINEAR
        scaled.append(
            picture.resize((max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT), how)
        )
    row = Image.new("RGB", (sum(picture.width for picture in scaled), HEIGHT))
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _drawings(episode: Episode, key: str, at: Sequence[int]) -> Iterator[Image.Image]:
    """The path so far, in colours of the gripper, with the whole path in grey behind it."""
    track = episode.obs[key].astype(float)
    name, gripper = _gripper(episode)
    middle, reach = (
        (track.max(0) + track.min(0)) / 2,
        max(float(np.ptp(track, axis=0).max()) / 2, 1e-3),
    )
    # after_reset: no matplotlibrc, of this user or of the working folder, changes the image.
    with style.context({"font.size": 7}, after_reset=True):
        figure = Figure(figsize=(4.6, 3.6), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.02, 0.76, 0.9), projection="3d")
        axes.set_box_aspect(None, zoom=0.9)  # room for the labels
        axes.plot(*track.T, color="#9aa5b1", lw=0.8)
        for set_limit, centre in zip(
            (axes.set_xlim, axes.set_ylim, axes.set_zlim), middle, strict=True
        ):
            set_limit(centre - reach, centre + reach)
        axes.set(xlabel="x, m", ylabel="y, m", zlabel="z, m")
        figure.suptitle(title(episode), fontsize=8, parse_math=False)
        passed = axes.scatter(
            *track[:1].T,
            c=gripper[:1],
            cmap="coolwarm",
            vmin=gripper.min(),
            vmax=gripper.max() + 1e-9,
            s=8,
        )
        figure.colorbar(passed, cax=figure.add_axes((0.84, 0.25, 0.02, 0.45))).set_label(
            name, parse_math=False
        )
        for frame in at:
            passed.remove()
            shown = slice(0, frame + 1)
            sizes = np.full(frame + 1, 6.0)
            sizes[-1] = 60.0
            passed = axes.scatter(
                *track[shown].T,
                c=gripper[shown],
                cmap="coolwarm",
                vmin=gripper.min(),
                vmax=gripper.max() + 1e-9,
                s=sizes,
                depthshade=False,
            )
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _gripper(episode: Episode) -> tuple[str, np.ndarray]:
    """Name and values (L,) of what says most about the gripper; the frame's number where nothing does."""
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


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
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
    with av.open(buffer, "w", format="mp4") as container:
        stream = None
        for frame in frames:
            even = frame.crop(
                (0, 0, frame.width // 2 * 2, frame.height // 2 * 2)
            )  # H.264's colours come in squares of two
            if stream is None:
                stream = container.add_stream(
                    "h264", rate=Fraction(1 / step_s).limit_denominator(1000)
                )
                stream.width, stream.height, stream.pix_fmt = even.width, even.height, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        if stream is not None:
            container.mux(stream.encode())
    return buffer.getvalue()
