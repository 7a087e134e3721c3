"""Images of a LeRobot dataset and their statistics.

They are stored as videos (small, lossy) or as PNG in the table (large, lossless).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zprl.data.writers.lerobot_columns import QUANTILES
from zprl.errors import EnvironmentProblem

if TYPE_CHECKING:
    import pyarrow as pa
    from av.video.stream import VideoStream

Pixels = np.ndarray
"""(L, H, W, 3) uint8."""

ENCODERS = {"libx264": "h264", "libsvtav1": "av1"}
"""Encoders by preference and the codec's name in ``info.json``."""

OPTIONS = {"crf": "18", "g": "2", "bf": "0", "threads": "1"}
"""Losses are hardly visible; a key frame every other frame, as LeRobot has it, makes random access
cheap.  One thread: equal images give equal bytes on every machine."""

PNG_LEVEL = 1
"""LeRobot's: a tenth larger files than the default, several times faster."""
LEVELS = 256


def encoder() -> str:
    """Return the encoder this installation has.

    Raises:
        EnvironmentProblem: it has none.
    """
    import av

    available = next((name for name in ENCODERS if name in av.codecs_available), None)
    if available is None:
        raise EnvironmentProblem(
            "this PyAV has no encoder for videos",
            remedy="ask for images as png, or install PyAV from PyPI",
        )
    return available


def pixel_format(height: int, width: int) -> str:
    """Return colour at half resolution, which every player knows, unless a size is odd."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def video_facts(images: Pixels, rate: int) -> dict[str, Any]:
    """Return LeRobot's description of a video."""
    height, width = images.shape[1:3]
    return {
        "video.height": height,
        "video.width": width,
        "video.channels": 3,
        "video.codec": ENCODERS[encoder()],
        "video.pix_fmt": pixel_format(height, width),
        "video.fps": rate,
        "video.is_depth_map": False,
        "has_audio": False,
    }


def write_video(path: Path, images: Pixels, rate: int) -> None:
    """Write an mp4 whose frame ``i`` is shown at ``i / rate`` seconds."""
    import av

    height, width = images.shape[1:3]
    with av.open(str(path), "w") as output:
        stream = cast("VideoStream", output.add_stream(encoder(), rate, options=OPTIONS))
        stream.width = width
        stream.height = height
        stream.pix_fmt = pixel_format(height, width)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def png(images: Pixels) -> pa.Array:
    """Return a column of PNG files, as the ``datasets`` library embeds them."""
    import pyarrow as pa
    from PIL import Image

    rows = []
    for number, image in enumerate(images):
        target = io.BytesIO()
        Image.fromarray(image).save(target, "PNG", compress_level=PNG_LEVEL)
        rows.append({"bytes": target.getvalue(), "path": f"frame-{number:06d}.png"})
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@dataclass(frozen=True)
class LevelCounts:
    """Counts of the 256 levels per channel: exact statistics of any number of images.

    Attributes:
        counts: (3, 256).
        images: Number of images counted.
    """

    counts: np.ndarray
    images: int

    @classmethod
    def of(cls, images: Pixels) -> LevelCounts:
        """Count the levels of an episode's images."""
        counts = [np.bincount(images[..., c].reshape(-1), minlength=LEVELS) for c in range(3)]
        return cls(np.stack(counts), len(images))

    def __add__(self, other: LevelCounts) -> LevelCounts:
        return LevelCounts(self.counts + other.counts, self.images + other.images)

    def stats(self) -> dict[str, Any]:
        """Return statistics per channel in [0, 1], each (3, 1, 1) as nested lists.

        ``count`` is the number of images.
        """
        levels = np.arange(LEVELS)
        total = self.counts.sum(1)
        mean = self.counts @ levels / total
        variance = (self.counts * (levels - mean[:, None]) ** 2).sum(1) / total
        seen = self.counts > 0
        numbers = {
            "min": seen.argmax(1),
            "max": 255 - seen[:, ::-1].argmax(1),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        numbers |= {name: self._quantile(q) for name, q in QUANTILES.items()}
        per_channel = {
            key: (value / 255).reshape(3, 1, 1).tolist() for key, value in numbers.items()
        }
        return {**per_channel, "count": [self.images]}

    def _quantile(self, q: float) -> np.ndarray:
        """Return ``numpy.quantile`` of all pixels: between two neighbours it interpolates."""
        quantiles = []
        for counts in self.counts:
            below = np.cumsum(counts)
            place = q * (below[-1] - 1)
            low, high = (
                np.searchsorted(below, rank, side="right")
                for rank in (np.floor(place), np.ceil(place))
            )
            quantiles.append(low + (high - low) * (place - np.floor(place)))
        return np.array(quantiles)
