"""JSON documents in which any changed byte is noticed: canonical text with its digest inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.errors import DataError

RESTORE = "restore it from a copy (`dvc checkout`)"
DIGEST = "digest"
MAX_BYTES = 3 * 2**20
"""Longest document: an episode of an hour at 50 Hz, with an event a second, has 1 MB."""


def canonical(document: Mapping[str, Any]) -> str:
    """Return the one text of a document, as :func:`zprl.durable.write_json` writes it."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with the SHA-256 of its canonical text as ``digest``.

    Raises:
        DataError: JSON cannot hold it.
    """
    try:
        return {**document, DIGEST: hashlib.sha256(canonical(document).encode()).hexdigest()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"not a JSON document: {error}", remedy="give finite numbers, texts, lists and mappings"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Read a checksummed document; its digest stays in it.

    Raises:
        DataError: it is missing, or any byte of it has changed.
    """
    try:
        text = durable.read_bytes(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", remedy=RESTORE) from error

    damaged = DataError(f"{path} is damaged", remedy=RESTORE)
    try:
        document = durable.parse_json(text, str(path), limit=MAX_BYTES)
        if not isinstance(document, dict) or text != canonical(document).encode():
            raise damaged
        content = {key: value for key, value in document.items() if key != DIGEST}
        if write(content)[DIGEST] != document.get(DIGEST):
            raise damaged
    except (DataError, ValueError, RecursionError) as error:
        raise damaged from error
    return document
