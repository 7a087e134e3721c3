"""The supervisor's process: what it loads, what it starts, and how it reads what comes in."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator

import pytest

from tests.session_run import REAL, make_session
from zprl import child_processes
from zprl.session import bus, events
from zprl.session.bus import Message
from zprl.session.process import Settings
from zprl.session.supervisor import MODULES, TOPICS, Supervisor


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = make_session(tmp_path_factory.mktemp("supervisor") / "session", "127.0.31.21")
    work, sockets = folder.with_name("work"), bus.make_folder()
    work.mkdir()
    made = Supervisor(
        Settings(
            session=folder,
            sockets=sockets,
            work=work,
            config=REAL,
            seed=0,
            rings=sockets.name,
            twin=sockets,
        ),
        (),
    )
    yield made
    made.bus.close()
    for left in sockets.iterdir():
        left.unlink()
    sockets.rmdir()


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, zprl.session.supervisor; sys.exit('torch' in sys.modules)"
    command = child_processes.python("-c", code)
    assert subprocess.run(command, env=child_processes.environment()).returncode == 0


def test_every_process_has_a_module() -> None:
    assert MODULES.keys() == TOPICS.keys()
    for module in MODULES.values():
        assert importlib.util.find_spec(module) is not None, module


def test_a_time_out_labels_the_episode_where_the_task_says_so(supervisor: Supervisor) -> None:
    message = Message("driver", "event", {"kind": "time_out", "number": 7})
    assert supervisor.task.label.time_out == "failure"
    assert supervisor._event(message) == events.InputEvent(
        events.Input.FAILURE, "time-out-7", "time-out", 7
    )


def test_episodes_on_the_disk_are_known_to_the_machine(supervisor: Supervisor) -> None:
    assert supervisor._progress() == events.Progress()
