"""Conversion of recordings of other conventions, once, when they are read.

Everything is declared in ``ingest.conventions``; nothing is guessed, and the data report says what
is converted.  In this order: actions are shifted to the frames they belong to, observations and
actions are put together from their columns (scaled, rotations in the wanted form, deltas made
absolute), and all is resampled.  Actions here are absolute targets in the robot's base frame.  A
delta is added to the pose observed in its frame::

    position:  target = observed + delta
    rotation:  target = R(delta) R(observed)        turned about axes of the base frame

as robosuite's OSC controllers do (``set_goal_orientation`` of robosuite/utils/control_utils.py;
since 1.5 ``compute_goal_pos`` and ``compute_goal_ori`` of robosuite/controllers/parts/arm/osc.py,
goal_update_mode "achieved").  They scale actions first: a recorded 1 is 0.05 m or 0.5 rad in their
default configuration, so ``scale: 0.05`` and ``scale: 0.5``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from zprl.config import ActionPart, Conventions, ObservationPart, Part, RotationForm
from zprl.data import rotations
from zprl.data.episode import Episode, is_image, is_quaternion
from zprl.data.episode_checks import Change
from zprl.data.findings import Finding
from zprl.data.resample import How, events, places, resample
from zprl.data.sources import Source

OBSERVED: RotationForm = "quaternion_xyzw"
COMMANDED: RotationForm = "rotation_6d"
MAX_RATIO = 10
"""Largest factor by which frames become more: a larger one comes from a wrong rate, and would fill
the memory."""

REMEDY = "correct ingest.conventions, or leave the recording out"


class ConversionError(Exception):
    """An episode does not fit what is declared.

    Args:
        code: Defect code.
        message: One sentence with the numbers.
        frame: First frame concerned.
    """

    def __init__(self, code: str, message: str, frame: int | None = None) -> None:
        super().__init__(message)
        self.code, self.frame = code, frame


def convert(conventions: Conventions, obs_keys: Sequence[str]) -> Conversion:
    """Return the change of recordings with these conventions to episodes with ``obs_keys``.

    Example::

        conversion = convert(params.ingest.conventions, params.ingest.obs_keys)
        sources = find_sources("data", obs_keys=conversion.inputs)
        result = read_all(sources, limits=limits, changes=[conversion])
    """
    return Conversion(conventions, tuple(obs_keys))


class Conversion(Change):
    """A change of conventions; use :func:`convert`.

    Attributes:
        inputs: Keys that readers must read for it.
        facts: All conversions in words, for the data report.
    """

    def __init__(self, conventions: Conventions, obs_keys: tuple[str, ...]) -> None:
        self._conventions, self._obs_keys = conventions, obs_keys
        self._parts = conventions.observations or {}
        bases = [part.of for part in conventions.actions or () if part.of is not None]
        self._made = tuple(dict.fromkeys([*obs_keys, *bases]))
        self.inputs = tuple(
            dict.fromkeys(self._parts[key].key if key in self._parts else key for key in self._made)
        )
        self.facts = _facts(conventions, self._made)

    def __call__(self, source: Source, episode: Episode) -> Iterator[Episode | Finding]:
        """Yield the converted episode, or the finding that keeps it out."""
        try:
            yield self._convert(episode)
        except ConversionError as error:
            yield Finding(
                error.code,
                "error",
                source.path.as_posix(),
                str(error),
                REMEDY,
                episode.name,
                error.frame,
            )

    def _convert(self, episode: Episode) -> Episode:
        """Return an episode with all declared conversions."""
        asked = self._conventions
        episode = _shifted(episode, asked.action_shift)
        obs = {key: _observation(key, self._parts.get(key), episode.obs) for key in self._made}
        parts = asked.actions or ()
        actions = [
            self._action(number, part, episode.actions, obs) for number, part in enumerate(parts)
        ]

        # Poses that deltas are added to need not be observations.
        obs = {key: obs[key] for key in self._obs_keys}
        if asked.resample_hz is None:
            joined = (
                np.concatenate(actions, axis=1, dtype=np.float32) if actions else episode.actions
            )
            return replace(episode, obs=_narrow(obs), actions=joined)

        at = _places(episode, asked.resample_hz)
        hows = [_how_commanded(part, value) for part, value in zip(parts, actions, strict=True)]
        obs = {
            key: resample(value, at, _how_observed(key, self._parts.get(key), value))
            for key, value in obs.items()
        }
        return replace(
            episode,
            obs=_narrow(obs),
            actions=np.concatenate(
                [resample(part, at, how) for part, how in zip(actions, hows, strict=True)],
                axis=1,
                dtype=np.float32,
            ),
            rewards=events(episode.rewards, at),
            dones=events(episode.dones, at),
            rate_hz=asked.resample_hz,
        )

    def _action(
        self, number: int, part: ActionPart, actions: np.ndarray, obs: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Return one part of the actions (L, d) float64, absolute if a delta is declared."""
        name = f"actions (part {number})"
        value = _taken(name, part, actions)
        base = None if part.of is None else obs[part.of]
        if part.rotation is None:
            if base is not None and base.shape != value.shape:
                text = (
                    f"{name} has {value.shape[1]} columns, {part.of} is {base.shape[1:]}: "
                    "no delta of it"
                )
                raise ConversionError("D05", text)
            return value if base is None else base + value

        turn = _turn(name, value, part.rotation)
        if base is not None:
            entry = self._parts.get(str(part.of))
            turn = turn * _turn(str(part.of), base, _form(entry, OBSERVED) or OBSERVED)
        return rotations.write(turn, part.to or COMMANDED)


