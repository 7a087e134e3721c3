"""The guard before MLflow and Prefect: other hosts, other sites, other users, used links."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from pipelines import guard
from pipelines.guard import ServerGuard
from tests.stranger import LOGIN

HOSTS = [
    "evil.example",
    "evil.example:4321",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:4321.evil.example",
    "a@127.0.0.1:4321",
    "",
]
ORIGINS = [
    "http://evil.example",
    "https://127.0.0.1:4321",
    "http://127.0.0.1:9999",
    "http://localhost:4321",
    "null",
    "",
]


def page(**options: object) -> TestClient:
    app = ServerGuard(PlainTextResponse("inside"), port=4321, login=LOGIN, **options)
    return TestClient(app, base_url="http://127.0.0.1:4321", follow_redirects=False)


def ticket(client: TestClient) -> str:
    return client.post(guard.TICKET, headers={"Authorization": f"Bearer {LOGIN}"}).json()["ticket"]


def redeem(client: TestClient, given: str, **headers: str) -> httpx.Response:
    return client.post(
        guard.LOGIN, json={"ticket": given}, headers={"Origin": "http://127.0.0.1:4321", **headers}
    )


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused(host: str) -> None:
    client = page(storage={})
    for path in ("/", "/api/health", guard.LOGIN, guard.TICKET):
        assert client.get(path, headers={"Host": host}).status_code == 421
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("ws://127.0.0.1:4321/api/events/out", headers={"Host": host}),
    ):
        pass


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_is_refused(origin: str) -> None:
    client = page(storage={})
    for method, path in (
        ("GET", "/"),
        ("POST", "/api/flows"),
        ("OPTIONS", "/api/flows"),
        ("POST", guard.LOGIN),
    ):
        answer = client.request(method, path, headers={"Origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_header_given_twice_is_worth_nothing() -> None:
    client = page(storage={})
    for name, values in (
        ("Host", ("127.0.0.1:4321", "evil.example")),
        ("Origin", ("http://127.0.0.1:4321", "http://evil.example")),
    ):
        for pair in (values, values[::-1]):
            assert client.get("/", headers=[(name, value) for value in pair]).status_code in (
                403,
                421,
            )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_but_not_embed(site: str) -> None:
    """A page on another port of this machine is the same site: cookies go with what it asks for."""
    client = page(storage={})
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    for change in (
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    ):
        assert client.get("/", headers={**link, **change}).status_code == 403
    assert client.post("/", headers=link).status_code == 403
    assert "frame-ancestors 'self'" in client.get("/").headers["content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:4321", "localhost:4321"])
def test_the_own_page_is_served(host: str) -> None:
    own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert page(storage={}).post("/api/flows", headers=own).text == "inside"


def test_nobody_without_a_login_reaches_a_server_that_has_none() -> None:
    client = page()
    assert client.get("/health").text == "inside"
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {LOGIN}"},
        {"Authorization": f"bearer{LOGIN}"},
    ]
    wrong += [
        {"Cookie": f"zprl-4321={LOGIN}"},
        {"Cookie": "zprl-4321="},
        {"Cookie": "\x7f;=;"},
        {"Cookie": "zprl-4321"},
    ]
    for headers in wrong:
        for path in (
            "/",
            "/api/2.0/mlflow/experiments/search",
            "/health/../",
            "//health",
            "/static-files/x.js",
        ):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "zprl ui --link" in answer.text
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://127.0.0.1:4321/"):
        pass
    assert client.get("/", headers={"Authorization": f"Bearer {LOGIN}"}).text == "inside"


def test_a_link_logs_in_once() -> None:
    client = page()
    first = ticket(client)
    answer = redeem(client, first)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert LOGIN not in cookie
    assert client.get("/").text == "inside"  # the client keeps cookies
    other = page()
    assert redeem(other, first).status_code == 403
    assert redeem(client, ticket(client)).status_code == 200


@pytest.mark.parametrize("storage", [None, {"prefect-password": "abc"}])
def test_a_used_link_leads_a_browser_that_is_logged_in_to_the_page(storage: dict | None) -> None:
    client = page(storage=storage)
    first = ticket(client)
    assert redeem(client, first).status_code == 200
    again = redeem(client, first)
    assert (again.status_code, again.json()) == (200, {"storage": {}})
    assert "set-cookie" not in again.headers
    client.cookies.clear()
    assert redeem(client, first).status_code == 403
    assert redeem(client, first, Cookie=f"zprl-4321={LOGIN}").status_code == 403


def test_a_server_with_a_login_of_its_own_puts_it_into_the_page_once() -> None:
    client = page(storage={"prefect-password": "abc"})
    first = ticket(client)
    answer = redeem(client, first)
    assert answer.json() == {"storage": {"prefect-password": "abc"}}
    assert answer.headers["cache-control"] == "no-store"
    assert "abc" not in answer.headers["set-cookie"]
    client.cookies.clear()
    again = redeem(client, first)
    assert again.status_code == 403
    assert "abc" not in again.text


def test_a_browser_without_a_login_reads_where_the_links_are() -> None:
    client = page(storage={"prefect-password": "abc"})
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/", "/dashboard", "/flow-runs/1"):
        answer = client.get(path, headers=browser)
        assert answer.status_code == 401
        assert "zprl ui --link" in answer.text
    for headers in ({}, {"Accept": "application/json"}, {**browser, "Authorization": basic(LOGIN)}):
        assert client.get("/api/flows", headers=headers).text == "inside"
    assert redeem(client, ticket(client)).status_code == 200
    assert client.get("/dashboard", headers=browser).text == "inside"


def test_a_link_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    client, now = page(), [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    old, young = ticket(client), ticket(client)
    now[0] += guard.TICKET_S - 1
    assert redeem(client, young).status_code == 200
    client.cookies.clear()
    now[0] += 2
    assert redeem(client, old).status_code == 403


def test_who_may_not_have_a_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    client = page()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {LOGIN}"}):
        assert client.post(guard.TICKET, headers=headers).status_code == 403
    assert client.get(guard.TICKET, headers={"Authorization": f"Bearer {LOGIN}"}).status_code == 403
    bodies = (
        b"",
        b"{",
        b"[]",
        b'{"ticket": null}',
        b'{"ticket": []}',
        b"[" * 50_000,
        b"\xff",
        json.dumps({"ticket": "x" * 5000}).encode(),
    )
    for body in bodies:
        answer = client.post(guard.LOGIN, content=body, headers={"Origin": "http://127.0.0.1:4321"})
        assert answer.status_code == 403
    assert (
        client.post(guard.LOGIN, json={"ticket": ticket(client)}).status_code == 403
    )  # no page asked for it


def test_the_page_that_logs_in_is_closed_to_others() -> None:
    client = page()
    for path in (guard.LOGIN, guard.SCRIPT):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def test_a_server_with_a_login_of_its_own_sees_no_other() -> None:
    """Prefect raises at letters beyond ASCII, with a traceback for each request."""
    client = page(storage={})
    wrong = [
        basic("zprl:\u00e4"),
        basic("zprl:guess"),
        basic(f"{LOGIN} "),
        "Basic",
        "Basic ",
        f"Basic {LOGIN}",
        f"Bearer {LOGIN}",
        "\u00e4",
        "",
    ]
    for given in wrong:
        answer = client.post(
            "/api/work_pools/filter", headers={"Authorization": given.encode("latin-1")}
        )
        assert answer.status_code == 401
        assert answer.text != "inside"
    twice = [("Authorization", basic(LOGIN)), ("Authorization", basic(LOGIN))]
    assert client.post("/api/flows", headers=twice).status_code == 401
    for headers in ({}, {"Authorization": basic(LOGIN)}):
        assert client.post("/api/flows", headers=headers).text == "inside"
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(
            "ws://127.0.0.1:4321/", headers={"Authorization": basic("\u00e4")}
        ),
    ):
        pass


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_server_raises_is_one_short_line(
    caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    async def broken(scope: dict, receive: object, send: object) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
        elif begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        raise TypeError("strings with non-ASCII\n\x1b[31m" + "x" * 100_000)

    client = TestClient(
        ServerGuard(broken, port=4321, login=LOGIN, storage={}), base_url="http://127.0.0.1:4321"
    )
    assert client.get("/%0A" + "y" * 10_000).status_code == (200 if begun else 500)
    with (
        client.websocket_connect("ws://127.0.0.1:4321/") as wire,
        pytest.raises(WebSocketDisconnect),
    ):
        wire.receive_text()
    lines = [
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name == "pipelines.guard"
    ]
    assert len(lines) == 2
    assert all(len(line) < 300 and line.isprintable() for line in lines), lines


def test_a_websocket_without_its_login_in_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later messages may take as long as they like."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        try:
            await websocket.receive_text()
            await asyncio.sleep(0.3)
            await websocket.send_text("logged in")
            await websocket.receive_text()
        except WebSocketDisconnect:
            lost.append(scope["path"])
            await send({"type": "websocket.close", "code": 1008})
        else:
            await websocket.send_text("bye")

    lost: list[str] = []
    monkeypatch.setattr(guard, "WEBSOCKET_S", 0.2)
    client = TestClient(ServerGuard(app, port=4321, login=LOGIN, storage={}))
    client.headers["Host"] = "127.0.0.1:4321"
    address = "ws://127.0.0.1:4321/in"
    with client.websocket_connect(address) as wire, pytest.raises(WebSocketDisconnect):
        wire.receive_text()
    assert lost == ["/in"]
    with client.websocket_connect(address) as wire:
        wire.send_text("login")
        assert wire.receive_text() == "logged in"
        time.sleep(0.4)
        wire.send_text("more")
        assert wire.receive_text() == "bye"
