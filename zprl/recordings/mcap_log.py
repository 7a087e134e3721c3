"""The operator's log of an episode: one MCAP file, made from the committed episode.

It can be made again at any time.  Channels are JSON with a schema each, so that any MCAP viewer
shows them.  Times are the robot's clock.

================  ==================================================================
topic             content
================  ==================================================================
/state            step, measured tool pose, wrench, raw features by name
/command          step, the policy's action, features really sent, clipped by the
                  safety filter, moved by a person
/chunk            id, version, decision and execution steps, latent point, residual
                  and its norm, targets
/event            messages of the driver and the monitors
/images/<camera>  ``foxglove.CompressedImage``
================  ==================================================================
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.recordings.episode import RecordedEpisode

if TYPE_CHECKING:
    from mcap.writer import Writer

CHUNK_BYTES = 64 * 1024
"""Size of a block: a file that is cut off loses at most one."""
NANOSECONDS = 10**9
MAX_RECORD_BYTES = 64 * 2**20
PROFILE, LIBRARY = "", "zprl"
NUMBER = {"type": "number"}
NUMBERS = {"type": "array", "items": NUMBER}
FLAG = {"type": "boolean"}
TEXT = {"type": "string"}
NAMED = {"type": "object", "additionalProperties": NUMBER}
TIME = {
    "type": "object",
    "title": "time",
    "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "zprl.State": {"step": NUMBER, "pose": NUMBERS, "wrench": NUMBERS, "features": NAMED},
    "zprl.Command": {
        "step": NUMBER,
        "action": NUMBERS,
        "sent": NAMED,
        "clipped": FLAG,
        "intervention": FLAG,
    },
    "zprl.Chunk": {
        "id": NUMBER,
        "version": NUMBER,
        "obs_step": NUMBER,
        "step": NUMBER,
        "steps": NUMBER,
        "intervened": FLAG,
        "point": NUMBERS,
        "residual": NUMBERS,
        "residual_norm": NUMBER,
        "targets": {"type": "array", "items": NUMBERS},
    },
    "zprl.Event": {"kind": TEXT, "level": TEXT, "reason": TEXT, "step": NUMBER},
    "foxglove.CompressedImage": {
        "timestamp": TIME,
        "frame_id": TEXT,
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": TEXT,
    },
}


@dataclass(frozen=True)
class LoggedImage:
    """A compressed camera image (JPEG), and when it was taken on the robot's clock [s]."""

    stamp: float
    jpeg: bytes


@dataclass(frozen=True)
class Entry:
    """A message read back: topic, time [s] and JSON object."""

    topic: str
    stamp: float
    body: dict[str, Any]


def write_mcap(
    episode: RecordedEpisode,
    path: Path | str,
    images: Mapping[str, Iterable[LoggedImage]] | None = None,
) -> None:
    """Write an episode's log and replace an existing one; the same episode gives the same bytes.

    Args:
        episode: A committed episode.
        path: The file, ``mcap/000001.mcap``.
        images: Camera to its images.

    Raises:
        EnvironmentProblem: the extra with the mcap library is missing, or the disk is full.
    """
    try:
        from mcap.writer import Writer
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            "operator logs need the module 'mcap'",
            remedy="install the extra that has it: zprl[robot]",
        ) from error

    messages: list[LogMessage] = [
        *_states(episode),
        *_commands(episode),
        *_chunks(episode),
        *_events(episode),
    ]
    for camera, shots in (images or {}).items():
        messages += [
            (f"/images/{camera}", "foxglove.CompressedImage", shot.stamp, _image(camera, shot))
            for shot in shots
        ]

    buffer = io.BytesIO()
    writer = Writer(buffer, chunk_size=CHUNK_BYTES)
    writer.start(PROFILE, LIBRARY)
    log = _Log(writer)
    for topic, schema, stamp, body in sorted(messages, key=lambda m: m[2]):
        log.add(topic, schema, stamp, body)
    writer.finish()
    durable.write_bytes(path, buffer.getvalue())


