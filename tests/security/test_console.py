"""Other sites and odd requests at the page: foreign origins, names, websockets, long bodies."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests import console_scene
from zprl.errors import ConfigError, EnvironmentProblem
from zprl.request_checks import is_loopback
from zprl.session.inputs import OperatorInput
from zprl.session.processes.console import request_guard
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.app import make_app
from zprl.session.processes.console.serve import Console
from zprl.session.processes.console.snapshot import ConsoleState

BASE = "http://127.0.0.1:8000"
STOP = {"kind": "estop", "nonce": "n-12345678"}
ACCESS = Access(Secrets.make())
COOKIES = {ACCESS.cookie: ACCESS.cookie_for("anna")}


def app(arrived: list[OperatorInput], **options: object):
    source = ConsoleState()
    source.publish(console_scene.snapshot())
    return make_app(source, arrived.append, ACCESS, **options)


@pytest.fixture
def arrived() -> list[OperatorInput]:
    return []


def client(arrived: list[OperatorInput], base: str = BASE, **options: object) -> TestClient:
    """Somebody who has logged in."""
    return TestClient(
        app(arrived, **options), base_url=base, follow_redirects=False, cookies=COOKIES
    )


# -- other sites -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "https://evil.example",
        "http://127.0.0.1:9999",
        "http://localhost:8000",
        "http://127.0.0.1:8000.evil.example",
        "",
    ],
)
def test_a_press_from_another_site_is_refused(arrived: list, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert client(arrived).post("/input", json=STOP, headers=headers).status_code == 403
    assert not arrived


def test_a_press_from_the_page_is_taken(arrived: list) -> None:
    assert client(arrived).post("/input", json=STOP, headers={"Origin": BASE}).status_code == 200
    assert len(arrived) == 1


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "192.168.1.5:8000",
            "",
            "[::1",
            "a@b@c",
        ),
        *(
            "evil@127.0.0.1",
            "evil:x@127.0.0.1:8000",
            "127.0.0.1#evil",
            "127.0.0.1/evil",
            "127.0.0.1?evil",
            "127.0.0.1\\evil",
        ),
        *(
            "127.0.0.1:8000:1",
            "127.0.0.1:",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "[::ffff:127.0.0.1]evil",
            "localhost,evil",
            " 127.0.0.1",
        ),
    ],
)
def test_a_foreign_host_name_is_refused(arrived: list, host: str) -> None:
    page = client(arrived)
    for answer in (
        page.get("/", headers={"Host": host}),
        page.get("/stream", headers={"Host": host}),
        page.post("/input", json=STOP, headers={"Host": host, "Origin": f"http://{host}"}),
    ):
        assert answer.status_code == 421
    assert not arrived


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.0.0.1"])
def test_the_names_of_this_machine_are_served(arrived: list, host: str) -> None:
    assert client(arrived).get("/", headers={"Host": host}).status_code == 200


def test_other_addresses_and_names_when_asked_for(arrived: list) -> None:
    page = client(arrived, any_address=True, names=("robot.lab",))
    for host, status in (
        ("192.168.1.5:8000", 200),
        ("robot.lab", 200),
        ("ROBOT.lab:80", 200),
        ("robot.evil", 421),
    ):
        assert page.get("/login", headers={"Host": host}).status_code == status


def test_a_websocket_is_refused(arrived: list) -> None:
    answer = client(arrived).get("/", headers={"Connection": "Upgrade", "Upgrade": "WebSocket"})
    assert answer.status_code == 403
    with pytest.raises(WebSocketDisconnect), client(arrived).websocket_connect("/stream"):
        pass


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD"])
def test_other_methods_are_refused(arrived: list, method: str) -> None:
    assert client(arrived).request(method, "/input", headers={"Origin": BASE}).status_code == 405


# -- headers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/page.js", "/login", "/camera/none.jpg", "/nothing"])
def test_every_answer_has_the_security_headers(arrived: list, path: str) -> None:
    headers = client(arrived).get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_refusals_have_them_too(arrived: list) -> None:
    assert (
        "content-security-policy"
        in client(arrived).get("/", headers={"Host": "evil.example"}).headers
    )


def test_the_page_names_no_other_site_and_writes_no_html() -> None:
    folder = files("zprl.session.processes.console")
    for name in ("page.html", "page.css", "page.js", "login.html", "login.js", "stop.js"):
        text = (folder / name).read_text()
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        )
        assert " style=" not in text
        assert not re.search(r"\son\w+=", text)


# -- long bodies -----------------------------------------------------------------------------------


def test_a_long_body_is_refused(arrived: list) -> None:
    page, headers = client(arrived), {"Origin": BASE, "Content-Type": "application/json"}
    assert page.post("/input", content=b"x" * 3000, headers=headers).status_code == 413
    assert (
        page.post("/input", content=(b"x" * 100 for _ in range(100)), headers=headers).status_code
        == 413
    )  # no length was sent
    assert (
        page.post(
            "/input", content=b"{}", headers={**headers, "Content-Length": "9" * 400}
        ).status_code
        == 413
    )
    assert (
        page.post("/input", content=b"{}", headers={**headers, "Content-Length": "-1"}).status_code
        == 413
    )
    assert not arrived


def test_a_body_that_never_comes_is_given_up(
    arrived: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_guard, "BODY_S", 0.05)
    sent = []

    async def receive() -> dict:
        await asyncio.Event().wait()

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/input",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"origin", BASE.encode())],
    }
    asyncio.run(asyncio.wait_for(app(arrived)(scope, receive, send), 10))
    assert sent[0]["status"] == 408


def test_deep_json_breaks_nothing(arrived: list) -> None:
    answer = client(arrived).post(
        "/input", content=b"[" * 2000, headers={"Origin": BASE, "Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert not arrived


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_host_that_is_no_address_and_a_port_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="not an address"):
        Console(ConsoleState(), lambda _: None, host="robot.lab")
    with (
        Console(ConsoleState(), lambda _: None) as first,
        pytest.raises(EnvironmentProblem, match="cannot be served"),
    ):
        Console(ConsoleState(), lambda _: None, port=int(first.url.rsplit(":", 1)[1].strip("/")))
