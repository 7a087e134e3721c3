"""JSON documents that notice any changed byte: canonical text, and a digest of it inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import DataError

DIGEST = "digest"
MAX_BYTES = 64 * 2**20


def canonical(document: Mapping[str, Any]) -> str:
    """The one text of a document: what :func:`zprl.durable.write_json` writes."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the SHA-256 of its canonical text as ``digest``."""
    try:
        return {**document, DIGEST: hashlib.sha256(canonical(document).encode()).hexdigest()}
    except (TypeError, ValueError) as error:
        raise DataError(f"not a JSON document: {error}", remedy="give finite numbers, texts, lists and mappings") from error


def read(path: Path) -> dict[str, Any]:
    """Read a sealed document; its digest stays in it.

    Raises:
        DataError: it is missing, or any byte of it has changed.
    """
    damaged = DataError(f"{path} is damaged", remedy="restore it from a copy (`dvc checkout`)")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise damaged
    try:
        found = durable.read_json(path)
        if not isinstance(found, dict) or path.read_text() != canonical(found):
            raise damaged
        if seal({k: v for k, v in found.items() if k != DIGEST})[DIGEST] != found.get(DIGEST):
            raise damaged
    except (ValueError, RecursionError) as error:
        raise damaged from error
    return found
