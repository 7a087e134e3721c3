"""Arrow columns into arrays of numbers and images, with every type and width checked."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from zprl.data.readers.hdf5_guard import MAX_BYTES, RefusedError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PIXELS = 4096 * 2304
"""Largest image: beyond 4K nothing is recorded of a robot."""


def numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column of numbers or vectors as (L, width) float32; single numbers have width 1.

    Raises:
        RefusedError: D05 for other types, empty places, or vectors of different widths.
    """
    return _values(column, name).astype(np.float32)


def exact(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column of single numbers as (L,) float64.

    Raises:
        RefusedError: D05.
    """
    values = _values(column, name)
    if values.shape[1] != 1:
        raise RefusedError(
            "D05",
            f"{name} has {values.shape[1]} numbers per frame, expected 1",
            "write one number per frame",
        )
    return values[:, 0].astype(np.float64)


def _values(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column as numbers (L, width) of its own type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, rows = column.type, len(column)
    if column.null_count:
        raise RefusedError(
            "D05", f"{name} is empty in {column.null_count} of {rows} frames", "record every frame"
        )

    flat = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    width = 1
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        widths = pc.unique(pc.list_value_length(flat)).to_pylist()
        if len(widths) != 1 or not widths[0]:
            raise RefusedError(
                "D05",
                f"{name} has vectors of the widths {sorted(widths)[:5]}",
                "write vectors of one width",
            )
        width, flat = widths[0], flat.flatten()
        kind = flat.type

    if flat.null_count or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    ):
        raise RefusedError(
            "D05",
            f"{name} is of type {str(column.type)[:60]}, expected numbers or vectors",
            "store plain numbers",
        )
    # A number beyond float32 becomes infinity, which the checks report as D04.
    with np.errstate(over="ignore", invalid="ignore"):
        values: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(rows, width)
    return values


def stills(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Decode a column of images (a struct of ``bytes`` and ``path``) as (L, H, W, 3) uint8.

    Raises:
        RefusedError: D05 where one is no PNG or JPEG or has another size, D16 where it lies in
            another file, D17 where it is too large.
    """
    import pyarrow as pa

    kind = column.type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise RefusedError(
            "D05",
            f"{name} is of type {str(kind)[:60]}, expected encoded images",
            "write them with LeRobot",
        )

    images: np.ndarray | None = None
    values = (value for chunk in column.chunks for value in chunk.field("bytes"))
    for frame, value in enumerate(values):
        data = value.as_py()
        if data is None:
            raise RefusedError(
                "D16",
                f"{name} keeps frame {frame} in another file",
                "embed the images: LeRobot's `embed_images`",
            )
        image = _decode(data, f"{name}, frame {frame}")
        if images is None:
            if len(column) * image.nbytes > MAX_BYTES:
                text = (
                    f"{name} has {len(column)} images of {image.nbytes} bytes, "
                    f"the limit is {MAX_BYTES}"
                )
                raise RefusedError("D17", text, "split long episodes, or make the images smaller")
            images = np.empty((len(column), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise RefusedError(
                "D05",
                f"{name} changes its size to {image.shape} at frame {frame}",
                "record images of one size",
            )
        images[frame] = image
    if images is None:
        raise RefusedError("D05", f"{name} has no images", "record every frame")
    return images


def _decode(data: bytes, place: str) -> np.ndarray:
    """Decode one PNG or JPEG as (H, W, 3) uint8."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # The limit below is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise RefusedError(
                        "D17",
                        f"{place} is {width} x {height}, the limit is {MAX_PIXELS} pixels",
                        "make them smaller",
                    )
                if image.mode not in ("RGB", "RGBA", "L", "P"):
                    raise RefusedError(
                        "D05",
                        f"{place} is of mode {image.mode}, expected colours of 8 bits",
                        "leave the key out",
                    )
                return np.asarray(image.convert("RGB"))
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError(
            "D17",
            f"{place} is larger than any image, the limit is {MAX_PIXELS} pixels",
            "make them smaller",
        ) from error
    except Exception as error:  # Pillow turns damaged bytes into many exception types
        raise RefusedError(
            "D05", f"{place} is not a readable PNG or JPEG", "copy the file again from its source"
        ) from error
