"""Observation keys, actions and labels, and the features of a LeRobot dataset that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zprl.data.lerobot_names import observation_key
from zprl.data.readers.hdf5_guard import RefusedError, safe_name
from zprl.data.readers.lerobot_meta import INFO, NUMBERS, Info
from zprl.suggestions import did_you_mean

PREFIX = "observation."
STATE = "observation.state"
INDEX, TIME = "episode_index", "timestamp"
ACTION, REWARD, DONE, SUCCESS = "action", "next.reward", "next.done", "next.success"

Parts = Mapping[str, tuple[str, slice]]
"""Per key the feature that holds it, and its numbers in that feature's vector."""


def state_parts(info: Info) -> Parts:
    """Return the keys of state, each with its feature and its place there."""
    features = {
        name: feature
        for name, feature in info.features.items()
        if name.startswith(PREFIX)
        and safe_name(name.removeprefix(PREFIX))
        and NUMBERS.fullmatch(feature.dtype)
    }
    parts = {name.removeprefix(PREFIX): (name, slice(None)) for name in features}
    if STATE not in features:
        return parts

    names = features[STATE].names or ()
    split = split_names(names)
    whole = len(names) == features[STATE].shape[0] if split else False
    if whole and not set(split) & (set(parts) - {"state"}):
        del parts["state"]
        return {key: (STATE, where) for key, where in split.items()} | parts
    return parts


def split_names(names: Sequence[str]) -> dict[str, slice]:
    """Return the places of each key in a vector whose names are all ``<key>.<index>``.

    Empty where one name is of another form.

    >>> split_names(["pos.0", "pos.1", "grip.0"])
    {'pos': slice(0, 2, None), 'grip': slice(2, 3, None)}
    >>> split_names(["shoulder.pos", "elbow.pos"])
    {}
    """
    places: dict[str, slice] = {}
    last = None
    for place, name in enumerate(names):
        key, _, index = name.rpartition(".")
        if key != last:
            # A key's numbers follow one another.
            if key in places or not safe_name(key):
                return {}
            places[key] = slice(place, place)
            last = key
        if index != str(place - places[key].start):
            return {}
        places[key] = slice(places[key].start, place + 1)
    return places


def columns_of(info: Info, observed: Sequence[str]) -> list[str]:
    """Return the columns of the Parquet files to read for the features ``observed``.

    Raises:
        RefusedError: there are no actions (D02).
    """
    if ACTION not in info.features:
        raise RefusedError("D02", f"{INFO} has no feature `action`", "record what was commanded")
    present = [name for name in (REWARD, DONE, SUCCESS) if name in info.features]
    stored = [name for name in observed if info.features[name].dtype != "video"]
    return list(dict.fromkeys([INDEX, TIME, ACTION, *present, *stored]))


def success_source(info: Info, *, labelled: bool) -> str | None:
    """Return in words what success is read from; ``None`` where nothing says it."""
    if labelled:
        return "`success` in meta/episodes"
    return next((f"column `{name}`" for name in (SUCCESS, REWARD) if name in info.features), None)


def wanted(info: Info, parts: Parts, asked: Sequence[str] | None) -> list[str]:
    """Return the keys to read, in order: those asked for, else all of state.

    Raises:
        RefusedError: one is missing (D22), or there is no state (D02).
    """
    states = [key for key, (name, _) in parts.items() if len(info.features[name].shape) <= 1]
    if asked is None:
        if not states:
            raise RefusedError(
                "D02",
                "the dataset holds no state observations",
                "name its images in ingest.obs_keys",
            )
        return states

    there = [*parts, *image_keys(info)]
    missing = [
        key for key in asked if key not in parts and camera_of(info, key) not in info.cameras
    ]
    if missing:
        hint = did_you_mean(missing[0], there) or "correct ingest.obs_keys"
        raise RefusedError(
            "D22", f"observation '{missing[0]}' is missing; there are {', '.join(there)}", hint
        )
    return list(asked)


def image_keys(info: Info) -> dict[str, str]:
    """Return the feature of each key of images; two that would share a name have their full one."""
    cameras = [name for name in info.cameras if name.startswith(PREFIX)]
    short = {name: observation_key(name) or name for name in cameras}
    taken = Counter(short.values())
    return {
        key if taken[key] == 1 else name.removeprefix(PREFIX): name for name, key in short.items()
    }


def camera_of(info: Info, key: str) -> str:
    """Return the feature that holds a key's images; ``images.<key>`` is understood too."""
    return image_keys(info).get(key, PREFIX + key)
