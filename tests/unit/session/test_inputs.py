"""Keys of a terminal (a pty), pedals (a pipe), and what both mean."""

from __future__ import annotations

import contextlib
import os
import pty
import queue
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from zprl.errors import EnvironmentProblem
from zprl.session import signals
from zprl.session.inputs import PEDALS, Keyboard, Moment, OperatorInput, Pedal, Script, open_device, press
from zprl.session.signals import Input

ROOT = Path(__file__).parents[3]
MOMENT = Moment(episode=8, label_episode=7)
WAIT_S = 20


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def kinds(found: queue.Queue, count: int) -> list[tuple[Input, int | None]]:
    return [(one.kind, one.episode) for one in (found.get(timeout=WAIT_S) for _ in range(count))]


# -- the words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind", "episode"),
    [
        ("1", Input.SUCCESS, 7),
        ("0", Input.FAILURE, 7),
        ("d", Input.DISCARD, 7),
        ("D", Input.DISCARD, 7),
        ("r", Input.RESET_DONE, 8),
        ("p", Input.PAUSE, None),
        (" ", Input.ESTOP, None),
        ("\x1b", Input.ESTOP, None),
    ],
)
def test_what_keys_mean(key: str, kind: Input, episode: int | None) -> None:
    found = press(key, MOMENT, "keyboard")
    assert (found.kind, found.episode, found.source) == (kind, episode, "keyboard")


def test_what_keys_mean_depends_on_the_moment() -> None:
    assert press("p", Moment(paused=True), "keyboard").kind is Input.RESUME
    assert press("1", Moment(episode=8), "keyboard") is None  # nothing to label
    assert press("x", MOMENT, "keyboard") is None
    assert press(" ", Moment(), "keyboard").kind is Input.ESTOP
    assert press("1", MOMENT, "keyboard").nonce != press("1", MOMENT, "keyboard").nonce


@pytest.mark.parametrize(
    "changes", [{"episode": 0}, {"nonce": ""}, {"nonce": "a b"}, {"source": "Web"}, {"kind": "fly"}, {"nonce": "x" * 65}, {"more": 1}]
)
def test_inputs_are_judged(changes: dict) -> None:
    with pytest.raises(ValidationError):
        OperatorInput(**{"kind": "success", "episode": 1, "nonce": "n1", "source": "pedal", **changes})


def test_an_input_as_the_state_machine_takes_it() -> None:
    found = OperatorInput(kind="failure", episode=3, nonce="n1", source="pedal")
    assert found.as_event() == signals.OperatorInput(Input.FAILURE, "n1", "pedal", 3)
    assert OperatorInput.model_validate_json(found.model_dump_json()) == found


def test_a_script_says_its_inputs_in_order() -> None:
    wanted, found = [OperatorInput(kind=kind, source="scripted") for kind in ("reset_done", "pause")], []
    with Script(wanted, found.append):
        assert found == wanted


# -- keyboard --------------------------------------------------------------------------------------------------------


