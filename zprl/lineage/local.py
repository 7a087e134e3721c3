"""What lies in the project's folder, as records: bundles say what they were made from, the data report says where episodes come from.

Enough to go back from a bundle to its demonstrations without any tracking store, for what was made last; runs of the past are only there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zprl import children, durable, strict_yaml
from zprl.data.origins import SOURCES, Origins
from zprl.errors import DataError, ZprlError
from zprl.lineage.records import HERE, Records, Run
from zprl.lineage.walk import INGEST

EPISODES, DATA_REPORT, BASE = Path("artifacts/episodes"), Path("artifacts/data_report"), Path("artifacts/base")
STEERING, START, DATA_DVC = Path("artifacts/steering"), Path("session/start"), Path("data.dvc")
DOCUMENT = "bundle.json"
MAX_TEXT, MAX_INDEX = 4 * 2**20, 64 * 2**20


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle."""
    return (path / DOCUMENT).is_file()


def bundles(path: Path) -> list[Path]:
    """The folder, if it is a bundle, else the bundles in it (a policy from the registry has ``base`` and ``steering``)."""
    if is_bundle(path):
        return [path]
    return sorted(each for each in path.iterdir() if is_bundle(each)) if path.is_dir() else []


def of_bundle(path: Path) -> Run:
    """What a bundle says of itself: what it was made from, and how.

    Raises:
        DataError: it cannot be read.
    """
    document = durable.read_json(path / DOCUMENT, limit=MAX_TEXT)
    if not isinstance(document, dict):
        raise _damaged(path)
    said = document.get("provenance")
    said = said if isinstance(said, dict) else {}
    steering = document.get("kind") == "steering"
    inputs = said.get("inputs")
    inputs = {str(k): str(v) for k, v in inputs.items()} if isinstance(inputs, dict) else {}
    if steering and isinstance(document.get("base_digest"), str):
        inputs[BASE.as_posix()] = document["base_digest"]
    stage = said.get("stage") or (("finetune_real" if "session" in said else "finetune") if steering else "pretrain")
    params = dict(_leaves({key: value for key, value in said.items() if key not in ("inputs", "latent_stats", "stage")}))
    return Run(path.as_posix(), str(stage), HERE, inputs=inputs, outputs={path.as_posix(): durable.digest(path)}, params=params)


def runs(more: Sequence[Path] = ()) -> list[Run]:
    """Records of what lies here, of the bundles ``more`` too; what is damaged is passed over, unless it is among those."""
    found = [of_bundle(path) for path in more]
    known = {path.resolve() for path in more}
    places = [BASE, *sorted(STEERING.glob("*")), *sorted(START.glob("*"))]
    for path in places:
        try:
            if is_bundle(path) and path.resolve() not in known:
                found.append(of_bundle(path))
        except (ZprlError, OSError):
            continue
    try:
        if (DATA_REPORT / SOURCES).is_file() and _belong_together():
            found.append(Run(DATA_REPORT.as_posix(), INGEST, HERE, outputs={EPISODES.as_posix(): durable.digest(EPISODES)}))
    except (ZprlError, OSError):
        pass
    return found


def origins(run: Run) -> Origins | None:
    """Of the local record of ingest."""
    return Origins.read(DATA_REPORT / SOURCES) if run.id == DATA_REPORT.as_posix() else None


def records(more: Sequence[Path] = (), *, why: str) -> Records:
    """Everything that is known without a tracking store."""
    return Records(f"what lies here ({why})", tuple(runs(more)), origins=origins)


def _belong_together() -> bool:
    """Whether report and store are of one run of ingest."""
    index = durable.read_json(EPISODES / "index.json", limit=MAX_INDEX)
    return isinstance(index, dict) and index.get("names") == [episode.name for episode in Origins.read(DATA_REPORT / SOURCES).episodes]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(item)


def _damaged(path: Path) -> DataError:
    return DataError(f"{path / DOCUMENT} does not describe a bundle", remedy="restore the bundle (dvc checkout) or make it again")


# -- what the walk asks ------------------------------------------------------------------------------------------------


class Bytes:
    """Compares what lies here with digests; each path is read once."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def state(self, path: str, digest: str) -> str:
        """``same bytes``, ``other bytes`` or ``not here``."""
        if path not in self._known:
            try:
                self._known[path] = durable.digest(path)
            except (ZprlError, OSError):
                self._known[path] = None
        found = self._known[path]
        return "not here" if found is None else "same bytes" if found == digest else "other bytes"


def data_md5(commit: str) -> str | None:
    """DVC's hash of the folder of demonstrations, as ``data.dvc`` had it at a commit; now, where there is none; ``None``: unknown."""
    text = None
    plain = commit.removesuffix("-dirty")
    if plain and plain.isalnum():
        text = children.git("cat-file", "blob", f"{plain}:./{DATA_DVC}")
    elif DATA_DVC.is_file():
        text = DATA_DVC.read_text(errors="replace")
    try:
        document = strict_yaml.parse(text, DATA_DVC.as_posix()) if text else None
        return str(document["outs"][0]["md5"])
    except (ZprlError, KeyError, IndexError, TypeError):
        return None