def _shifted(episode: Episode, late: int) -> Episode:
    """Return the frames with the actions that were commanded after them.

    Frames at the end, or the start, that have none are left out.
    """
    left = episode.length - abs(late)
    if left < 1:
        raise ConversionError(
            "D12", f"{episode.length} frames, fewer than the shift of {late} needs"
        )

    seen = slice(max(-late, 0), max(-late, 0) + left)
    done = slice(max(late, 0), max(late, 0) + left)
    rewards = episode.rewards[seen].copy()
    dones = episode.dones[seen].copy()
    if late > 0:  # a success in the frames left out is the last one's
        rewards[-1] = episode.rewards[left - 1 :].max()
        dones[-1] = episode.dones[left - 1 :].any()
    obs = {key: value[seen] for key, value in episode.obs.items()}
    return replace(episode, obs=obs, actions=episode.actions[done], rewards=rewards, dones=dones)


def _observation(
    key: str, part: ObservationPart | None, recorded: dict[str, np.ndarray]
) -> np.ndarray:
    """Return an observation as it is wanted, from those recorded."""
    name = key if part is None else part.key
    if name not in recorded:
        raise ConversionError(
            "D22", f"observation '{name}' is missing; there are {', '.join(recorded)}"
        )
    value = recorded[name]
    if part is None:
        return value

    if is_image(value):
        if (
            part.columns is not None
            or part.rotation is not None
            or (part.scale, part.offset) != (1.0, 0.0)
        ):
            raise ConversionError(
                "D05", f"{name} holds images, which have no columns, scale or rotation"
            )
        return value

    taken = _taken(name, part, value)
    if part.rotation is None:
        return taken
    return rotations.write(_turn(name, taken, part.rotation), part.to or OBSERVED)


def _taken(name: str, part: Part, value: np.ndarray) -> np.ndarray:
    """Return the part's columns, scaled, (L, d) float64."""
    columns = range(value.shape[1]) if part.columns is None else part.columns
    if max(columns, default=-1) >= value.shape[1]:
        raise ConversionError(
            "D05",
            f"{name} has {value.shape[1]} columns, column {max(columns)} is asked for "
            "(the first is 0)",
        )
    return value[:, list(columns)].astype(np.float64) * part.scale + part.offset


def _turn(name: str, value: np.ndarray, form: RotationForm) -> Rotation:
    """Return the rotations of numbers (L, width) of a form, or raise :class:`ConversionError`."""
    if value.ndim != 2 or value.shape[1] != rotations.width(form):
        kind = rotations.IN_WORDS[form]
        raise ConversionError(
            "D05", f"{name} is {value.shape[1:]}, a {kind} has {rotations.width(form)} columns"
        )
    odd = ~np.isfinite(value).all(1)
    if odd.any():
        raise ConversionError(
            "D04",
            f"{name} has {int(odd.sum())} frames with rotations that are not finite",
            int(odd.argmax()),
        )
    try:
        return rotations.read(value, form)
    except rotations.NotARotationError as error:
        raise ConversionError("D08", f"{name} is {error}", error.frame) from error


