"""The operator's log: read by MCAP's own reader, made again at any time, useful when cut off."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mcap")
from mcap.reader import make_reader

from tests import session_factories as made
from zprl.errors import DataError
from zprl.recordings.mcap_log import CHUNK_BYTES, LoggedImage, recover_mcap, write_mcap
from zprl.recordings.store import RecordedEpisode, SessionStore

JPEG = b"\xff\xd8\xff\xe0 an image \xff\xd9"


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> RecordedEpisode:
    path = tmp_path_factory.mktemp("mcap") / "session"
    with made.create(path) as store:
        made.add_episode(store, 1, steps=10)
        made.add_episode(store, 2, steps=400)
    return SessionStore.open(path).episode(1)


def test_it_is_read_by_the_librarys_reader(episode: RecordedEpisode, tmp_path: Path) -> None:
    path = tmp_path / "mcap/000001.mcap"
    write_mcap(episode, path, {"top": [LoggedImage(100.05, JPEG), LoggedImage(100.1, JPEG)]})
    with open(path, "rb") as file:
        reader = make_reader(file, validate_crcs=True)
        messages = [
            (schema, channel.topic, message.log_time, json.loads(message.data))
            for schema, channel, message in reader.iter_messages()
        ]
    assert Counter(topic for _, topic, _, _ in messages) == {
        "/state": 11,
        "/command": 10,
        "/chunk": 3,
        "/event": 1,
        "/images/top": 2,
    }
    assert all(
        schema.encoding == "jsonschema" and json.loads(schema.data)["type"] == "object"
        for schema, *_ in messages
    )
    times = [time for _, _, time, _ in messages]
    assert times == sorted(times)
    assert times[0] == 100_000_000_000  # robot's clock, nanoseconds
    chunk = next(body for _, topic, _, body in messages if topic == "/chunk")
    assert chunk["residual_norm"] == pytest.approx(np.linalg.norm(chunk["residual"]))
    assert (chunk["version"], chunk["steps"], len(chunk["point"])) == (0, 4, 3)
    command = [body for _, topic, _, body in messages if topic == "/command"][3]
    assert command["clipped"] is True
    assert command["sent"]["gripper.pos"] == 0.08
    image = next(body for _, topic, _, body in messages if topic == "/images/top")
    assert base64.b64decode(image["data"]) == JPEG
    assert image["timestamp"] == {"sec": 100, "nsec": 50_000_000}


def test_the_same_episode_gives_the_same_bytes(episode: RecordedEpisode, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mcap(episode, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_whole_file_is_recovered_whole(episode: RecordedEpisode, tmp_path: Path) -> None:
    write_mcap(episode, tmp_path / "log")
    entries = recover_mcap(tmp_path / "log")
    assert len(entries) == 25
    assert entries[0].stamp == 100.0


def test_a_file_that_was_cut_off_gives_what_stands_before_the_cut(
    episode: RecordedEpisode, tmp_path: Path
) -> None:
    long = SessionStore.open(episode.path.parents[1]).episode(2)
    write_mcap(long, tmp_path / "log")
    data = (tmp_path / "log").read_bytes()
    whole = recover_mcap(tmp_path / "log")
    counts = []
    for cut in np.linspace(8, len(data), 40).astype(int):
        (tmp_path / "cut").write_bytes(data[:cut])
        entries = recover_mcap(tmp_path / "cut")
        assert entries == whole[: len(entries)]
        counts.append(len(entries))
    assert counts == sorted(counts)
    assert counts[-1] == len(whole) == 401 + 400 + 100 + 1
    assert (
        sum(len(json.dumps(e.body)) for e in whole) > 3 * CHUNK_BYTES
    )  # several blocks: a cut loses one
    assert counts[len(counts) // 2] > len(whole) // 5


def test_what_is_no_mcap_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a log at all")
    with pytest.raises(DataError, match="not an MCAP file"):
        recover_mcap(tmp_path / "x")


def test_damaged_bytes_never_raise_anything_else(episode: RecordedEpisode, tmp_path: Path) -> None:
    write_mcap(episode, tmp_path / "log")
    data = (tmp_path / "log").read_bytes()
    draw = np.random.default_rng(0)
    for place in draw.integers(8, len(data), 150):
        broken = bytearray(data)
        broken[place] ^= 1 << int(draw.integers(8))
        (tmp_path / "x").write_bytes(broken)
        assert len(recover_mcap(tmp_path / "x")) <= 25
