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
MAX_BYTES = 3 * 2**20
"""Longest document: an episode of an hour at 50 Hz, with an event a second, has 1 MB."""


def canonical(document: Mapping[str, Any]) -> str:
    """The one text of a document: what :func:`zprl.durable.write_json` writes."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the SHA-256 of its canonical text as ``digest``."""
    try:
        return {**document, DIGEST: hashlib.sha256(canonical(document).encode()).hexdigest()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"not a JSON document: {error}", remedy="give finite numbers, texts, lists and mappings"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Read a sealed document; its digest stays in it.

    Raises:
        DataError: it is missing, or any byte of it has changed.
    """
    damaged = DataError(f"{path} is damaged", remedy="restore it from a copy (`dvc checkout`)")
    try:
        text = durable.read_bytes(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", remedy="restore it from a copy (`dvc checkout`)"
        ) from error
    try:
        found = durable.parse_json(text, str(path), limit=MAX_BYTES)
        if not isinstance(found, dict) or text != canonical(found).encode():
            raise damaged
        if write({k: v for k, v in found.items() if k != DIGEST})[DIGEST] != found.get(DIGEST):
            raise damaged
    except (DataError, ValueError, RecursionError) as error:
        raise damaged from error
    return found
