"""The operator's page in a real Chromium, against a real server with a scripted session.

``ZPRL_SCREENSHOT=1`` also writes docs/console.png.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import console_scene
from zprl.recordings.phases import PhaseKind
from zprl.session import clock
from zprl.session.events import Input, Label, State
from zprl.session.inputs import OperatorInput, this_user
from zprl.session.processes.console.access import Access, Secrets
from zprl.session.processes.console.app import RefusedPress
from zprl.session.processes.console.serve import Console
from zprl.session.processes.console.snapshot import ConsoleState, EpisodeRow

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parents[2]
SLOW_MS = 20_000
TOKEN = "correct horse battery"


class Session:
    """A scripted session: tells the newest snapshot five times a second while it lives, and keeps what arrives."""

    def __init__(self) -> None:
        self.source = ConsoleState()
        self.inputs: queue.Queue[OperatorInput] = queue.Queue()
        self.alive = True
        self.show()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, **changes: object) -> None:
        self.now = console_scene.snapshot(**changes)
        self.source.publish(self.now)

    def _run(self) -> None:
        image = console_scene.camera_image(0.35)
        while not self._end.wait(0.2):
            if self.alive:
                self.now = self.now.model_copy(update={"at": clock.now()})
                self.source.publish(self.now)
                self.source.publish_frame("front", image)

    def next(self) -> OperatorInput:
        return self.inputs.get(timeout=SLOW_MS / 1000)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.end()


@pytest.fixture
def console(session: Session) -> Iterator[Console]:
    with Console(session.source, session.inputs.put) as console:
        yield console


class Watch:
    """What a page asks for and complains about."""

    def __init__(self, page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def context(browser) -> Iterator:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SLOW_MS)
    yield context
    context.close()


@pytest.fixture
def page(console: Console, context):
    page = context.new_page()
    page.watch = Watch(page)
    page.goto(console.link())
    expect(page.locator("body")).to_have_attribute("data-link", "live", timeout=SLOW_MS)
    return page


def button(page, kind: str):
    return page.locator(f'[data-kind="{kind}"]')


def test_the_page_shows_the_session_and_asks_nobody_else(page, session: Session) -> None:
    expect(page.locator("#state")).to_have_text("Running")
    expect(page.locator("#episode")).to_have_text("58")
    expect(page.locator("#prompt")).to_contain_text("SUCCESS once the cube is lifted")
    expect(page.locator("#weights")).to_have_text("weights v35")
    recent = session.now.recent
    expect(page.locator("#rate")).to_have_text(
        f"{round(100 * recent.successes / recent.episodes)} %"
    )
    expect(page.locator("#interval")).to_contain_text(f"{recent.successes} of {recent.episodes}")
    assert page.locator("#success-curve circle").count() == len(session.now.success_curve)
    assert page.locator("#curves svg polyline").count() == 3
    assert page.locator("#episodes .change").count() == 57
    assert page.locator("#events li").first.inner_text().split("\n")[1] == "step"  # newest first
    page.wait_for_function("document.querySelector('figure img').naturalWidth === 960")
    session.show(
        state=State.AWAIT_RESET,
        episode=59,
        label_episode=None,
        step=None,
        prompt="Put the cube back, then press RESET DONE.",
    )
    expect(page.locator("#state")).to_have_text("Your turn: reset")
    expect(page.locator("#prompt")).to_have_text("Put the cube back, then press RESET DONE.")
    assert {urlsplit(url).hostname for url in page.watch.requests} == {"127.0.0.1"}
    assert page.watch.complaints == []


@pytest.mark.parametrize(
    ("changes", "kind", "key", "arrives", "episode"),
    [
        ({}, "success", "1", Input.SUCCESS, 58),
        ({}, "failure", "0", Input.FAILURE, 58),
        ({}, "discard", "d", Input.DISCARD, 58),
        ({}, "pause", "p", Input.PAUSE, None),
        ({"state": State.AWAIT_LABEL, "label_episode": 57}, "success", "1", Input.SUCCESS, 57),
        (
            {"state": State.AWAIT_RESET, "label_episode": None},
            "reset_done",
            "r",
            Input.RESET_DONE,
            58,
        ),
        (
            {"state": State.PAUSED, "label_episode": None, "paused": True},
            "pause",
            "P",
            Input.RESUME,
            None,
        ),
    ],
)
def test_every_button_and_its_key_arrive_once(
    page, session: Session, changes: dict, kind: str, key: str, arrives: Input, episode
) -> None:
    session.show(**changes)
    expect(page.locator("#state")).not_to_have_text("Running") if changes else None
    expect(button(page, kind)).to_be_enabled()
    button(page, kind).dblclick()
    found = session.next()
    assert (found.kind, found.episode, found.source, found.author) == (
        arrives,
        episode,
        "console",
        this_user(),
    )
    expect(page.locator("#said")).to_contain_text("Sent")
    page.wait_for_timeout(350)  # a later press of the same kind is another press
    page.keyboard.press(key)
    again = session.next()
    assert (again.kind, again.episode) == (arrives, episode)
    assert again.nonce != found.nonce
    page.keyboard.down(key)
    page.keyboard.down(key)  # a key that is held repeats
    page.keyboard.up(key)
    expect(page.locator("#said")).to_contain_text("Sent")
    assert session.inputs.empty()
    assert page.watch.complaints == []


def test_buttons_that_mean_nothing_now_are_dead(page, session: Session) -> None:
    for kind in ("reset_done", "clear"):
        expect(button(page, kind)).to_be_disabled()
    page.keyboard.press("r")
    page.keyboard.press("Control+1")
    page.keyboard.press("x")
    page.keyboard.press("d")
    assert session.next().kind is Input.DISCARD  # the first that arrives
    assert session.inputs.empty()


@pytest.mark.parametrize("how", ["button", "double", " ", "Escape"])
def test_the_stop_in_every_state_and_way(page, session: Session, how: str) -> None:
    session.show(state=State.DONE, phase=None, label_episode=None)
    expect(page.locator("#state")).to_have_text("Done")
    button(page, "success").focus()  # space must not press what has the focus
    match how:
        case "button":
            page.locator("#estop").click()
        case "double":
            page.locator("#estop").dblclick()
        case key:
            page.keyboard.press(key)
    found = session.next()
    assert found.kind is Input.ESTOP
    expect(page.locator("#said")).to_contain_text("E-stop sent")
    while not session.inputs.empty():  # the second click may have gone out, as the same press
        assert session.inputs.get().nonce == found.nonce


def test_a_stop_that_the_session_does_not_confirm_is_told(page, session: Session) -> None:
    page.keyboard.press("Escape")
    assert session.next().kind is Input.ESTOP
    expect(page.locator("#said")).to_contain_text("not confirmed")
    page.keyboard.press("Escape")
    assert session.next().kind is Input.ESTOP
    session.show(state=State.ESTOP, label_episode=None)
    expect(page.locator("#said")).to_have_text("E-stop confirmed")


def test_a_double_click_does_not_take_back_what_it_did(context, session: Session) -> None:
    def take(found: OperatorInput) -> None:
        session.inputs.put(found)
        session.show(state=State.PAUSED, paused=found.kind is Input.PAUSE)

    with Console(session.source, take) as console:
        page = context.new_page()
        page.clock.install(time=0)
        page.goto(console.link())
        expect(page.locator("body")).to_have_attribute("data-link", "live")
        page.clock.pause_at(
            60_000
        )  # the page's clock stands: the second click comes at once, however slow this machine is
        expect(button(page, "pause")).to_be_enabled()
        button(page, "pause").click()
        expect(button(page, "pause")).to_contain_text("Resume")
        button(page, "pause").click()
        page.clock.run_for(350)
        expect(button(page, "pause")).to_be_enabled()
        button(page, "pause").click()
        assert [session.next().kind, session.next().kind] == [Input.PAUSE, Input.RESUME]
        assert session.inputs.empty()


def test_clear_is_asked_twice(page, session: Session) -> None:
    session.show(
        state=State.ESTOP, label_episode=None, prompt="E-stop pressed: press CLEAR when it is safe."
    )
    expect(page.locator("body")).to_have_attribute("data-hue", "stop")
    button(page, "clear").dblclick()  # a double click does not confirm what it has asked
    expect(button(page, "clear")).to_contain_text("Press again")
    page.wait_for_timeout(350)
    assert session.inputs.empty()
    button(page, "clear").click()
    assert session.next().kind is Input.CLEAR
    expect(button(page, "clear")).to_contain_text("Clear stop")
    page.wait_for_timeout(350)
    button(page, "clear").click()
    expect(button(page, "clear")).to_contain_text("Press again")
    session.show()  # running again: the question is withdrawn
    expect(button(page, "clear")).to_be_disabled()
    expect(button(page, "clear")).to_have_text("Clear stop")
    assert session.inputs.empty()


def test_a_label_is_corrected_later(page, session: Session) -> None:
    rows = [EpisodeRow(number=n, phase=PhaseKind.TRAIN, label=Label.FAILURE) for n in range(1, 6)]
    session.show(episodes=rows, label_episode=None)
    expect(page.locator("#episodes .change")).to_have_count(5)
    page.get_by_label("Correct the label of episode 3").click()
    assert page.locator(".correct button").all_inner_texts() == ["success", "discard"]
    page.locator(".correct .success").click()
    found = session.next()
    assert (found.kind, found.episode) == (Input.SUCCESS, 3)
    rows[2] = rows[2].model_copy(update={"label": Label.SUCCESS})
    session.show(episodes=rows, label_episode=None)
    expect(page.locator("#episodes .chip.success")).to_have_count(1)
    expect(page.locator("#rate")).to_have_text("20 %")


def test_the_stop_works_while_the_stream_stands_still(
    context, console: Console, session: Session
) -> None:
    page = context.new_page()
    page.route("**/stream", lambda route: None)  # asked for, never answered
    page.goto(console.link())
    expect(page.locator("#lost")).to_be_visible()
    expect(button(page, "success")).to_be_disabled()
    expect(page.locator("#estop")).to_be_enabled()
    page.locator("#estop").click()
    assert session.next().kind is Input.ESTOP
    page.unroute("**/stream")


def test_a_silent_session_is_not_believed(page, session: Session) -> None:
    session.alive = False
    expect(page.locator("#lost")).to_contain_text("silent for", timeout=SLOW_MS)
    expect(page.locator("figure")).to_have_class("old")
    expect(button(page, "success")).to_be_disabled()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    assert session.next().kind is Input.ESTOP
    session.alive = True
    expect(button(page, "success")).to_be_enabled()
    assert session.inputs.empty()


def test_a_lost_connection_and_a_stop_that_gets_through_in_the_end(
    context, session: Session
) -> None:
    with Console(session.source, session.inputs.put) as first:
        port = int(first.url.rsplit(":", 1)[1].strip("/"))
        page = context.new_page()
        page.goto(first.link())
        expect(page.locator("body")).to_have_attribute("data-link", "live")
    expect(page.locator("#lost")).to_contain_text("Connection lost")
    for kind in ("success", "failure", "discard", "pause"):
        expect(button(page, kind)).to_be_disabled()
    page.keyboard.press("1")
    page.locator("#estop").click()
    expect(page.locator("#said")).to_contain_text("does not get through")
    expect(page.locator("#estop")).to_be_enabled()
    assert session.inputs.empty()
    with Console(session.source, session.inputs.put, port=port, access=first.access):
        assert session.next().kind is Input.ESTOP
        expect(page.locator("body")).to_have_attribute("data-link", "live")
        expect(page.locator("#said")).to_contain_text("E-stop sent")
        expect(button(page, "success")).to_be_enabled()
    assert session.inputs.empty()


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (RefusedPress("it was discarded"), "Refused: success, episode 58. it was discarded"),
        (RuntimeError("bus closed"), "Not sent: success, episode 58. Press again."),
    ],
)
def test_a_label_that_is_not_taken_is_told(
    context, session: Session, problem: Exception, told: str
) -> None:
    def refuse(found: OperatorInput) -> None:
        raise problem

    with Console(session.source, refuse) as console:
        page = context.new_page()
        page.goto(console.link())
        button(page, "success").click()
        expect(page.locator("#said")).to_have_text(told, timeout=SLOW_MS)


def test_texts_are_texts(page, session: Session) -> None:
    session.show(prompt="<img src=x onerror=alert(1)>", rule="<script>alert(2)</script>")
    expect(page.locator("#prompt")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#prompt img").count() == 0
    assert page.watch.complaints == []


def test_one_click_on_the_printed_link_opens_the_page(
    browser, console: Console, context, session: Session
) -> None:
    link = console.link()
    page = context.new_page()
    page.watch = Watch(page)
    page.goto(link)
    expect(page.locator("#state")).to_have_text("Running")
    assert page.url == console.url
    button(page, "success").click()
    assert session.next().author == this_user()
    assert page.evaluate("document.cookie") == ""
    secret = urlsplit(link).fragment
    assert not any(secret in url for url in page.watch.requests)
    assert page.watch.complaints == []
    page.go_back()  # the link is not in the history
    assert secret not in page.url

    other = browser.new_context()
    stranger = other.new_page()
    stranger.goto(link)
    expect(stranger.locator(".problem")).to_contain_text("used before")
    assert secret not in stranger.url
    other.close()


@pytest.mark.parametrize("how", ["button", "double", "Escape", "Enter"])
def test_the_locked_page_has_a_stop_that_works(
    console: Console, context, session: Session, how: str
) -> None:
    page = context.new_page()
    page.watch = Watch(page)
    page.goto(console.url)
    assert page.url.endswith("/login")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        stop, log_in = page.locator("#estop").bounding_box(), page.locator(".go").bounding_box()
        assert stop["x"] >= 0 and stop["x"] + stop["width"] <= width
        assert log_in["y"] + log_in["height"] <= stop["y"]
    match how:
        case "button":
            page.locator("#estop").click()
        case "double":
            page.locator("#estop").dblclick()
        case "Enter":
            page.locator("#estop").focus()
            page.keyboard.press("Enter")
        case key:
            page.keyboard.press(key)
    found = session.next()
    assert (found.kind, found.author) == (Input.ESTOP, None)
    expect(page.locator("#said")).to_contain_text("E-stop sent")
    assert page.watch.complaints == []
    assert session.source.snapshot.task not in page.content()


def test_logging_in_by_token_with_a_name(context, session: Session) -> None:
    with Console(session.source, session.inputs.put, access=Access(Secrets.make(TOKEN))) as console:
        page = context.new_page()
        page.goto(console.url)
        assert page.url.endswith("/login")
        page.locator("#token").fill("something else entirely")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".problem")).to_have_text("That is not the token.")
        page.locator("#token").fill(TOKEN)
        page.locator("#author").fill("Zoë")
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#state")).to_have_text("Running")
        assert TOKEN not in page.url
        button(page, "success").click()
        assert session.next().author == "Zoë"
        page.keyboard.press("Escape")
        assert session.next().kind is Input.ESTOP
        assert page.evaluate("document.cookie") == ""


def test_a_label_says_whose_it_is(page, session: Session) -> None:
    rows = [EpisodeRow(number=1, phase=PhaseKind.TRAIN, label=Label.FAILURE, author="<b>anna</b>")]
    session.show(episodes=rows, label_episode=None)
    expect(page.locator("#episodes .chip")).to_have_count(1)
    expect(page.locator("#episodes .chip")).to_have_attribute("title", "by <b>anna</b>")


def test_a_tablet_sees_what_matters_without_scrolling(page) -> None:
    for selector in ("#prompt", "#estop", '[data-kind="success"]', '[data-kind="clear"]', "figure"):
        box = page.locator(selector).bounding_box()
        assert box["y"] >= 0, selector
        assert box["y"] + box["height"] <= 800, selector
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for kind in ("success", "failure"):
        assert button(page, kind).bounding_box()["height"] >= 100


def test_buttons_never_move_under_a_finger(page, session: Session) -> None:
    places = []
    for prompt in ("Wait.", "Watch the arm. " * 30):
        session.show(prompt=prompt, rule=prompt[:200])
        expect(page.locator("#prompt")).to_have_text(prompt.strip())
        places.append(button(page, "success").bounding_box())
    session.alive = False
    expect(page.locator("#lost")).to_be_visible()
    places.append(button(page, "success").bounding_box())
    assert places[0] == places[1] == places[2]


@pytest.mark.parametrize("width", [390, 800, 1920])
def test_no_width_cuts_the_stop_off(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#estop").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        channels = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    a, b = sorted((luminance(one), luminance(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_buttons_and_states_can_be_read(page, session: Session, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    session.show(state=State.AWAIT_RESET)
    expect(page.locator("#state")).to_have_text("Your turn: reset")
    for selector in (
        "#estop",
        "#state",
        *(f'[data-kind="{kind}"]' for kind in ("success", "failure", "reset_done", "discard")),
    ):
        ink, paper = page.locator(selector).evaluate(
            "node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]"
        )
        assert contrast(ink, paper) >= 4.5, selector


@pytest.mark.skipif(
    os.environ.get("ZPRL_SCREENSHOT") != "1",
    reason="set ZPRL_SCREENSHOT=1 to write docs/console.png",
)
def test_screenshot(browser, console: Console) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1560}, device_scale_factor=1)
    page.goto(console.link())
    expect(page.locator("body")).to_have_attribute("data-link", "live")
    page.wait_for_function("document.querySelector('figure img').naturalWidth === 960")
    page.screenshot(path=ROOT / "docs/console.png")
    page.close()
