"""What is in a demo file, for ``zprl demos describe FILE``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from zprl.data.findings import Finding
from zprl.data.ingest import Ingested, summarise
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import Reader
from zprl.data.validate import shape_of


def describe(path: Path | str, *, reader: Reader | None = None) -> dict[str, Any]:
    """Counts, lengths, keys, dimensions, quality and findings of one file, as a JSON object.  Reads every state key.

    >>> describe("no-such-file.hdf5")["findings"][0]["code"]
    'D01'
    """
    items = list((reader or RobomimicReader()).read(path))
    episodes = [item for item in items if not isinstance(item, Finding)]
    findings = [item for item in items if isinstance(item, Finding)]
    bad = tuple(dict.fromkeys(f.episode or f.file for f in findings if f.severity == "error"))
    summary = summarise(Ingested((str(path),), tuple(episodes), tuple(findings), bad), episodes)
    shapes = Counter(shape_of(episode) for episode in episodes).most_common(1)
    obs, action_dim = shapes[0][0] if shapes else ((), 0)
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    return {
        "file": Path(path).as_posix(),
        "size_bytes": size,
        **{key: value for key, value in summary.items() if key not in ("files", "findings", "good")},
        "obs_dims": dict(obs),
        "action_dim": action_dim,
        "findings": [finding.as_json() for finding in findings],
    }