def recover_mcap(path: Path | str) -> list[Entry]:
    """Return the messages of a log; of one that was cut off, everything up to the cut.

    Raises:
        DataError: it is no MCAP file from its first byte on.
    """
    from mcap.exceptions import InvalidMagic, McapError
    from mcap.records import Channel, Message
    from mcap.stream_reader import StreamReader
    from zstandard import ZstdError

    # Errors of the library at a cut or at damaged bytes: each means that no message follows.
    ends = (McapError, ZstdError, struct.error, ValueError, KeyError, MemoryError, DataError)
    entries: list[Entry] = []
    topics: dict[int, str] = {}

    with open(path, "rb") as file:
        reader = StreamReader(file, record_size_limit=MAX_RECORD_BYTES, validate_crcs=True)
        try:
            for record in reader.records:
                if isinstance(record, Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, Message):
                    body = durable.parse_json(record.data, "a message", limit=MAX_RECORD_BYTES)
                    stamp = record.log_time / float(NANOSECONDS)
                    entries.append(Entry(topics[record.channel_id], stamp, body))
        except InvalidMagic as error:
            raise DataError(
                f"{path} is not an MCAP file", remedy="make it again from the episode"
            ) from error
        except ends:
            return entries
    return entries


class _Log:
    """Writer of messages that registers schemas and channels as they come."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.schemas: dict[str, int] = {}
        self.channels: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def add(self, topic: str, schema: str, stamp: float, body: dict[str, Any]) -> None:
        """Write one message; ``stamp`` [s]."""
        if schema not in self.schemas:
            text = json.dumps({"type": "object", "title": schema, "properties": SCHEMAS[schema]})
            self.schemas[schema] = self.writer.register_schema(schema, "jsonschema", text.encode())
        if topic not in self.channels:
            self.channels[topic] = self.writer.register_channel(topic, "json", self.schemas[schema])

        at = _nanoseconds(stamp)
        count = self.counts.get(topic, 0)
        data = json.dumps(body, allow_nan=False).encode()
        self.writer.add_message(self.channels[topic], at, data, at, count)
        self.counts[topic] = count + 1


LogMessage = tuple[str, str, float, dict[str, Any]]
"""Topic, name of the schema, stamp [s] and body."""


def _states(episode: RecordedEpisode) -> Iterable[LogMessage]:
    features = episode.frames["features"].numpy()
    for step, stamp in enumerate(episode.stamps):
        body = {
            "step": step,
            "pose": episode.measured[step].tolist(),
            "features": _named(episode.facts.features, features[step]),
        }
        if episode.wrench is not None and step < episode.steps:
            body["wrench"] = episode.wrench[step].tolist()
        yield "/state", "zprl.State", float(stamp), body


def _commands(episode: RecordedEpisode) -> Iterable[LogMessage]:
    sent = episode.frames["sent"].numpy()
    for step in range(episode.steps):
        yield (
            "/command",
            "zprl.Command",
            float(episode.stamps[step]),
            {
                "step": step,
                "action": episode.commanded[step].tolist(),
                "sent": _named(episode.facts.sent, sent[step]),
                "clipped": bool(episode.clipped[step]),
                "intervention": bool(episode.intervention[step]),
            },
        )


def _chunks(episode: RecordedEpisode) -> Iterable[LogMessage]:
    names = (
        "id",
        "version",
        "obs_step",
        "step",
        "steps",
        "intervened",
        "point",
        "residual",
        "targets",
    )
    for i in range(len(episode.chunks["id"])):
        body: dict[str, Any] = {name: episode.chunks[name][i].tolist() for name in names}
        body["residual_norm"] = float(episode.chunks["residual"][i].norm())
        yield "/chunk", "zprl.Chunk", float(episode.stamps[body["step"]]), body


def _events(episode: RecordedEpisode) -> Iterable[LogMessage]:
    first = float(episode.stamps[0])
    for event in episode.facts.events:
        stamp = event.get("stamp")
        yield (
            "/event",
            "zprl.Event",
            float(stamp) if isinstance(stamp, int | float) else first,
            dict(event),
        )


def _image(camera: str, image: LoggedImage) -> dict[str, Any]:
    seconds, rest = divmod(_nanoseconds(image.stamp), NANOSECONDS)
    data = base64.b64encode(image.jpeg).decode()
    return {
        "timestamp": {"sec": seconds, "nsec": rest},
        "frame_id": camera,
        "data": data,
        "format": "jpeg",
    }


def _named(names: tuple[str, ...], row: np.ndarray) -> dict[str, float]:
    """Return a row as an object; columns without names are numbered."""
    keys = names or map(str, range(len(row)))
    return {name: float(value) for name, value in zip(keys, row, strict=True)}


def _nanoseconds(stamp: float) -> int:
    # A robot's clock may begin below zero, MCAP's may not.
    return max(round(stamp * NANOSECONDS), 0)