def _form(part: Part | None, usual: RotationForm) -> RotationForm | None:
    """Return the form that a part's rotation becomes; ``None`` where it is none."""
    return None if part is None or part.rotation is None else part.to or usual


def _how_observed(key: str, part: ObservationPart | None, value: np.ndarray) -> How:
    """Return how an observation is resampled."""
    if is_image(value):
        return "nearest"
    if part is not None and part.resample is not None:
        return part.resample
    form = _form(part, OBSERVED) or (
        OBSERVED if is_quaternion(key) and value.shape[1] == rotations.width(OBSERVED) else None
    )
    if form is not None:
        _turn(key, value, form)  # refuses a recorded quaternion that is none
        return form
    return "nearest" if key.endswith("gripper_command") else "linear"


def _how_commanded(part: ActionPart, value: np.ndarray) -> How:
    """Return how a part of the actions is resampled."""
    # One number on its own is a gripper.
    alone: How = "nearest" if value.shape[1] == 1 else "linear"
    return part.resample or _form(part, COMMANDED) or alone


def _places(episode: Episode, wanted_hz: float) -> np.ndarray:
    """Return the places of the new frames, counted in old ones; refuse an odd rate."""
    rate = episode.rate_hz
    if rate is None:
        raise ConversionError(
            "D02",
            f"the recording does not say its rate, so it cannot be resampled to {wanted_hz:g} Hz",
        )
    if not 0 < wanted_hz <= MAX_RATIO * rate < np.inf:
        text = (
            f"the recording says {rate:g} Hz; {wanted_hz:g} Hz are more than {MAX_RATIO} times "
            "as many"
        )
        raise ConversionError("D17", text)
    return places(episode.length, rate, wanted_hz)


def _narrow(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the observations as float32, images as they are."""
    return {
        key: value if is_image(value) else value.astype(np.float32) for key, value in obs.items()
    }


def _facts(conventions: Conventions, made: Sequence[str]) -> dict[str, str]:
    """Return all conversions in words."""
    facts = {}
    for key in made:
        seen = (conventions.observations or {}).get(key)
        if seen is not None:
            origin = f" of {seen.key}" if seen.columns else seen.key
            facts[f"observation {key}"] = _part_in_words(seen, origin, OBSERVED)

    for number, part in enumerate(conventions.actions or ()):
        text = _part_in_words(part, "" if part.columns else "all columns", COMMANDED)
        if part.of is not None and part.rotation is None:
            text += f", added to {part.of}: deltas became absolute targets"
        elif part.of is not None:
            text += f", turned on from {part.of} about axes of the base frame: "
            text += "deltas became absolute targets"
        facts[f"actions, part {number}"] = text

    late = conventions.action_shift
    if late:
        way, end = ("later", "last") if late > 0 else ("earlier", "first")
        facts["shift"] = (
            f"each frame has the action recorded {abs(late)} frames {way}; "
            f"the {end} {abs(late)} frames are left out"
        )
    if conventions.resample_hz is not None:
        facts["resampled"] = (
            f"to {conventions.resample_hz:g} Hz: positions on a line, rotations by slerp, "
            "images and gripper commands from the nearest frame"
        )
    return facts


def _part_in_words(part: Part, source: str, usual: RotationForm) -> str:
    text = f"columns {', '.join(map(str, part.columns))}{source}" if part.columns else source
    text += f", times {part.scale:g}" if part.scale != 1 else ""
    text += f", plus {part.offset:g}" if part.offset else ""
    form = _form(part, usual)
    if form is not None and part.rotation is not None:
        text += f", from {rotations.IN_WORDS[part.rotation]} to {rotations.IN_WORDS[form]}"
        text += " with a continuous sign" if form.startswith("quaternion") else ""
    return text
