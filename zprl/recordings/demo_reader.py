"""Reader of this package's own robot sessions: recorded episodes as demonstrations again.

A source is a session's folder (:mod:`zprl.recordings.store`).  Its episodes are those of the
robomimic export, number for number: observation, then the action that the policy commanded; the
last observation led to none and is left out.  Episodes without a label, discarded ones and those in
which a person moved the arm (the commands are then not what moved it) are left out, with a finding
(D30).

Every byte that is read is covered by a digest in the session; what does not fit it is refused.
Nothing in the folder is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zprl.data.episode import Episode, is_image
from zprl.data.findings import Finding
from zprl.data.readers.hdf5_guard import RefusedError, safe_name
from zprl.data.sources import Reader
from zprl.errors import ZprlError
from zprl.recordings.episode_record import CHUNKS, FRAMES
from zprl.recordings.store import HEADER, LABELS, LIMITS, TASK, SessionStore
from zprl.suggestions import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 4 * 2**30
"""Largest tensor file read: ten minutes of two cameras of 84 x 84 at 50 Hz have 1.3 GB."""
MAX_TEXT = 64 * 2**20
LABELLED = ("success", "failure")
RESTORE = "restore the session from a copy (`dvc checkout`), or take its folder out of the data"


class SessionReader(Reader):
    """Reader of sessions that never raises for what a session holds.

    It yields an :class:`Episode` per labelled episode and a :class:`Finding` per defect.

    Args:
        obs_keys: Observation keys to read, in order, images too; ``None`` reads every key of state,
            by name (images are skipped).

    Example::

        for item in SessionReader().read("session"):
            print(item.length if isinstance(item, Episode) else item)
    """

    name = "session"

    def owns(self, path: Path) -> bool:
        """Return whether a folder holds a session's header; :meth:`read` notices damage."""
        try:
            return path.is_dir() and (path / HEADER).is_file()
        except (OSError, ValueError):
            return False

    def facts(self, path: Path) -> dict[str, str]:
        """Return texts about task, robot, rate, space, episodes and interventions, by name.

        Empty for a session that cannot be read.
        """
        try:
            store = _open(path)
            header, labels = store.header, store.labels.current()
            records = [episode.facts for episode in store.episodes()]
        except Exception:  # noqa: BLE001 - `read` yields a finding for whatever is wrong
            return {}

        counts = Counter(labels.get(record.number, "unlabelled") for record in records)
        episodes = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
        steps = sum(record.steps for record in records)
        moved = sum(record.steps * record.intervention_share for record in records) / max(1, steps)
        return {
            "format": f"zprl session {header.id}",
            "task": header.task,
            "robot": _robot(header.world),
            "rate": f"{header.rate_hz:g} Hz",
            "space": header.space,
            "episodes": episodes or "none",
            "interventions": f"{moved:.1%} of the control steps",
        }

    def image_sizes(self, path: Path) -> dict[str, tuple[int, int]]:
        """Return height and width of the first episode's images, by key.

        Empty for a session that cannot be read.
        """
        try:
            store = _open(path)
            recorded = store.episode(min(store.numbers()))
            _check_size(recorded.path / FRAMES, MAX_BYTES)
            shapes = {key: value.shape for key, value in recorded.obs.items() if value.dim() == 4}
        except Exception:  # noqa: BLE001 - `read` yields a finding for whatever is wrong
            return {}
        return {key: (shape[1], shape[2]) for key, shape in shapes.items()}

    def read_source(self, path: Path) -> Iterator[Episode | Finding]:
        """Read one session, episodes in the order of their numbers.

        A damaged header, or damaged labels, refuse all of it (D01).
        """
        path = Path(path)
        try:
            store = _open(path)
            labels, numbers = store.labels.current(), store.numbers()
            if not numbers:
                raise RefusedError(
                    "D02",
                    "the session holds no episodes",
                    "record some, or take its folder out of the data",
                )
        except Exception as error:  # noqa: BLE001 - any damage becomes a finding
            yield _refusal(path, error)
            return

        stem = path.resolve().name if path.name in ("", "..") else path.name
        for number in sorted({*numbers, *labels}):
            name = f"{stem}/episode_{number:06d}"
            label = labels.get(number)
            if number not in numbers:
                missing = f"episode {number} is labelled {label} and is not there"
                yield _finding(path, "D02", missing, RESTORE, name)
            elif label not in LABELLED:
                why = "was discarded by the operator" if label else "has no label"
                yield _left_out(path, name, why, "`zprl session label` gives it one")
            else:
                yield self._episode(store, number, name, success=label == "success")

    def _episode(
        self, store: SessionStore, number: int, name: str, *, success: bool
    ) -> Episode | Finding:
        """Read one labelled episode, or return why it is left out."""
        try:
            recorded = store.episode(number)
            for file in (FRAMES, CHUNKS):
                _check_size(recorded.path / file, MAX_BYTES)
            if recorded.intervention.any():
                remedy = "export it by its number (`zprl.recordings.export`) if it is wanted"
                return _left_out(store.path, name, "was moved by a person", remedy)

            last = np.zeros(recorded.steps, bool)
            last[-1] = True
            return Episode(
                name=name,
                obs=self._observations(recorded.obs),
                actions=recorded.commanded,
                rewards=(last & success).astype(np.float32),
                dones=last,
                success=success,
                rate_hz=store.header.rate_hz,
            )
        except Exception as error:  # noqa: BLE001 - any damage becomes a finding
            return _refusal(store.path, error, name)

    def _observations(self, seen: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Return the observations to read, without the last one, by key."""
        odd = next((key for key in seen if not safe_name(key)), None)
        if odd is not None:
            raise RefusedError(
                "D18",
                f"the observation {odd[:40]!a} has no safe name",
                "rename it in the task file",
            )

        keys = self.obs_keys
        if keys is None:
            keys = tuple(sorted(key for key, value in seen.items() if value.dim() == 2))

        missing = [key for key in keys if key not in seen]
        if missing:
            hint = did_you_mean(missing[0], seen) or "correct ingest.obs_keys"
            raise RefusedError(
                "D22",
                f"observation '{missing[0]}' is missing; there are {', '.join(sorted(seen))}",
                hint,
            )
        if not keys:
            raise RefusedError(
                "D02",
                "there are only images",
                "name the cameras in ingest.obs_keys, or record proprioception too",
            )
        return {key: _values(key, seen[key][:-1].numpy()) for key in keys}


def _values(key: str, value: np.ndarray) -> np.ndarray:
    """Return a state (L, d) as float32, or images (L, H, W, 3) as they are."""
    if is_image(value) and value.shape[3] == 3:
        return value
    if value.ndim != 2 or value.shape[1] == 0:
        raise RefusedError(
            "D05",
            f"{key} is {value.dtype} {value.shape}, neither (frames, width) nor images",
            "record it so",
        )
    return value.astype(np.float32, copy=False)


def _open(path: Path) -> SessionStore:
    """Open for reading; check sizes first, because whole files are read afterwards."""
    for name in (TASK, LIMITS, LABELS):
        if (path / name).exists():
            _check_size(path / name, MAX_TEXT)
    return SessionStore.open(path)


def _check_size(file: Path, limit: int) -> None:
    if not file.exists():
        return
    if not file.is_file():
        raise RefusedError("D01", f"{file.name} is no file", RESTORE)
    size = file.stat().st_size
    if size > limit:
        raise RefusedError("D17", f"{file.name} has {size} bytes, the limit is {limit}", RESTORE)


def _robot(world: Mapping[str, Any]) -> str:
    kind = world.get("kind")
    if kind is None:
        return "unknown"
    return "real robot" if kind == "hardware" else "simulated robot"


def _refusal(path: Path, error: Exception, episode: str | None = None) -> Finding:
    """Return an error while reading as a finding."""
    if isinstance(error, RefusedError):
        return _finding(path, error.code, error.message, error.remedy, episode)
    if isinstance(error, ZprlError):
        return _finding(path, "D01", error.message, error.remedy or RESTORE, episode)
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return _finding(path, "D01", f"damaged session: {first}", RESTORE, episode)


def _left_out(path: Path, name: str, why: str, remedy: str) -> Finding:
    return _finding(path, "D30", f"the episode {why}", remedy, name, "note")


def _finding(
    path: Path,
    code: str,
    message: str,
    remedy: str,
    episode: str | None = None,
    severity: Literal["error", "warning", "note"] = "error",
) -> Finding:
    return Finding(code, severity, path.as_posix(), message, remedy, episode)
