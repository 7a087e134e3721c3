"""Reader of robomimic HDF5 files, with plain h5py and no trust in the file.

Labels robomimic has no fixed place for are looked up in this order: success from attribute
``success``, else a reward of 1 in any frame (robosuite's sparse reward), else, when there are no
rewards, a set ``dones``; quality from attribute ``quality``, else from the lists ``mask/better``,
``mask/okay`` and ``mask/worse`` (robomimic's multi-human sets).

Files of all its versions are read, from 0.1 on.  :mod:`zprl.data.readers.env_args` looks up what
they say of simulator and controller, and where their actions do not look like it, a warning says so
(D06, D07).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from zprl.data.episode import QUALITIES, Episode
from zprl.data.findings import Finding
from zprl.data.readers.env_args import EnvArgs, env_args
from zprl.data.readers.hdf5_guard import (
    RefusedError,
    attribute,
    check_dataset,
    check_names,
    group,
    member,
    member_names,
    safe_name,
)
from zprl.data.readers.hdf5_reader import Hdf5Reader, images, natural, numbers
from zprl.data.readers.plausibility import ABSOLUTE, doubt
from zprl.data.writers.robomimic import FORMAT_VERSION

MAX_MASK = 1_000_000


class RobomimicReader(Hdf5Reader):
    """Reads files of robomimic's schema.

    Example::

        for item in RobomimicReader().read("data/demos/starter.hdf5"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "robomimic"

    def owns_file(self, file: h5py.File) -> bool:
        """Tell whether there is a group ``data`` with demos."""
        return "data" in file and any(name.startswith("demo_") for name in group(file, "data"))

    def facts_of(self, file: h5py.File) -> dict[str, str]:
        """Return environment, simulator and version, rate, controller, and the kinds of actions."""
        data = group(file, "data")
        declared = env_args(data)
        demos = sorted((name for name in data if name.startswith("demo_")), key=natural)
        absolute = bool(demos) and member(group(data, demos[0]), ABSOLUTE) is not None
        others = (
            {"other actions": f"{ABSOLUTE} are recorded too; ingest.actions chooses"}
            if absolute
            else {}
        )
        return {"format": self._format(file)} | declared.facts() | others

    def _format(self, file: h5py.File) -> str:
        return "robomimic"

    def _check_version(self, data: h5py.Group) -> None:
        version = attribute(data, "zprl_format")
        if version is not None and version != FORMAT_VERSION:
            raise RefusedError(
                "D20",
                f"format version {version}, this zprl reads {FORMAT_VERSION}",
                "update zprl or convert the file",
            )

    def read_file(self, file: h5py.File, path: Path) -> Iterator[Episode | Finding]:
        """Read an open file."""
        try:
            data = group(file, "data")
            self._check_version(data)
            demos = sorted(member_names(data), key=natural)
            qualities = _masks(file)
            declared = env_args(data)
            if not demos:
                raise RefusedError(
                    "D02", "the file holds no demos", "record again, or delete the file"
                )
            if "env_args" not in data.attrs:  # its text is not needed
                text = "attribute env_args of /data is missing"
                remedy = "write robomimic's attribute env_args on the group data"
                yield self.finding(path, "D02", text, remedy, severity="warning")
        except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
            yield self.refusal(path, error)
            return

        frames = 0
        complete = True
        for demo in demos:
            name = f"{path.stem}/{demo}"
            try:
                quality = qualities.get(demo, "unknown")
                episode = self._read_demo(data, demo, name, quality, declared)
                frames += episode.length
            except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
                yield self.refusal(path, error, episode=name)
                complete = False
                continue
            odd = doubt(episode.actions, declared, self.actions_key)
            if odd is not None:
                code, message, remedy, frame = odd
                yield Finding(code, "warning", path.as_posix(), message, remedy, name, frame)
            yield episode

        yield from self._check_total(data, path, frames if complete else None)

    def _check_total(self, data: h5py.Group, path: Path, frames: int | None) -> Iterator[Finding]:
        """Compare the declared number of frames with that of all demos, where it is known (D03)."""
        try:
            total = attribute(data, "total")
        except Exception as error:  # noqa: BLE001 - damaged bytes raise almost any type
            yield self.refusal(path, error)
            return
        if frames is not None and total is not None and total != frames:
            text = f"attribute total of /data says {total} frames, the demos have {frames}"
            remedy = "check whether demos were lost when the file was copied"
            yield self.finding(path, "D03", text, remedy, severity="warning")

    def _read_demo(
        self, data: h5py.Group, demo: str, name: str, quality: str, declared: EnvArgs
    ) -> Episode:
        """Read one demo; its labels have several places, see the module."""
        node = group(data, demo)
        check_names(node)
        length = attribute(node, "num_samples")
        if length is None:
            raise RefusedError(
                "D02", "attribute num_samples is missing", "write the number of frames on each demo"
            )

        actions = numbers(node, self.actions_key, rank=2, length=length)
        if actions is None:
            raise RefusedError(
                "D02",
                f"the dataset {node.name}/{self.actions_key} is missing",
                "correct ingest.actions or ingest.reader",
            )
        obs = self._observations(node, length)
        if not obs:
            text = f"{node.name}/obs holds no state observations"
            raise RefusedError("D02", text, "record proprioception and object state")

        rewards = numbers(node, "rewards", rank=1, length=length)
        dones = numbers(node, "dones", rank=1, length=length)
        success = _success(attribute(node, "success"), rewards, dones)
        if success is None:
            raise RefusedError(
                "D02",
                "no attribute success, no rewards and no dones",
                "write the attribute success on each demo",
            )

        # Without rewards or dones, the last frame alone has them.
        last = np.zeros(len(actions), np.float32)
        last[-1:] = 1.0
        grade = attribute(node, "quality") or quality
        return Episode(
            name=name,
            obs=obs,
            actions=actions,
            rewards=last * success if rewards is None else rewards,
            dones=(last if dones is None else dones) > 0.5,
            success=success,
            quality=grade if grade in QUALITIES else "unknown",
            rate_hz=declared.rate_hz,
        )

    def _observations(self, node: h5py.Group, length: object) -> dict[str, np.ndarray]:
        """Read the observations that are wanted, or all of state."""
        source = group(node, "obs")
        available = member_names(source)
        nodes = {key: member(source, key) for key in available} if self.obs_keys is None else {}
        states = [
            key
            for key, node in nodes.items()
            if not (isinstance(node, h5py.Dataset) and node.ndim > 2)
        ]
        obs = {key: observation(source, key, length) for key in self.wanted(available, states)}
        return {key: value for key, value in obs.items() if value is not None}


def observation(parent: h5py.Group, name: str, length: object) -> np.ndarray | None:
    """Read images (L, H, W, 3) uint8, or numbers (L, d) float32; ``None`` if it is missing."""
    node = member(parent, name)
    value = images(parent, name, length=length, node=node)
    return numbers(parent, name, rank=2, length=length, node=node) if value is None else value


def _success(label: object, rewards: np.ndarray | None, dones: np.ndarray | None) -> bool | None:
    if label is not None:
        if label not in (0, 1):
            raise RefusedError("D05", f"success is {str(label)!r:.40}", "write true or false")
        return bool(label)
    evidence = rewards if rewards is not None else dones
    return None if evidence is None else bool((evidence >= 1.0).any())


def _masks(file: h5py.File) -> dict[str, str]:
    """Return the quality of each demo that a ``mask/<quality>`` list names."""
    qualities: dict[str, str] = {}
    if member(file, "mask") is None:
        return qualities

    masks = group(file, "mask")
    for quality in QUALITIES[:3]:
        node = member(masks, quality)
        if node is None:
            continue
        path = f"{masks.name}/{quality}"
        # Lists of names are the one place where robomimic stores objects: variable-length text.
        if (
            not isinstance(node, h5py.Dataset)
            or h5py.check_string_dtype(node.dtype) is None
            or node.ndim != 1
        ):
            raise RefusedError(
                "D05", f"{path} is not a list of names", "store the demo names as text"
            )

        # Texts of fixed length lie as plain numbers do; the others have no size before reading.
        if h5py.check_string_dtype(node.dtype).length is not None:
            check_dataset(node, path)
        elif node.is_virtual or node.external or node.size > MAX_MASK:
            raise RefusedError(
                "D17", f"{path} declares {node.size} names", "store one name per demo"
            )

        names = [
            value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            for value in node[()]
        ]
        qualities.update({name: quality for name in names if safe_name(name)})
    return qualities
