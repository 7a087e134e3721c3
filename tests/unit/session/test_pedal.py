"""The foot pedal (a pipe), and the meaning of its keys."""

from __future__ import annotations

import contextlib
import os
import queue
import struct
from collections.abc import Iterator

import pytest

from zprl.session import pedal as pedals
from zprl.session.events import Input
from zprl.session.inputs import Moment, OperatorInput
from zprl.session.pedal import PEDALS, Pedal, press

MOMENT = Moment(episode=8, label_episode=7)
WAIT_S = 20


def kinds(inputs: queue.Queue, count: int) -> list[tuple[Input, int | None]]:
    return [(one.kind, one.episode) for one in (inputs.get(timeout=WAIT_S) for _ in range(count))]


# -- keys -----------------------------------------------------------------------------------------


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
    made = press(key, MOMENT, "keyboard")
    assert (made.kind, made.episode, made.source) == (kind, episode, "keyboard")


def test_what_keys_mean_depends_on_the_moment() -> None:
    assert press("p", Moment(paused=True), "keyboard").kind is Input.RESUME
    assert press("1", Moment(episode=8), "keyboard") is None  # nothing to label
    assert press("x", MOMENT, "keyboard") is None
    assert press(" ", Moment(), "keyboard").kind is Input.ESTOP
    assert press("1", MOMENT, "keyboard").nonce != press("1", MOMENT, "keyboard").nonce


# -- pedal -----------------------------------------------------------------------------------------

KEY_A, KEY_B, KEY_C, KEY_D, KEY_P, ENTER = 30, 48, 46, 32, 25, 28


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
    made = queue.Queue()
    with Pedal(read, made.put, lambda: MOMENT):
        for code in (KEY_A, KEY_C, KEY_B, KEY_D, KEY_P):
            os.write(
                write, event(4, 4, 458756) + event(1, code, 1) + event(0, 0, 0)
            )  # scan code, key, end of report
            os.write(
                write, event(1, code, 2) + event(1, code, 0) + event(0, 0, 0)
            )  # repeated, released
        wanted = [
            (Input.FAILURE, 7),
            (Input.SUCCESS, 7),
            (Input.ESTOP, None),
            (Input.DISCARD, 7),
            (Input.PAUSE, None),
        ]
        assert kinds(made, 5) == wanted
    assert made.empty()


def test_events_cut_anywhere_arrive_whole(pipe: tuple[int, int]) -> None:
    made: list[OperatorInput] = []
    pedal = Pedal(pipe[0], made.append, lambda: MOMENT)
    data = event(1, KEY_A, 1) + event(1, KEY_C, 1)
    for cut in range(len(data) + 1):
        pedal.take(data[:cut])
        pedal.take(data[cut:])
    assert len(made) == 2 * (len(data) + 1)


def test_presses_that_the_kernel_dropped_count_as_a_stop(pipe: tuple[int, int]) -> None:
    made: list[OperatorInput] = []
    Pedal(pipe[0], made.append, lambda: MOMENT).take(event(0, 3, 0))
    assert [one.kind for one in made] == [Input.ESTOP]


def test_own_pedal_keys_and_unknown_ones(pipe: tuple[int, int]) -> None:
    made: list[OperatorInput] = []
    pedal = Pedal(pipe[0], made.append, lambda: MOMENT, keys={100: "r"})
    pedal.take(event(1, 100, 1) + event(1, KEY_A, 1) + event(2, 100, 1))
    assert [one.kind for one in made] == [Input.RESET_DONE]
    assert {"c", "y"}.isdisjoint(
        PEDALS.values()
    )  # no key that a foot switch sends as delivered clears a stop


@pytest.mark.parametrize(
    ("presses", "cleared"),
    [
        ([(0.0, 7), (1.0, 7)], True),
        ([(0.0, 7)], False),
        ([(0.0, 7), (0.01, 7)], False),  # a contact that bounces
        ([(0.0, 7), (0.01, 7), (1.0, 7)], True),
        ([(0.0, 7), (6.0, 7)], False),  # too late for a second press
        ([(0.0, 7), (1.0, 9)], False),  # the stop that was looked at is not the one that stands now
        ([(0.0, 7), (1.0, 9), (2.0, 9)], True),
    ],
)
def test_enter_clears_when_it_is_pressed_twice_for_one_situation(
    pipe: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    presses: list[tuple[float, int]],
    cleared: bool,
) -> None:
    now, seq, made = [0.0], [0], []
    monkeypatch.setattr(pedals, "now", lambda: 1000.0 + now[0])
    pedal = Pedal(pipe[0], made.append, lambda: Moment(seq=seq[0], at=1000.0 + now[0]))
    for now[0], seq[0] in presses:
        pedal.take(event(1, ENTER, 1) + event(1, ENTER, 0))
    assert [one.kind for one in made] == [Input.CLEAR] * cleared


def test_a_key_that_was_pressed_while_nobody_read_is_old(pipe: tuple[int, int]) -> None:
    """The kernel stamps keys; a process that stood still must not take an old one for a new one."""
    made: list[OperatorInput] = []
    pedal = Pedal(
        pipe[0], made.append, lambda: Moment(episode=3, label_episode=3, seq=7, at=1000.0)
    )
    pedal.stamped = True
    pedal.take(
        struct.pack("@llHHi", 990, 0, 1, KEY_C, 1)
        + struct.pack("@llHHi", 999, 900_000, 1, KEY_C, 1)
    )
    assert ["too late" in one.refusal(7, 1000.1) for one in made] == [True, False]


def test_a_pedal_that_is_pulled_out_is_reported(pipe: tuple[int, int]) -> None:
    lost = queue.Queue()
    with Pedal(pipe[0], lambda _: None, lambda: MOMENT, on_lost=lost.put):
        os.close(pipe[1])
        assert "pedal is lost" in lost.get(timeout=WAIT_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_receiver_is_reported(pipe: tuple[int, int]) -> None:
    lost = queue.Queue()

    def broken(_: OperatorInput) -> None:
        raise RuntimeError("queue full")

    with Pedal(pipe[0], broken, lambda: MOMENT, on_lost=lost.put):
        os.write(pipe[1], event(1, KEY_B, 1))
        assert "queue full" in lost.get(timeout=WAIT_S)
