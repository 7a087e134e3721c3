"""Mutated messages and requests: each is taken for what it is or refused, and nothing else happens.  Seeded: every run tries the same."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from tests.session_messages import PLAN
from zprl.errors import DataError
from zprl.session.bus import Message, decode, encode
from zprl.session.inputs import OperatorInput
from zprl.session.messages import Topic
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.app import Press, make_app
from zprl.session.processes.console.snapshot import ConsoleState

MESSAGES = 100_000
REQUESTS = 2_000
BASE = "http://127.0.0.1:8000"
GROWTH = 100 * 2**20
WORDS = [
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\",
        b",",
        b":",
        b"[[",
        b"\0",
        b"\xff\xfe",
        b"\\ud800",
        b"\xf0\x9f\xa4\x96",
    ),
    *(
        b"null",
        b"true",
        b"-1",
        b"-0",
        b"1e999",
        b"NaN",
        b"18446744073709551616",
        b"9" * 400,
        b"[" * 200,
    ),
    *(b'"arrays"', b'"float64"', b'"object"'),
]


def seeds() -> list[list[bytes]]:
    """Messages as they go about in a session."""
    obs = {
        "obs/object": np.zeros((1, 10), np.float32),
        "targets": np.ones((8, 10), np.float32),
        "flag": np.zeros(3, bool),
    }
    return [
        encode(
            "driver",
            "state",
            {
                "number": 1,
                "step": 7,
                "features": {"ee.x": 0.4, "ee.y": -0.1},
                "health": {"errors": []},
            },
            obs,
        ),
        encode("supervisor", "plan", PLAN),
        encode(
            "actor",
            "chunk",
            {
                "number": 1,
                "decision": 4,
                "version": 2,
                "digest": "d",
                "limits": "l",
                "step": 7,
                "stamp": 1.5,
            },
            {"targets": obs["targets"]},
        ),
        encode(
            "console",
            "input",
            {"kind": "estop", "episode": None, "nonce": "n-12345678", "source": "console"},
        ),
        encode(
            "operator_devices",
            "twist",
            {"twist": [0.1] * 6, "buttons": 1, "at": 1.5},
            {"none": np.zeros((0, 4), np.int64)},
        ),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: a flipped bit, a lost, doubled or moved piece, a word of the format in the wrong place."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        to = min(len(found), at + chance.choice([1, 1, 2, 8, 64]))
        kind = chance.randrange(5)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del found[at:to]
        elif kind == 2:
            found[at:at] = found[at:to]
        elif kind == 3:
            found[at:to] = chance.choice(WORDS)
        else:
            other = chance.randrange(len(found) + 1)
            found[at:to] = found[other : other + to - at]
    return bytes(found)


def messages(number: int) -> Iterator[list[bytes]]:
    """Mutations of headers, of the parts among one another, and of what the header says of arrays."""
    chance, known = random.Random(20), seeds()
    sizes = [0, 0, 1, 2, 2**31, 2**62, 2**63, 2**64, 10**30, True]
    shapes = [*sizes, -1, 0.5, None, "3", [1]]
    for _ in range(number):
        frames = list(chance.choice(known))
        kind = chance.randrange(6)
        if kind < 3:
            frames[1] = mutated(frames[1], chance)
        elif kind == 3:
            frames[chance.randrange(len(frames))] = mutated(chance.choice(frames), chance)
        elif kind == 4:
            header = json.loads(frames[1])
            header["arrays"] = [
                [
                    "a",
                    chance.choice(["float32", "bool", "object", 7, None]),
                    chance.choices(shapes, k=chance.randint(0, 40)),
                ]
            ]
            frames = [frames[0], json.dumps(header).encode(), bytes(chance.choice([0, 4, 8, 64]))]
        else:
            chance.shuffle(frames)
            frames = frames * chance.choice([0, 1, 1, 40])
        yield frames


def test_a_mutated_message_is_a_message_or_a_data_error() -> None:
    counts = {"message": 0, "refused": 0, "contents": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for frames in messages(MESSAGES):
        try:
            found = decode(frames)
        except DataError as error:
            assert len(error.message) < 500
            counts["refused"] += 1
        else:
            assert isinstance(found, Message)
            assert isinstance(found.body, dict)
            counts["message"] += 1
            try:
                assert type(found.contents) is Topic(found.topic).contents
            except DataError as error:
                assert len(error.message) < 500
            else:
                counts["contents"] += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GROWTH
    assert min(counts.values()) > MESSAGES / 50  # both paths were tried


class Session:
    """Keeps what is handed over."""

    def __init__(self) -> None:
        self.inputs: list[OperatorInput] = []

    def __call__(self, found: OperatorInput) -> None:
        self.inputs.append(found)


def bodies(chance: random.Random) -> bytes:
    """The body of a press, mutated."""
    kinds = [
        "estop",
        "clear",
        "success",
        "failure",
        "pause",
        "resume",
        "reset_done",
        "x",
        "",
        None,
        1,
        ["estop"],
        {"a": 1},
    ]
    values = [
        None,
        0,
        1,
        -1,
        2**63,
        10**30,
        1.5,
        True,
        "1",
        [],
        {},
        "x" * 5000,
        "\ud800",
        "\u202e",
        "a\nb",
    ]
    body = {
        "kind": chance.choice(kinds),
        "nonce": f"n-{chance.randrange(10**9):09}",
        "episode": chance.choice(values),
        "seq": 1,
        "at": 1.0,
    }
    if chance.random() < 0.3:  # a press as the page makes it
        body |= {
            "kind": chance.choice(["estop", "pause", "reset_done", "success"]),
            "episode": 3,
            "seq": 1,
            "at": 1.0,
        }
        return json.dumps(body).encode()
    for key in chance.sample(
        ["confirmed", "seq", "at", "nonce", "kind", "source", "__class__"], chance.randint(0, 3)
    ):
        body[key] = chance.choice(values)
    text = json.dumps(body).encode()
    return mutated(text, chance) if chance.random() < 0.5 else text


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_request_is_answered_and_none_but_a_press_is_handed_over() -> None:
    session = Session()
    access = Access(Secrets.make())
    cookies = {access.cookie: access.cookie_for("anna")}
    app = make_app(ConsoleState(), session, access)
    client = TestClient(
        app, base_url=BASE, headers={"Origin": BASE}, cookies=cookies, raise_server_exceptions=False
    )
    chance = random.Random(21)
    paths = [
        "/input",
        "/input",
        "/input",
        "/login",
        "/",
        "/camera/x.jpg",
        "/camera/..%2f..%2fx.jpg",
        "/page.js",
        "/nowhere",
    ]
    for number in range(REQUESTS):
        body, path = bodies(chance), chance.choice(paths)
        method = (
            "POST"
            if path in ("/input", "/login")
            else chance.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"])
        )
        headers = {
            "content-type": chance.choice(
                [
                    "application/json",
                    "text/plain",
                    "application/x-www-form-urlencoded",
                    "x/\xff",
                    "",
                ]
            )
        }
        if chance.random() < 0.3:
            headers[
                chance.choice(["content-length", "cookie", "authorization", "x-a", "accept"])
            ] = mutated(b"1234", chance).decode("latin-1")
        handed = len(session.inputs)
        try:
            answer = client.request(
                method, path, content=body, headers=headers, follow_redirects=False
            )
        except (UnicodeEncodeError, ValueError):
            continue  # the client itself sends no such header
        assert answer.status_code < 500, (number, method, path, headers, body, answer.text[:200])
        if len(session.inputs) > handed:
            assert (method, path) == ("POST", "/input")
            press = valid(body)
            assert press is not None, (number, body)
            assert session.inputs[-1].kind == press.kind


def valid(body: bytes) -> Press | None:
    """The press that a body is, if it is one: by another parser than the application's."""
    try:
        return Press.model_validate_json(body)
    except ValidationError:
        return None
