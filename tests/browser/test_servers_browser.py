"""The links of ``zprl ui`` in a real Chromium: each opens its page logged in, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.ui import link_to
from tests.pipeline.conftest import Opened, make_project
from tests.stranger import Stranger

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.services
CHROMIUM = Path("/usr/bin/chromium")
SLOW_MS = 60_000
PAGES = {"Prefect": "Dashboard", "MLflow": "Experiments"}
"""What each page shows to those who are logged in."""


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    project = make_project(tmp_path_factory.mktemp("browser") / "project", {})
    yield project.open_ui()
    project.clean()


@pytest.fixture(scope="module")
def browser(ui: Opened) -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A page of a browser that was never here."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SLOW_MS)
    page = context.new_page()
    page.refused = []
    page.on(
        "response",
        lambda answer: (
            page.refused.append(answer.url) if answer.status in (401, 403, 421) else None
        ),
    )
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_link_opens_its_page_once(page, browser, ui: Opened, name: str) -> None:
    page.goto(ui.links[name])
    expect(page.get_by_text(PAGES[name]).first).to_be_visible(timeout=SLOW_MS)
    assert page.refused == []
    assert "#" not in page.url or "/zprl/" not in page.url
    page.reload()  # the login stays
    expect(page.get_by_text(PAGES[name]).first).to_be_visible(timeout=SLOW_MS)
    assert page.refused == []
    page.goto("about:blank")
    page.goto(ui.links[name])  # used, by a browser that is logged in
    expect(page.get_by_text(PAGES[name]).first).to_be_visible(timeout=SLOW_MS)
    assert page.refused == []

    other = browser.new_context().new_page()
    other.goto(ui.links[name])
    expect(other.locator("#text")).to_contain_text("zprl ui --link", timeout=SLOW_MS)
    assert other.evaluate("localStorage.length") == 0
    assert other.context.cookies() == []
    other.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_a_link_says_how_to_get_one(page, ui: Opened, name: str) -> None:
    page.goto(ui.servers[name].url)
    expect(page.locator("body")).to_contain_text("zprl ui --link")


def test_another_user_s_page_may_not_use_a_login(page, ui: Opened) -> None:
    """A page on another port is the same site to a browser: MLflow's cookie goes with what it asks for."""
    mlflow = ui.servers["MLflow"]
    page.goto(link_to(mlflow))
    expect(page.get_by_text(PAGES["MLflow"]).first).to_be_visible(timeout=SLOW_MS)
    create = f"{mlflow.url}/api/2.0/mlflow/registered-models/create"
    post = """async ([url, mode, name]) => {
        const body = JSON.stringify({name});
        const headers = mode === "no-cors" ? {} : {"Content-Type": "application/json"};
        try { return (await fetch(url, {method: "POST", mode, headers, credentials: "include", body})).status } catch { return "refused" }
    }"""
    assert page.evaluate(post, [create, "cors", "ours"]) == 200  # from its own page

    stranger = Stranger()
    page.goto(stranger.url)
    for mode in ("cors", "no-cors"):
        assert page.evaluate(post, [create, mode, "theirs"]) in ("refused", 0)
    stranger.close()
    assert set(page.refused) == {create}
    client = httpx.Client(headers={"Authorization": f"Bearer {mlflow.login}"}, timeout=60)
    found = client.get(f"{mlflow.url}/api/2.0/mlflow/registered-models/search").text
    assert "ours" in found
    assert "theirs" not in found
