"""Records of the files in the project's folder.

Bundles say what they were made from, the data report says where episodes come from.
Enough to go back from a bundle to its demonstrations without any tracking store, for what was made
last; runs of the past are only there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zprl import child_processes, durable, strict_yaml
from zprl.data.episode_sources import SOURCES, EpisodeSources
from zprl.errors import DataError, ZprlError
from zprl.lineage.records import HERE, Records, RunRecord
from zprl.lineage.walk import INGEST

EPISODES = Path("artifacts/episodes")
DATA_REPORT = Path("artifacts/data_report")
BASE = Path("artifacts/base")
STEERING = Path("artifacts/steering")
START = Path("session/start")
DATA_DVC = Path("data.dvc")
DOCUMENT = "bundle.json"
MAX_TEXT = 4 * 2**20
MAX_INDEX = 64 * 2**20
MAX_READ = 64 * 2**30
"""Most that is read to compare bytes [B]."""
FILE_COST = 2**16
"""Opening a file takes as long as reading so many bytes."""
NOT_HERE = "not here"
NOT_LOOKED_AT = "not looked at"


def is_bundle(path: Path) -> bool:
    """Return whether a folder is a bundle."""
    return (path / DOCUMENT).is_file()


def bundles(path: Path) -> list[Path]:
    """Return the folder, if it is a bundle, else the bundles in it.

    A policy from the registry has ``base`` and ``steering``.
    """
    if is_bundle(path):
        return [path]
    return sorted(each for each in path.iterdir() if is_bundle(each)) if path.is_dir() else []


def of_bundle(path: Path) -> RunRecord:
    """Read a bundle's own record: what it was made from, and how.

    Raises:
        DataError: it cannot be read.
    """
    document = durable.read_json(path / DOCUMENT, limit=MAX_TEXT)
    if not isinstance(document, dict):
        raise _damaged(path)

    provenance = document.get("provenance")
    if not isinstance(provenance, dict):
        provenance = {}
    others = ("inputs", "latent_stats", "stage")
    params = {key: value for key, value in provenance.items() if key not in others}
    return RunRecord(
        path.as_posix(),
        _stage(document, provenance),
        HERE,
        inputs=_inputs(document, provenance),
        outputs={path.as_posix(): digest(path)},
        params=dict(_leaves(params)),
    )


def _is_steering(document: Mapping[str, Any]) -> bool:
    return document.get("kind") == "steering"


def _stage(document: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the stage that made a bundle; older bundles do not name it."""
    if stage := provenance.get("stage"):
        return str(stage)
    if _is_steering(document):
        return "finetune_real" if "session" in provenance else "finetune"
    return "pretrain"


