"""Pictures of a LeRobot dataset: films (small, lossy) or PNG in the table (large, lossless), and their statistics."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zprl.data.writers.lerobot_columns import QUANTILES
from zprl.errors import EnvironmentProblem

if TYPE_CHECKING:
    import pyarrow as pa

Pixels = np.ndarray
"""(L, H, W, 3) uint8."""

ENCODERS = {"libx264": "h264", "libsvtav1": "av1"}
"""Encoders by preference and the codec's name in ``info.json``."""

OPTIONS = {"crf": "18", "g": "2", "bf": "0", "threads": "1"}
"""Near the eye's limit; a key frame every other frame, as LeRobot has it, makes random access
cheap.  One thread: equal pictures give equal bytes on every machine."""


def encoder() -> str:
    """The encoder this installation has."""
    import av

    found = next((name for name in ENCODERS if name in av.codecs_available), None)
    if found is None:
        raise EnvironmentProblem(
            "this PyAV has no encoder for films",
            remedy="ask for pictures as png, or install PyAV from PyPI",
        )
    return found


def pixel_format(height: int, width: int) -> str:
    """Colour at half resolution, which every player knows; pictures of odd size cannot be halved."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def video_facts(pictures: Pixels, rate: int) -> dict[str, Any]:
    """LeRobot's description of a film."""
    height, width = pictures.shape[1:3]
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


def write_video(path: Path, pictures: Pixels, rate: int) -> None:
    """Write an mp4 whose frame ``i`` is shown at ``i / rate`` seconds."""
    import av

    height, width = pictures.shape[1:3]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder(), rate, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format(height, width)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def png(pictures: Pixels) -> pa.Array:
    """A column of PNG files, as the ``datasets`` library embeds them."""
    import pyarrow as pa
    from PIL import Image

    rows = []
    for number, picture in enumerate(pictures):
        target = io.BytesIO()
        Image.fromarray(picture).save(
            target, "PNG", compress_level=1
        )  # LeRobot's: a tenth larger than the default, several times faster
        rows.append({"bytes": target.getvalue(), "path": f"frame-{number:06d}.png"})
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@dataclass(frozen=True)
class LevelCounts:
    """How often each of 256 levels occurs in each channel: all statistics of any number of pictures, exactly.

    Attributes:
        counts: (3, 256).
        pictures: How many were counted.
    """

    counts: np.ndarray
    pictures: int

    @classmethod
    def of(cls, pictures: Pixels) -> LevelCounts:
        """Count an episode's."""
        return cls(
            np.stack([np.bincount(pictures[..., c].reshape(-1), minlength=256) for c in range(3)]),
            len(pictures),
        )

    def __add__(self, other: LevelCounts) -> LevelCounts:
        return LevelCounts(self.counts + other.counts, self.pictures + other.pictures)

    def stats(self) -> dict[str, Any]:
        """Statistics per channel in [0, 1], each (3, 1, 1) as nested lists; ``count`` is the number of pictures."""
        levels = np.arange(256)
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
        return {key: (value / 255).reshape(3, 1, 1).tolist() for key, value in numbers.items()} | {
            "count": [self.pictures]
        }

    def _quantile(self, q: float) -> np.ndarray:
        """As ``numpy.quantile`` of all pixels: between two neighbours it interpolates."""
        found = []
        for counts in self.counts:
            below = np.cumsum(counts)
            place = q * (below[-1] - 1)
            low, high = (
                np.searchsorted(below, rank, side="right")
                for rank in (np.floor(place), np.ceil(place))
            )
            found.append(low + (high - low) * (place - np.floor(place)))
        return np.array(found)
