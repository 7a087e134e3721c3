"""``progress.json`` of a session, written by anybody: a file in doubt never clears the e-stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.session_run import REAL, make_session
from zprl import durable
from zprl.session import bus
from zprl.session import state_machine as m
from zprl.session.process import Settings
from zprl.session.supervisor import PROGRESS, Supervisor

DAMAGED = (
    "",
    "[1]",
    "{}",
    '{"last_number": 3}',
    '{"last_number": 3, "final": null}',
    '"x"',
    "1e999",
    '{"last_number": 1e999}',
    '{"last_number": "x"}',
    '{"last_number": "3"}',
    '{"last_number": true}',
    '{"last_number": -5}',
    '{"last_number": 99999999999}',
    '{"final": -1}',
    '{"final": "x"}',
    '{"estopped": 0}',
    '{"estopped": null}',
    '{"estopped": true, "estopped": false}',
    '{"estopped": false, "more": 1}',
    "[" * 100_000,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = make_session(tmp_path_factory.mktemp("progress") / "session", "127.0.31.11")
    work, sockets = folder.with_name("work"), bus.make_folder()
    work.mkdir()
    yield Settings(
        session=folder,
        sockets=sockets,
        work=work,
        config=REAL,
        seed=0,
        rings=sockets.name,
        robot_sim=sockets,
    )
    for left in sockets.iterdir():
        left.unlink()
    sockets.rmdir()


def start(settings: Settings, said: list[str]) -> Supervisor:
    made = Supervisor(settings, (), say=said.append)
    made.bus.close()
    return made


def path(settings: Settings) -> Path:
    return settings.work / PROGRESS


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:40])
def test_a_damaged_file_starts_with_the_e_stop_pressed(settings: Settings, text: str) -> None:
    said: list[str] = []
    path(settings).write_text(text)
    assert start(settings, said).machine.estopped is not None
    assert len(said) == 1 and "e-stop" in said[0]


def test_a_link_to_nowhere_is_damage(settings: Settings) -> None:
    path(settings).unlink(missing_ok=True)
    path(settings).symlink_to("nowhere")
    assert start(settings, []).machine.estopped is not None
    path(settings).unlink()


def test_a_good_file_is_taken_as_it_is(settings: Settings) -> None:
    said: list[str] = []
    path(settings).unlink(missing_ok=True)
    assert start(settings, said).machine.estopped is None
    for estopped in (True, False):
        durable.write_json(path(settings), {"last_number": 7, "final": None, "estopped": estopped})
        machine = start(settings, said).machine
        assert (machine.last_number, machine.final, machine.estopped is not None) == (
            7,
            None,
            estopped,
        )
    assert said == []


def test_what_is_written_meanwhile_does_not_count(settings: Settings) -> None:
    """The file is read once: an edit neither ends the session nor outlives its next change."""
    durable.write_json(path(settings), {"last_number": 7, "final": None, "estopped": False})
    made = start(settings, [])
    path(settings).write_text("[1]")
    made.machine.handle(m.EStop("a person"))
    made._keep()
    assert json.loads(path(settings).read_text()) == {
        "last_number": 7,
        "final": None,
        "estopped": True,
    }
