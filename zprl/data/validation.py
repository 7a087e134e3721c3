"""Checks of episodes: each defect is a finding with a sentence, never a stack trace.

Readers report the defects of files; these checks are of what the numbers mean.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zprl.data.episode import CONSTANT_RANGE, Episode, is_image, is_quaternion
from zprl.data.findings import Finding

POSE_ACTION_DIM = 10
"""Position 3, 6-D rotation, gripper 1: the action layout whose rotation part can be checked."""


Widths = tuple[tuple[str, int | tuple[int, ...]], ...]
"""Width of each observation, in order; of images height, width and 3."""

Shape = tuple[Widths, int]
"""Widths of the observations and width of the actions: equal for all episodes of one store."""


@dataclass(frozen=True)
class ValidationLimits:
    """Limits of what counts as good (all ours).

    Attributes:
        min_length: Frames an episode must have: ``policy.obs_steps + policy.chunk_steps``.
        rotation_tolerance: Deviation of a quaternion's norm, or of 6-D rotation columns from
            orthonormal.
        jump_m: Largest step of the end effector between frames; 3 m/s (a Franka FR3's limit) at 15
            Hz is 0.2 m.
        frozen_frames: So many identical robot states in a row while the commands move are a frozen
            recording.
        frozen_command: Range of the commands within those frames that counts as moving.
    """

    min_length: int = 2
    rotation_tolerance: float = 1e-2
    jump_m: float = 0.2
    frozen_frames: int = 10
    frozen_command: float = 0.02


def check_episode(episode: Episode, *, file: str, limits: ValidationLimits) -> list[Finding]:
    """Return all defects of one episode; an empty list means it is good."""

    def finding(
        code: str,
        message: str,
        remedy: str,
        frame: int | None = None,
        severity: Literal["error", "warning"] = "error",
    ) -> Finding:
        return Finding(code, severity, file, message, remedy, episode.name, frame)

    if episode.length < limits.min_length:
        text = (
            f"{episode.length} frames, at least {limits.min_length} are needed "
            "(obs_steps + chunk_steps)"
        )
        return [finding("D12", text, "record longer demos or shorten policy.chunk_steps")]

    # The other checks compute with these numbers.
    infinite = [finding("D04", *defect) for defect in _infinite(episode)]
    if infinite:
        return infinite

    findings = [finding("D08", *defect) for defect in _rotations(episode, limits)]
    findings += [finding("D11", *defect) for defect in _jumps(episode, limits)]
    run = _frozen(episode, limits)
    if run is not None:
        start, length = run
        text = f"the robot's state is the same for {length} frames while the commands move"
        findings.append(finding("D10", text, "check the state stream of the recording", start))
    return findings


def _infinite(episode: Episode) -> Iterator[tuple[str, str, int]]:
    """Yield message, remedy and first frame of each array with NaN or infinity."""
    arrays = {
        **{f"obs/{key}": value for key, value in _states(episode).items()},
        "actions": episode.actions,
        "rewards": episode.rewards,
    }
    for key, value in arrays.items():
        bad = ~np.isfinite(value)
        if bad.any():
            frame = int(bad.reshape(len(value), -1).any(1).argmax())
            text = f"{key} has {int(bad.sum())} values that are not finite"
            yield text, "cut or re-record the demo", frame


def _jumps(episode: Episode, limits: ValidationLimits) -> Iterator[tuple[str, str, int]]:
    """Yield message, remedy and first frame of each position that jumps between frames."""
    for key in (key for key in episode.obs if key.endswith("eef_pos")):
        step = np.linalg.norm(np.diff(episode.obs[key].astype(np.float64), axis=0), axis=1)
        if step.max() > limits.jump_m:
            frame = int((step > limits.jump_m).argmax()) + 1
            text = (
                f"{key} jumps by {step[frame - 1]:.3f} m between frames, "
                f"the limit is {limits.jump_m} m"
            )
            yield text, "check for lost frames or a changed frame of reference", frame


def _states(episode: Episode) -> dict[str, np.ndarray]:
    """Return the observations that are not images."""
    return {key: value for key, value in episode.obs.items() if not is_image(value)}


def _rotations(
    episode: Episode, limits: ValidationLimits
) -> Iterator[tuple[str, str, int] | tuple[str, str, int, Literal["warning"]]]:
    """Yield message, remedy, frame (and severity) of each rotation defect."""
    for key, value in episode.obs.items():
        if not is_quaternion(key) or value.shape[1] != 4:
            continue
        wide = value.astype(np.float64)
        off = np.abs(np.linalg.norm(wide, axis=1) - 1)
        if off.max() > limits.rotation_tolerance:
            frame = int((off > limits.rotation_tolerance).argmax())
            yield (
                f"quaternion {key} has norm {np.linalg.norm(wide[frame]):.3f}",
                "normalise it, and check its order (xyzw)",
                frame,
            )
            continue
        flips = (wide[1:] * wide[:-1]).sum(1) < 0
        if flips.any():
            text = (
                f"quaternion {key} flips its sign {int(flips.sum())} times; "
                "q and -q are one rotation but two inputs"
            )
            yield (
                text,
                "record a continuous sign, or leave the key out of ingest.obs_keys",
                int(flips.argmax()) + 1,
                "warning",
            )

    if episode.actions.shape[1] == POSE_ACTION_DIM:
        first, second = (episode.actions[:, i : i + 3].astype(np.float64) for i in (3, 6))
        # Squared norms: to first order twice the deviation of the norms.
        off = np.maximum.reduce(
            [
                np.abs((first**2).sum(1) - 1),
                np.abs((second**2).sum(1) - 1),
                np.abs((first * second).sum(1)),
            ]
        )
        if off.max() > 2 * limits.rotation_tolerance:
            frame = int((off > 2 * limits.rotation_tolerance).argmax())
            text = (
                "actions[3:9] are not two orthonormal columns of a rotation matrix "
                f"(off by {off[frame]:.3f})"
            )
            yield text, "convert rotations to 6-D (first two columns of the matrix)", frame


def _frozen(episode: Episode, limits: ValidationLimits) -> tuple[int, int] | None:
    """Return first frame and length of a run of frozen states, if there is one.

    The robot's state is the same bit by bit while the commands move.
    """
    # Only states that cannot stand still bit by bit while a robot moves; an object at rest may.
    keys = [key for key in episode.obs if key.endswith(("eef_pos", "eef_quat", "joint_pos"))]
    if not keys:
        return None
    state = np.concatenate([episode.obs[key] for key in keys], axis=1)
    edges = np.flatnonzero(np.concatenate([[True], (state[1:] != state[:-1]).any(1), [True]]))
    for start, stop in itertools.pairwise(edges):
        if (
            stop - start >= limits.frozen_frames
            and np.ptp(episode.actions[start:stop], axis=0).max() > limits.frozen_command
        ):
            return int(start), int(stop - start)
    return None


class DuplicateCheck:
    """Comparison of episodes with all before them, by content (D13) and by name (D18)."""

    def __init__(self) -> None:
        self._contents: dict[str, str] = {}
        self._names: set[str] = set()

    def check(self, episode: Episode, *, file: str) -> list[Finding]:
        """Return the defects of ``episode`` given all those before it."""
        content = episode.content_hash()
        if content in self._contents:  # first: a copy of a file has its names, too
            text = f"the same content as {self._contents[content]}"
            return [Finding("D13", "error", file, text, "delete one of the two", episode.name)]
        if episode.name in self._names:
            text = "another file has an episode of this name"
            return [Finding("D18", "error", file, text, "rename one of the files", episode.name)]
        self._names.add(episode.name)
        self._contents[content] = episode.name
        return []


def shape_of(episode: Episode) -> Shape:
    """Return the observations' widths (of images: height, width, 3) and the actions' width."""
    widths = {
        key: value.shape[1:] if is_image(value) else value.shape[1]
        for key, value in episode.obs.items()
    }
    return tuple(widths.items()), episode.actions.shape[1]


def check_shapes(
    episodes: Sequence[tuple[str, Episode]], *, expected: Shape | None = None
) -> list[Finding]:
    """Return a finding (D05) for every episode whose dimensions differ from the others'.

    Args:
        episodes: Pairs of file and episode.
        expected: Dimensions that they must have; ``None``: those of most.
    """
    if not episodes:
        return []

    # On a tie the first seen wins, so the result does not depend on hashing.
    common = expected or Counter(shape_of(episode) for _, episode in episodes).most_common(1)[0][0]
    return [
        Finding(
            "D05",
            "error",
            file,
            f"dimensions {_in_words(shape_of(episode))} differ from the other episodes' "
            f"{_in_words(common)}",
            "do not mix recordings of different robots or tasks",
            episode.name,
        )
        for file, episode in episodes
        if shape_of(episode) != common
    ]


def check_set(episodes: Sequence[Episode]) -> list[Finding]:
    """Return findings on the whole set of good episodes.

    They are constant dimensions (D14) and no success at all (D21).
    """
    if not episodes:
        return []

    findings = []
    if not any(episode.success for episode in episodes):
        text = f"none of {len(episodes)} episodes is marked as a success"
        remedy = "set the attribute `success` on the demos, or record successful ones"
        findings.append(Finding("D21", "error", "", text, remedy))

    columns = {
        f"obs/{key}": [e.obs[key] for e in episodes]
        for key in _states(episodes[0])
        if not is_quaternion(key)
    }
    for key, parts in {**columns, "actions": [e.actions for e in episodes]}.items():
        low = np.min([p.min(0) for p in parts], axis=0)
        high = np.max([p.max(0) for p in parts], axis=0)
        size = np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
        dims = np.flatnonzero((high - low) <= CONSTANT_RANGE * size).tolist()
        if dims:
            what = (
                "the policy will keep them fixed"
                if key == "actions"
                else "the policy will see 0 there"
            )
            findings.append(
                Finding("D14", "note", "", f"{key} never changes in dimensions {dims}", what)
            )
    return findings


def check_versions(facts: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Return a warning (D15) for each simulator of which sources name different versions.

    Args:
        facts: Facts of each source, by its path.
    """
    versions: dict[str, dict[str, str]] = {}
    for file, known in facts.items():
        if "simulator" in known and "simulator version" in known:
            by_version = versions.setdefault(known["simulator"], {})
            by_version.setdefault(known["simulator version"], file)
    return [
        Finding(
            "D15",
            "warning",
            "",
            f"recordings of different versions of {simulator}: "
            + ", ".join(f"{version} ({file})" for version, file in files.items()),
            "replay or re-render them in the version that evaluates, or train on one of them",
        )
        for simulator, files in versions.items()
        if len(files) > 1
    ]


def _in_words(shape: Shape) -> str:
    return ", ".join([*(f"{key} {width}" for key, width in shape[0]), f"actions {shape[1]}"])