def _inputs(document: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return SHA-256 by path of what a bundle was made from."""
    stated = provenance.get("inputs")
    inputs = {str(k): str(v) for k, v in stated.items()} if isinstance(stated, dict) else {}
    if _is_steering(document) and isinstance(document.get("base_digest"), str):
        inputs[BASE.as_posix()] = document["base_digest"]
    return inputs


def runs(more: Sequence[Path] = ()) -> list[RunRecord]:
    """Return records of the project's bundles, of the bundles ``more``, and of ingest.

    A damaged bundle is passed over, unless it is one of ``more``.
    """
    records = [of_bundle(path) for path in more]
    known = {path.resolve() for path in more}
    for path in [BASE, *sorted(STEERING.glob("*")), *sorted(START.glob("*"))]:
        try:
            if is_bundle(path) and path.resolve() not in known:
                records.append(of_bundle(path))
        except (ZprlError, OSError):
            continue

    try:
        if (DATA_REPORT / SOURCES).is_file() and _belong_together():
            made = {EPISODES.as_posix(): digest(EPISODES)}
            records.append(RunRecord(DATA_REPORT.as_posix(), INGEST, HERE, outputs=made))
    except (ZprlError, OSError):
        pass
    return records


def origins(run: RunRecord) -> EpisodeSources | None:
    """Return the sources of the local record of ingest, ``None`` for any other run."""
    return EpisodeSources.read(DATA_REPORT / SOURCES) if run.id == DATA_REPORT.as_posix() else None


def records(more: Sequence[Path] = (), *, why: str) -> Records:
    """Return the records known without a tracking store; ``why`` says why there is none."""
    return Records(f"what lies here ({why})", tuple(runs(more)), origins=origins)


def _belong_together() -> bool:
    """Return whether report and store are of one run of ingest."""
    index = durable.read_json(EPISODES / "index.json", limit=MAX_INDEX)
    return isinstance(index, dict) and index.get("names") == [
        episode.name for episode in EpisodeSources.read(DATA_REPORT / SOURCES).episodes
    ]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(item)


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path / DOCUMENT} does not describe a bundle",
        remedy="restore the bundle (dvc checkout) or make it again",
    )


# -- what the walk asks ----------------------------------------------------------------------------


class Bytes:
    """Compares the project's files with digests; each path is read once.

    Paths come from bundles and stores of unknown origin, so nothing outside the project is read,
    and not more than :data:`MAX_READ` in all.

    Args:
        known: Digests by path that are known already.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known = dict(known or {})
        self._left = MAX_READ

    def state(self, path: str, digest: str) -> str:
        """Return ``same bytes``, ``other bytes``, ``not here`` or ``not looked at``."""
        if path not in self._known:
            try:
                self._known[path] = self._read(Path(path))
            except (ZprlError, OSError, RuntimeError, ValueError):  # a loop of links, a null byte
                self._known[path] = NOT_LOOKED_AT
        actual = self._known[path]
        if actual in (NOT_HERE, NOT_LOOKED_AT):
            return actual
        return "same bytes" if actual == digest else "other bytes"

    def _read(self, path: Path) -> str:
        """Return the digest of a path inside the project, or why there is none."""
        project = Path.cwd()
        if (
            path.is_absolute()
            or ".." in path.parts
            or not path.parts
            or not path.resolve().is_relative_to(project)
        ):
            return NOT_LOOKED_AT
        if not path.exists():
            return NOT_HERE
        self._left -= cost(path, self._left, project)
        return durable.digest(path)


def cost(path: Path, limit: int, inside: Path | None = None) -> int:
    """Return the bytes of a file, or of a folder's files, with :data:`FILE_COST` for each.

    Raises:
        DataError: more than ``limit``, neither file nor folder, or a link that leads out of
            ``inside``.
    """
    total = 0
    for each in itertools.chain([path], path.rglob("*")):
        regular = each.is_file()
        total += FILE_COST + (each.stat().st_size if regular else 0)
        strays = (
            inside is not None and each.is_symlink() and not each.resolve().is_relative_to(inside)
        )
        if total > limit or strays or not (regular or each.is_dir()):
            raise DataError(
                f"{path} is too large, or holds other things than files",
                remedy="get it from its maker again",
            )
    return total


def digest(path: Path) -> str:
    """Return the digest of a file or folder of bounded size.

    Raises:
        DataError: it is larger than :data:`MAX_READ`, or holds other things than files.
    """
    cost(path, MAX_READ)
    return durable.digest(path)


def data_md5(commit: str) -> str | None:
    """Return DVC's hash of the folder of demonstrations at a commit, ``None`` where it is unknown.

    Without a commit it is that of the present ``data.dvc``.
    """
    plain = commit.removesuffix("-dirty")
    try:
        text = None
        if plain.isalnum():
            blob = f"{plain}:./{DATA_DVC}"
            size = child_processes.git("cat-file", "-s", blob)  # git unpacks some in its memory
            if size is not None and int(size) <= MAX_TEXT:
                text = child_processes.git("cat-file", "blob", blob, limit=MAX_TEXT)
        elif not plain and DATA_DVC.is_file() and DATA_DVC.stat().st_size:
            text = durable.read_bytes(DATA_DVC, MAX_TEXT).decode(errors="replace")
        if not text:
            return None

        return str(strict_yaml.parse(text, DATA_DVC.as_posix())["outs"][0]["md5"])
    except (ZprlError, KeyError, IndexError, TypeError):
        return None
