"""Reader of robomimic HDF5 files, with plain h5py and no trust in the file.

Labels robomimic has no fixed place for are looked up in this order: success from attribute ``success``, else a reward
of 1 in any frame (robosuite's sparse reward), else, when there are no rewards, a set ``dones``; quality from attribute
``quality``, else from the lists ``mask/better``, ``mask/okay`` and ``mask/worse`` (robomimic's multi-human sets).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from zprl.data.episode import QUALITIES, Episode
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import RefusedError, attribute, check_dataset, group, member, member_names, safe_name
from zprl.data.readers.probe import PROBE
from zprl.data.robomimic_writer import FORMAT_VERSION

MAX_MASK = 1_000_000


class RobomimicReader:
    """Yields an :class:`Episode` per good demo and a :class:`Finding` per defect; never raises for what a file holds.

    Args:
        obs_keys: Observation keys to read, in order, pictures too; ``None`` reads every key of state (pictures are skipped).

    Example::

        for item in RobomimicReader().read("data/demos/starter.hdf5"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "robomimic"

    def __init__(self, *, obs_keys: Sequence[str] | None = None) -> None:
        self.obs_keys = None if obs_keys is None else tuple(obs_keys)

    def read(self, path: Path | str) -> Iterator[Episode | Finding]:
        """Read one file, demos in the order of their numbers.  A damaged file is refused as a whole (D01)."""
        path = Path(path)
        damage = "the file does not exist" if not path.exists() else PROBE.damage(path, self.obs_keys)
        if damage is None:
            yield from self.read_here(path)
        else:
            yield self._finding(path, "D01", damage, "copy it again from its source, or run `dvc pull`")

    def read_here(self, path: Path) -> Iterator[Episode | Finding]:
        """Read in this very process: only for files that :mod:`zprl.data.readers.probe` has read before."""
        try:
            file = h5py.File(path, "r")
        except Exception as error:  # h5py turns damaged bytes into almost any exception type
            size = path.stat().st_size
            yield self._finding(path, "D01", f"not a readable HDF5 file ({size} bytes): {_short(error)}", "copy it again from its source")
            return
        with file:
            yield from self._read_file(file, path)

    def _read_file(self, file: h5py.File, path: Path) -> Iterator[Episode | Finding]:
        try:
            data = group(file, "data")
            version = attribute(data, "zprl_format")
            if version is not None and version != FORMAT_VERSION:
                raise RefusedError("D20", f"format version {version}, this zprl reads {FORMAT_VERSION}", "update zprl or convert the file")
            demos = sorted(member_names(data), key=_natural)
            quality = _masks(file)
            if not demos:
                raise RefusedError("D02", "the file holds no demos", "record again, or delete the file")
            if "env_args" not in data.attrs:  # its text is not needed
                remedy = "write robomimic's attribute env_args on the group data"
                yield self._finding(path, "D02", "attribute env_args of /data is missing", remedy, severity="warning")
        except Exception as error:
            yield self._refusal(path, error)
            return
        frames, complete = 0, True
        for demo in demos:
            name = f"{path.stem}/{demo}"
            try:
                episode = self._read_demo(data, demo, name, quality.get(demo, "unknown"))
                frames += episode.length
            except Exception as error:
                yield self._refusal(path, error, episode=name)
                complete = False
                continue
            yield episode
        try:
            total = attribute(data, "total")
        except Exception as error:
            yield self._refusal(path, error)
            return
        if complete and total is not None and total != frames:
            message = f"attribute total of /data says {total} frames, the demos have {frames}"
            yield self._finding(path, "D03", message, "check whether demos were lost when the file was copied", severity="warning")

    def _read_demo(self, data: h5py.Group, demo: str, name: str, quality: str) -> Episode:
        node = group(data, demo)
        member_names(node)
        length = attribute(node, "num_samples")
        if length is None:
            raise RefusedError("D02", "attribute num_samples is missing", "write the number of frames on each demo")
        actions = _numbers(node, "actions", rank=2, length=length)
        if actions is None:
            raise RefusedError("D02", f"the dataset {node.name}/actions is missing", "check that it is a robomimic file")
        source = group(node, "obs")
        obs = {}
        for key in self._wanted(source):
            value = _pictures(source, key, length=length)
            value = _numbers(source, key, rank=2, length=length) if value is None else value
            if value is not None:
                obs[key] = value
        if not obs:
            raise RefusedError("D02", f"the group {source.name} holds no state observations", "record proprioception and object state")
        rewards = _numbers(node, "rewards", rank=1, length=length)
        dones = _numbers(node, "dones", rank=1, length=length)
        success = _success(attribute(node, "success"), rewards, dones)
        if success is None:
            raise RefusedError("D02", "no attribute success, no rewards and no dones", "write the attribute success on each demo")
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
        )

    def _wanted(self, source: h5py.Group) -> list[str]:
        available = member_names(source)
        if self.obs_keys is None:
            nodes = {key: member(source, key) for key in available}
            return [key for key, node in nodes.items() if not (isinstance(node, h5py.Dataset) and node.ndim > 2)]
        missing = [key for key in self.obs_keys if key not in available]
        if missing:
            near = difflib.get_close_matches(missing[0], available, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "correct ingest.obs_keys"
            raise RefusedError("D22", f"observation '{missing[0]}' is missing; there are {', '.join(available)}", hint)
        return list(self.obs_keys)

    def _refusal(self, path: Path, error: Exception, *, episode: str | None = None) -> Finding:
        if isinstance(error, RefusedError):
            return self._finding(path, error.code, str(error), error.remedy, episode=episode)
        return self._finding(path, "D01", f"damaged HDF5 content: {_short(error)}", "copy the file again from its source", episode=episode)

    @staticmethod
    def _finding(
        path: Path,
        code: str,
        message: str,
        remedy: str,
        *,
        episode: str | None = None,
        severity: Literal["error", "warning", "note"] = "error",
    ) -> Finding:
        return Finding(code, severity, path.as_posix(), message, remedy, episode)


def _numbers(parent: h5py.Group, name: str, *, rank: int, length: object) -> np.ndarray | None:
    """A dataset as float32 of the given rank and length, ``None`` if it is missing, else :class:`RefusedError`."""
    node = member(parent, name)
    if node is None:
        return None
    path = f"{parent.name}/{name}"
    dataset = check_dataset(node, path)
    shape = dataset.shape
    wanted = "(frames, width)" if rank == 2 else "(frames,)"
    single = rank == 2 and shape is not None and len(shape) == 1  # one number per frame, stored without its width of 1
    if shape is None or dataset.dtype.kind not in "fiub" or not (len(shape) == rank or single) or 0 in shape[1:]:
        remedy = "store state as numbers (frames, width), pictures as uint8 (frames, height, width, 3)"
        raise RefusedError("D05", f"{path} is {dataset.dtype} {shape}, expected numbers {wanted}", remedy)
    _same_length(path, shape[0], length)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 becomes infinity and is found as D04
        value = np.asarray(dataset[()]).astype(np.float32)
    return value[:, None] if single else value


def _pictures(parent: h5py.Group, name: str, *, length: object) -> np.ndarray | None:
    """A dataset of pictures, (L, H, W, 3) uint8; ``None`` if it holds none."""
    node = member(parent, name)
    if not isinstance(node, h5py.Dataset) or node.dtype != np.uint8 or node.ndim != 4 or node.shape[3] != 3 or 0 in node.shape[1:]:
        return None
    path = f"{parent.name}/{name}"
    _same_length(path, check_dataset(node, path).shape[0], length)
    return np.asarray(node[()])


def _same_length(path: str, frames: int, length: object) -> None:
    if frames != length:
        raise RefusedError("D03", f"{path} has {frames} frames, num_samples says {length}", "repair or re-record the demo")


def _success(label: object, rewards: np.ndarray | None, dones: np.ndarray | None) -> bool | None:
    if label is not None:
        return bool(label)
    evidence = rewards if rewards is not None else dones
    return None if evidence is None else bool((evidence >= 1.0).any())


def _masks(file: h5py.File) -> dict[str, str]:
    """Quality of each demo that a ``mask/<quality>`` list names."""
    found: dict[str, str] = {}
    if member(file, "mask") is None:
        return found
    masks = group(file, "mask")
    for quality in QUALITIES[:3]:
        node = member(masks, quality)
        if node is None:
            continue
        path = f"{masks.name}/{quality}"
        # Lists of names are the one place where robomimic stores objects: variable-length text.
        if not isinstance(node, h5py.Dataset) or h5py.check_string_dtype(node.dtype) is None or node.ndim != 1:
            raise RefusedError("D05", f"{path} is not a list of names", "store the demo names as text")
        if h5py.check_string_dtype(node.dtype).length is not None:
            check_dataset(node, path)
        elif node.is_virtual or node.external or node.size > MAX_MASK:
            raise RefusedError("D17", f"{path} declares {node.size} names", "store one name per demo")
        names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in node[()]]
        found.update({name: quality for name in names if safe_name(name)})
    return found


def _natural(name: str) -> tuple[int, str]:
    """demo_2 before demo_10."""
    number = re.search(r"(\d{1,18})$", name)
    return (int(number.group(1)) if number else -1, name)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
