"""Messages: what arrives is what was sent, and nothing that arrives is trusted."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.session_messages import UntypedBus
from zprl.errors import DataError, EnvironmentProblem
from zprl.session import bus
from zprl.session.messages import EpisodeLost


@pytest.fixture
def folder():
    path = bus.make_folder()
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def wait_for(reader: bus.Bus, writer: UntypedBus, topic: str, body: dict) -> bus.Message:
    for _ in range(200):  # a subscription takes a moment to reach the publisher
        writer.send(topic, body, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
        if found := reader.poll(0.05):
            return found[-1]
    raise AssertionError("nothing arrived")


def test_a_message_arrives_whole(folder) -> None:
    writer, reader = (
        UntypedBus(folder, "driver", {}),
        bus.Bus(folder, "actor", {"driver": ["state"]}),
    )
    found = wait_for(reader, writer, "state", {"step": 3})
    assert (found.sender, found.topic, found.body) == ("driver", "state", {"step": 3})
    assert found.arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    writer.close(), reader.close()


def test_topics_nobody_asked_for_are_dropped(folder) -> None:
    writer, reader = (
        UntypedBus(folder, "driver", {}),
        bus.Bus(folder, "actor", {"driver": ["state"]}),
    )
    wait_for(reader, writer, "state", {})
    writer.send("stateful", {})  # a subscription matches by prefix, a listener does not
    writer.send("state", {"last": True})
    found: list[bus.Message] = []
    while not found or not found[-1].body.get("last"):
        found += reader.poll(1.0)
    assert {message.topic for message in found} == {"state"}
    writer.close(), reader.close()


def test_a_restarted_process_is_heard_again(folder) -> None:
    reader = bus.Bus(folder, "actor", {"driver": ["state"]})
    for life in (1, 2):
        writer = UntypedBus(folder, "driver", {})
        while wait_for(reader, writer, "state", {"life": life}).body["life"] != life:
            pass
        writer.close()
    reader.close()


def test_a_feed_without_reader_fills_up_and_says_so(folder) -> None:
    line = bus.ReliableQueue(folder, "recorder", reader=False)
    sent = 0
    while line.put("driver", EpisodeLost(number=sent)):
        sent += 1
        assert sent <= 2 * bus.HIGH_WATER
    reader = bus.ReliableQueue(folder, "recorder", reader=True)
    numbers = [reader.get(1.0).contents.number for _ in range(sent)]
    assert numbers == list(range(sent))
    line.close(), reader.close()


def test_a_folder_open_to_others_is_refused(folder) -> None:
    folder.chmod(0o755)
    with pytest.raises(EnvironmentProblem, match="open to other users"):
        bus.Bus(folder, "driver", {})
    folder.chmod(0o700)


GOOD = bus.encode("driver", "state", {"x": 1.5}, {"a": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"t"],
        [b"t", b"not json"],
        [b"t", b"[]"],
        [GOOD[0], GOOD[1]],
        [GOOD[0], GOOD[1], GOOD[2], b"more"],
        [GOOD[0], GOOD[1], GOOD[2][:-1]],
        [GOOD[0], GOOD[1].replace(b"float32", b"object"), GOOD[2]],
        [GOOD[0], GOOD[1].replace(b"[2, 2]", b"[-2, -2]"), GOOD[2]],
        [b"\xff", GOOD[1], GOOD[2]],
        [b"t", json.dumps({"from": "x", "body": [], "arrays": []}).encode()],
    ],
)
def test_malformed_messages_are_refused(frames) -> None:
    with pytest.raises(DataError, match="malformed"):
        bus.decode(frames)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_no_bytes_make_it_fail_otherwise(frames) -> None:
    with contextlib.suppress(DataError):
        bus.decode(frames)


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        bus.encode("a", "b", {"x": float("nan")})
