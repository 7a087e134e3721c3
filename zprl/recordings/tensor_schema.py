"""Tensors of an episode, and the checks that they pass when written and when read.

L control steps, M decisions, A action, C chunk_steps, D embedding, R residual, Z latent, P robot
features, W numbers of all tool poses, V numbers of all wrenches, S features sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zprl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FRAMES: dict[str, tuple[str, str]] = {
    "stamp": ("float64", "L+1"),
    "host": ("float64", "L+1"),
    "features": ("float64", "L+1 P"),
    "measured": ("float64", "L+1 W"),
    "commanded": ("float32", "L A"),
    "sent": ("float64", "L S"),
    "wrench": ("float64", "L V"),
    "chunk": ("int64", "L"),
    "intervention": ("bool", "L"),
    "clipped": ("bool", "L"),
}
"""Name to dtype and shape; ``obs/<key>`` besides, (L + 1, ...) float32 or, for images, uint8."""
CHUNKS: dict[str, tuple[str, str]] = {
    "id": ("int64", "M"),
    "version": ("int64", "M"),
    "step": ("int64", "M"),
    "obs_step": ("int64", "M"),
    "obs_stamp": ("float64", "M"),
    "embedding": ("float32", "M D"),
    "anchor": ("float32", "M R"),
    "residual": ("float32", "M R"),
    "point": ("float32", "M R"),
    "targets": ("float32", "M C A"),
    "mean": ("float32", "M Z"),
    "log_std": ("float32", "M Z"),
    "steps": ("int64", "M"),
    "intervened": ("bool", "M"),
    "final_embedding": ("float32", "D"),
    "final_anchor": ("float32", "R"),
}
OPTIONAL = {"wrench", "mean", "log_std"}
"""A robot may have no force sensor; only the latent space has a posterior."""
OBS = "obs/"
NO_CHUNK = -1
"""A control step at which no chunk was played: the arm held, or a person moved it."""
POSE_WIDTH, WRENCH_WIDTH = 7, 6


def check(frames: Mapping[str, Tensor], chunks: Mapping[str, Tensor], where: str) -> None:
    """Check an episode's tensors.

    Names, dtypes and shapes must be those of this module, numbers finite; clocks must not go back,
    and frames and chunks must agree.

    Args:
        frames: Tensors per control step.
        chunks: Tensors per decision.
        where: Place that an error names.

    Raises:
        DataError: naming ``where`` and what is wrong.
    """
    problem = _problem(frames, chunks)
    if problem:
        raise DataError(
            f"{where}: {problem}", remedy="restore it from a copy, or label the episode 'discard'"
        )


def _problem(frames: Mapping[str, Tensor], chunks: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with an episode's tensors; ``None``: nothing."""
    sizes: dict[str, int] = {}
    plain = {name: value for name, value in frames.items() if not name.startswith(OBS)}
    return (
        _shapes(plain, FRAMES, sizes)
        or _shapes(chunks, CHUNKS, sizes)
        or _observations(frames, sizes["L+1"])
        or _sizes(sizes)
        or _numbers(frames, chunks)
        or _executed(frames, chunks)
    )


def _shapes(
    tensors: Mapping[str, Tensor], spec: Mapping[str, tuple[str, str]], sizes: dict[str, int]
) -> str | None:
    """Fill ``sizes`` with the size of each letter; return what does not fit."""
    missing = set(spec) - set(tensors) - OPTIONAL
    unknown = set(tensors) - set(spec)
    if missing or unknown:
        return f"{', '.join(sorted(missing or unknown))} {'missing' if missing else 'unknown'}"

    for name, (dtype, letters) in spec.items():
        if name not in tensors:
            continue
        value = tensors[name]
        shape = tuple(value.shape)
        dims = letters.split()
        if str(value.dtype) != f"torch.{dtype}" or value.dim() != len(dims):
            return f"{name} is {value.dtype} {shape}, expected {dtype} ({letters})"

        for letter, size in zip(dims, shape, strict=True):
            known = sizes.setdefault(letter, size)
            if known != size:
                return f"{name} is {shape}, expected ({letters}) with {letter} = {known}"
    return None


def _observations(frames: Mapping[str, Tensor], rows: int) -> str | None:
    """Return what is wrong with the observations, of which there must be at least one."""
    observations = {name: value for name, value in frames.items() if name.startswith(OBS)}
    for name, value in observations.items():
        known_type = str(value.dtype) in ("torch.float32", "torch.uint8")
        if not known_type or value.dim() < 2 or len(value) != rows:
            shape = tuple(value.shape)
            return f"{name} is {value.dtype} {shape}, expected float32 or uint8 ({rows}, ...)"
    return None if observations else "there is no observation"


def _sizes(sizes: Mapping[str, int]) -> str | None:
    """Return which sizes do not fit together."""
    steps, stamps, decisions = sizes["L"], sizes["L+1"], sizes["M"]
    if stamps != steps + 1 or steps == 0 or decisions == 0:
        return (
            f"{steps} control steps, {stamps} stamps and {decisions} decisions do not fit together"
        )
    if sizes["W"] % POSE_WIDTH or sizes.get("V", 0) % WRENCH_WIDTH:
        return "measured holds 7 numbers per arm, wrench 6"
    return None


def _numbers(frames: Mapping[str, Tensor], chunks: Mapping[str, Tensor]) -> str | None:
    """Return which tensor is not finite, or which clock goes back."""
    for name, value in (*frames.items(), *chunks.items()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{name} is not finite"
    for name in ("stamp", "host"):
        if bool((frames[name].diff() < 0).any()):
            return f"{name} goes back"
    return None


def _executed(frames: Mapping[str, Tensor], chunks: Mapping[str, Tensor]) -> str | None:
    """Return where ``step`` and ``steps`` of the chunks contradict the frames."""
    played, ids = frames["chunk"], chunks["id"]
    first, counts = chunks["step"], chunks["steps"]

    if bool((ids.diff() <= 0).any()) or int(ids[0]) < 0 or bool((first.diff() <= 0).any()):
        return "the chunks are not in the order in which they were played"
    if not {int(n) for n in played.unique()} <= {int(n) for n in ids} | {NO_CHUNK}:
        return "a control step plays a chunk that is not recorded"

    for i, number in enumerate(ids):
        at = (played == number).nonzero()[:, 0]
        if len(at) == 0 or int(at[0]) != int(first[i]) or len(at) != int(counts[i]):
            return f"chunk {int(number)} and the control steps disagree about when it was played"
    return None
