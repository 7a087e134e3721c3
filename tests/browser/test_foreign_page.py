"""A page of somebody else's, in a real Chromium that is logged in everywhere, tries to reach every server of zprl."""

from __future__ import annotations

import http.server
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pipelines.ui import link_to
from tests import console_scene
from tests.pipeline.conftest import Opened, make_project
from zprl.session.inputs import OperatorInput
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.serve import Console
from zprl.session.processes.console.snapshot import ConsoleState

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.services
CHROMIUM = Path("/usr/bin/chromium")
SLOW_MS = 60_000
EVIL = "evil.example"
"""A foreign name that the attacker's DNS lets point to this machine."""

ATTACK = """async ([url, body]) => {
    const tried = {};
    const kinds = [["application/json", "cors"], ["text/plain", "cors"], ["text/plain", "no-cors"]];
    for (const [type, mode] of kinds) for (const credentials of ["include", "omit"]) {
        const name = `${type} ${mode} ${credentials}`;
        try {
            const options = {method: "POST", mode, credentials, body, headers: {"Content-Type": type}};
            const answer = await fetch(url, options);
            tried[name] = answer.type === "opaque" ? "opaque" : answer.status;
        } catch { tried[name] = "refused" }
    }
    return tried;
}"""
FORM = """([url, body]) => {
    const form = document.createElement("form");
    form.method = "POST"; form.action = url; form.enctype = "text/plain"; form.target = "_blank";
    const field = document.createElement("input");
    field.name = body; form.append(field); document.body.append(form);
    form.submit();
}"""
LISTEN = """([url, kind]) => new Promise((resolve) => {
    const source = kind === "socket" ? new WebSocket(url.replace("http", "ws")) : new EventSource(url, {withCredentials: true});
    source.onopen = () => resolve("open");
    source.onmessage = () => resolve("message");
    source.onerror = () => { source.close(); resolve("refused"); };
    setTimeout(() => resolve("silent"), 5000);
})"""


class Nothing(http.server.BaseHTTPRequestHandler):
    """The attacker's page: empty, the attack is run in it."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>prize</title><body></body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    project = make_project(tmp_path_factory.mktemp("foreign") / "project", {})
    yield project.open_ui()
    project.clean()


@pytest.fixture(scope="module")
def pressed() -> queue.Queue[OperatorInput]:
    return queue.Queue()


@pytest.fixture(scope="module")
def console(pressed: queue.Queue[OperatorInput]) -> Iterator[tuple[str, Access]]:
    source = ConsoleState()
    source.publish(console_scene.snapshot())
    access = Access(Secrets.make())
    with Console(source, pressed.put, access=access) as console:
        yield console.url, access


@pytest.fixture(scope="module")
def foreign() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def context(ui: Opened, console: tuple[str, Access]) -> Iterator:
    """A browser that is logged in on every page."""
    options = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        context = browser.new_context()
        context.set_default_timeout(SLOW_MS)
        for link in (*map(link_to, ui.servers.values()), console[1].link(console[0])):
            page = (
                context.new_page()
            )  # one each: a page that goes on by itself would interrupt the next
            page.goto(link, wait_until="commit")
            page.wait_for_url(lambda url: "/login" not in url)
            page.close()
        yield context
        browser.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", EVIL])
def test_a_foreign_page_reaches_no_server(
    context, ui: Opened, console, pressed, foreign: int, host: str
) -> None:
    prefect, mlflow = ui.servers["Prefect"], ui.servers["MLflow"]
    page = context.new_page()
    page.goto(f"http://{host}:{foreign}/")
    targets = {
        f"{prefect.url}/api/work_pools/": '{"name": "theirs", "type": "process"}',
        f"{mlflow.url}/api/2.0/mlflow/registered-models/create": '{"name": "theirs"}',
        f"{console[0]}input": '{"kind": "estop", "nonce": "stranger-1"}',
    }
    for url, body in targets.items():
        tried = page.evaluate(ATTACK, [url, body])
        assert set(tried.values()) <= {"refused", "opaque"}, (url, tried)
        with context.expect_page() as opened:
            page.evaluate(FORM, [url, body])
        opened.value.wait_for_load_state()
        assert "theirs" not in opened.value.content()
        opened.value.close()
    assert page.evaluate(LISTEN, [f"{console[0]}stream", "events"]) == "refused"
    assert page.evaluate(LISTEN, [f"{prefect.url}/api/events/out", "socket"]) == "refused"
    assert page.evaluate(LISTEN, [f"{console[0]}stream", "socket"]) == "refused"
    page.close()

    assert pressed.empty()  # not even the e-stop, which needs no login but the page's own origin
    header = {"Authorization": f"Bearer {mlflow.login}"}
    assert (
        "theirs"
        not in httpx.get(
            f"{mlflow.url}/api/2.0/mlflow/registered-models/search", headers=header, timeout=60
        ).text
    )
    name, _, password = prefect.login.partition(":")
    assert (
        "theirs"
        not in httpx.post(
            f"{prefect.url}/api/work_pools/filter", json={}, auth=(name, password), timeout=60
        ).text
    )


def test_a_name_that_was_rebound_to_this_machine_opens_no_page(
    context, ui: Opened, console, pressed
) -> None:
    page = context.new_page()
    for url in (*(server.url for server in ui.servers.values()), console[0]):
        answer = page.goto(f"http://{EVIL}:{urlsplit(url).port}/")
        assert answer is not None
        assert answer.status in (400, 403, 421), url
    page.close()
    assert pressed.empty()


def test_the_same_requests_work_from_the_pages_themselves(
    context, ui: Opened, console, pressed
) -> None:
    """Or the tests above would show nothing."""
    page = context.new_page()
    mlflow = ui.servers["MLflow"].url
    for home, path, body in (
        (mlflow, "/api/2.0/mlflow/registered-models/create", '{"name": "ours"}'),
        (console[0].rstrip("/"), "/input", '{"kind": "estop", "nonce": "operator-1"}'),
    ):
        page.goto(f"{home}/")
        assert page.evaluate(ATTACK, [home + path, body])["application/json cors include"] == 200
    page.close()
    assert pressed.get(timeout=10).nonce == "operator-1"