def test_keys_arrive_without_enter_and_the_terminal_is_restored(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before, found = termios.tcgetattr(theirs), queue.Queue()
    handler = signal.getsignal(signal.SIGTERM)
    with Keyboard(theirs, found.put, lambda: MOMENT):
        flags = termios.tcgetattr(theirs)[3]
        assert not flags & (termios.ICANON | termios.ECHO)
        assert flags & termios.ISIG  # Ctrl-C stays what it is
        os.write(ours, b"1x0 ")
        assert kinds(found, 3) == [(Input.SUCCESS, 7), (Input.FAILURE, 7), (Input.ESTOP, None)]
    assert termios.tcgetattr(theirs) == before
    assert signal.getsignal(signal.SIGTERM) == handler
    assert found.empty()


def test_an_exception_restores_the_terminal(terminal: tuple[int, int]) -> None:
    _, theirs = terminal
    before = termios.tcgetattr(theirs)
    with pytest.raises(KeyboardInterrupt), Keyboard(theirs, lambda _: None, lambda: MOMENT):
        raise KeyboardInterrupt
    assert termios.tcgetattr(theirs) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal_and_kills_all_the_same(terminal: tuple[int, int], number: signal.Signals) -> None:
    _, theirs = terminal
    before = termios.tcgetattr(theirs)
    program = """
import signal, sys
from zprl.session.inputs import Keyboard, Moment
with Keyboard(0, lambda _: None, Moment):
    print("ready", flush=True)
    signal.pause()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert child.stdout.readline() == b"ready\n"
        assert termios.tcgetattr(theirs) != before
        child.send_signal(number)
        assert child.wait(WAIT_S) == -number
        assert termios.tcgetattr(theirs) == before
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_function_keys_stop_and_say_nothing_else(terminal: tuple[int, int]) -> None:
    found = []
    keyboard = Keyboard(terminal[1], found.append, lambda: MOMENT)
    keyboard.take(b"\x1b[1;5A")
    assert [one.kind for one in found] == [Input.ESTOP]
    keyboard.take(b"\xff\xfe1")  # no UTF-8
    assert [one.kind for one in found] == [Input.ESTOP, Input.SUCCESS]


def test_clear_takes_two_keys_in_a_row(terminal: tuple[int, int]) -> None:
    found, clock = [], [0.0]
    keyboard = Keyboard(terminal[1], found.append, lambda: MOMENT, clock=lambda: clock[0])
    keyboard.take(b"y")
    keyboard.take(b"cxy")
    keyboard.take(b"c")
    clock[0] = 5.0
    keyboard.take(b"y")
    assert not found
    keyboard.take(b"C")
    clock[0] = 9.9
    keyboard.take(b"y")
    assert [one.kind for one in found] == [Input.CLEAR]


def test_a_terminal_that_goes_away_is_told(terminal: tuple[int, int]) -> None:
    ours, theirs = pty.openpty()
    lost = queue.Queue()
    with Keyboard(theirs, lambda _: None, lambda: MOMENT, on_lost=lost.put):
        os.close(ours)
        assert "keyboard is lost" in lost.get(timeout=WAIT_S)
    os.close(theirs)


def test_a_pipe_is_no_terminal() -> None:
    read, write = os.pipe()
    with pytest.raises(EnvironmentProblem, match="needs a terminal"):
        Keyboard(read, lambda _: None, lambda: MOMENT)
    for end in (read, write):
        os.close(end)


@given(st.binary(max_size=40))
def test_no_bytes_break_the_keyboard(data: bytes) -> None:
    ours, theirs = pty.openpty()
    found: list[OperatorInput] = []
    try:
        Keyboard(theirs, found.append, lambda: MOMENT).take(data)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (Input.ESTOP in {one.kind for one in found}) == (b"\x1b" in data or b" " in data)


# -- pedal -----------------------------------------------------------------------------------------------------------

KEY_A, KEY_B, KEY_C, KEY_D, KEY_P = 30, 48, 46, 32, 25


def event(kind: int, code: int, value: int) -> bytes:
    return struct.pack("@llHHi", 1_790_000_000, 5, kind, code, value)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        with contextlib.suppress(OSError):
            os.close(end)


def test_pedals_arrive_at_the_press_only(pipe: tuple[int, int]) -> None:
    read, write = pipe
    found = queue.Queue()
    with Pedal(read, found.put, lambda: MOMENT):
        for code in (KEY_A, KEY_C, KEY_B, KEY_D, KEY_P):
            os.write(write, event(4, 4, 458756) + event(1, code, 1) + event(0, 0, 0))  # scan code, key, end of report
            os.write(write, event(1, code, 2) + event(1, code, 0) + event(0, 0, 0))  # repeated, released
        wanted = [(Input.FAILURE, 7), (Input.SUCCESS, 7), (Input.ESTOP, None), (Input.DISCARD, 7), (Input.PAUSE, None)]
        assert kinds(found, 5) == wanted
    assert found.empty()


def test_events_cut_anywhere_arrive_whole(pipe: tuple[int, int]) -> None:
    found: list[OperatorInput] = []
    pedal = Pedal(pipe[0], found.append, lambda: MOMENT)
    data = event(1, KEY_A, 1) + event(1, KEY_C, 1)
    for cut in range(len(data) + 1):
        pedal.take(data[:cut])
        pedal.take(data[cut:])
    assert len(found) == 2 * (len(data) + 1)


def test_presses_that_the_kernel_dropped_count_as_a_stop(pipe: tuple[int, int]) -> None:
    found: list[OperatorInput] = []
    Pedal(pipe[0], found.append, lambda: MOMENT).take(event(0, 3, 0))
    assert [one.kind for one in found] == [Input.ESTOP]


def test_own_pedal_keys_and_unknown_ones(pipe: tuple[int, int]) -> None:
    found: list[OperatorInput] = []
    pedal = Pedal(pipe[0], found.append, lambda: MOMENT, keys={100: "r"})
    pedal.take(event(1, 100, 1) + event(1, KEY_A, 1) + event(2, 100, 1))
    assert [one.kind for one in found] == [Input.RESET_DONE]
    assert {"c", "y"}.isdisjoint(PEDALS.values())  # no foot clears a stop


def test_a_pedal_that_is_pulled_out_is_told(pipe: tuple[int, int]) -> None:
    lost = queue.Queue()
    with Pedal(pipe[0], lambda _: None, lambda: MOMENT, on_lost=lost.put):
        os.close(pipe[1])
        assert "pedal is lost" in lost.get(timeout=WAIT_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_receiver_is_told(pipe: tuple[int, int]) -> None:
    lost = queue.Queue()

    def broken(_: OperatorInput) -> None:
        raise RuntimeError("queue full")

    with Pedal(pipe[0], broken, lambda: MOMENT, on_lost=lost.put):
        os.write(pipe[1], event(1, KEY_B, 1))
        assert "queue full" in lost.get(timeout=WAIT_S)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot open") as caught:
        open_device(tmp_path / "event9")
    assert caught.value.remedy == "plug it in"
