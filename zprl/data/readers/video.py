"""Frames of one episode out of a video file, decoded by FFmpeg (through PyAV) in a child.

Decoders are large C libraries and videos are foreign files, so that FFmpeg never reads them in
this process: the child of :mod:`zprl.data.readers.sandbox`, with its limits of time and memory,
writes raw frames into a scratch file.  The container must be MP4: left to guess, FFmpeg would also
follow playlists to other files and hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zprl import durable
from zprl.data.readers import sandbox
from zprl.data.readers.arrow_columns import MAX_PIXELS
from zprl.data.readers.hdf5_guard import MAX_BYTES, RefusedError

CODECS = ("h264", "hevc", "av1", "libdav1d", "vp9", "mpeg4")
"""What LeRobot writes or has written."""

S_PER_FRAME = 0.25
"""Time the child has for each frame, two orders of magnitude more than it needs."""

MAX_S = 3600.0
MAX_SPARE = 2000
"""Frames decoded beyond the wanted ones: from the key frame before the window, and after a gap."""

REMEDY = "copy the file again from its source, or run `dvc pull`"


def read_frames(path: Path, *, start_s: float, rate_hz: float, frames: int) -> np.ndarray:
    """Return images (frames, H, W, 3) uint8, RGB, each within half a frame of its time.

    Args:
        path: An MP4 file.
        start_s: Time of the first frame in it [s].
        rate_hz: Frame k is the one nearest to ``start_s + k / rate_hz``.
        frames: How many there are.

    Raises:
        RefusedError: D01 (damaged), D03 (frames are missing), D05 (another codec, changing size),
            D17 (too large).
    """
    limit_s = min(MAX_S, sandbox.BASE_S + round(S_PER_FRAME * frames))
    with durable.scratch() as file:
        height, width = sandbox.PROBE.call(
            f"{__name__}:decode",
            limit_s=limit_s,
            file=file,
            path=str(path.absolute()),
            start_s=start_s,
            rate_hz=rate_hz,
            frames=frames,
        )
        file.seek(0)
        return np.fromfile(file, np.uint8).reshape(frames, height, width, 3)


def decode(
    path: str, start_s: float, rate_hz: float, frames: int, file: BinaryIO
) -> tuple[int, int]:
    """Write the frames into ``file``, in the child; return their height and width.

    Raises:
        RefusedError: as :func:`read_frames`.
    """
    import av

    av.logging.set_level(None)
    # No other protocol: a file must not make FFmpeg open another one.
    options = {"protocol_whitelist": "file", "max_streams": "16", "max_pixels": str(MAX_PIXELS)}
    try:
        with av.open(path, format="mov", options=options) as container:
            stream = next(iter(container.streams.video), None)
            height, width = _check(stream, frames)
            missing = _write(
                container,
                stream,
                file,
                start_s=start_s,
                rate_hz=rate_hz,
                size=(frames, height, width),
            )
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        # Without the file's full name, which differs between machines.
        raise RefusedError("D01", f"FFmpeg cannot read it: {error.strerror}", REMEDY) from error
    if missing:
        text = (
            f"no frame lies within half a frame of {start_s + missing[0] / rate_hz:.3f} s; "
            f"{len(missing)} of {frames} are missing"
        )
        raise RefusedError("D03", text, "check that the video is whole and of this set")
    return height, width


def _check(stream: Any, frames: int) -> tuple[int, int]:
    """Return height and width of a stream that may be decoded."""
    if stream is None:
        raise RefusedError("D05", "it has no images", REMEDY)
    context = stream.codec_context
    names = ("unknown",) if context is None else (context.name, context.codec.canonical_name)
    if not set(names) & set(CODECS):
        raise RefusedError(
            "D05", f"its codec is {names[0][:20]}", f"encode it again as one of {', '.join(CODECS)}"
        )

    height, width = context.height, context.width
    if not 0 < height * width <= MAX_PIXELS or frames * height * width * 3 > MAX_BYTES:
        text = (
            f"{frames} frames of {width} x {height}; the limits are {MAX_PIXELS} pixels "
            f"and {MAX_BYTES} bytes"
        )
        raise RefusedError("D17", text, "split long episodes, or make the images smaller")
    return height, width


def _write(
    container: Any,
    stream: Any,
    out: Any,
    *,
    start_s: float,
    rate_hz: float,
    size: tuple[int, int, int],
) -> list[int]:
    """Write each frame at its place; return the numbers of those that never came."""
    import av
    from av.video.reformatter import Interpolation

    frames, height, width = size
    # The same bytes on every processor, and colour at full resolution.
    exact = (
        Interpolation.BICUBIC
        | Interpolation.BITEXACT
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
    )
    left = dict.fromkeys(range(frames))  # ordered set

    if start_s > 0:
        container.seek(
            int((start_s - 0.5 / rate_hz) / float(stream.time_base)), stream=stream, backward=True
        )

    try:
        for count, frame in enumerate(container.decode(stream)):
            if frame.time is None:
                continue
            number = round((frame.time - start_s) * rate_hz)
            if number >= frames or count > frames + MAX_SPARE:
                break
            if number not in left:
                continue
            if (frame.height, frame.width) != (height, width):
                text = f"the size changes to {frame.width} x {frame.height}"
                raise RefusedError("D05", text, "record images of one size")
            del left[number]
            out.seek(number * height * width * 3)
            out.write(frame.to_ndarray(format="rgb24", interpolation=exact).tobytes())
            if not left:
                break
    except av.error.EOFError:
        pass
    return list(left)
