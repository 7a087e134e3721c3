"""The supervisor's process: what it loads, what it starts, and how it reads what comes in."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator

import pytest

from zprl import child_processes
from zprl.errors import DataError
from zprl.recordings.phases import PhaseKind
from zprl.robot.base import StopLevel
from zprl.session import events
from zprl.session.bus import Message
from zprl.session.messages import Plan, notice
from zprl.session.plan_builder import PlanBuilder
from zprl.session.process import Settings
from zprl.session.process_group import MODULES
from zprl.session.supervisor import TOPICS, Supervisor


@pytest.fixture(scope="module")
def supervisor(settings: Settings) -> Iterator[Supervisor]:
    made = Supervisor(settings, ())
    yield made
    made.bus.close()


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, zprl.session.supervisor; sys.exit('torch' in sys.modules)"
    command = child_processes.python("-c", code)
    assert subprocess.run(command, env=child_processes.environment()).returncode == 0


def test_every_process_has_a_module() -> None:
    assert MODULES.keys() == TOPICS.keys()
    for module in MODULES.values():
        assert importlib.util.find_spec(module) is not None, module


def test_a_time_out_labels_the_episode_where_the_task_says_so(supervisor: Supervisor) -> None:
    message = Message("driver", "event", notice("time_out", 7).body())
    assert supervisor.task.label.time_out == "failure"
    assert supervisor._event(message) == events.InputEvent(
        events.Input.FAILURE, "time-out-7", "time-out", 7
    )


def test_episodes_on_the_disk_are_known_to_the_machine(supervisor: Supervisor) -> None:
    assert supervisor.progress_file.progress(supervisor.store) == events.Progress()


def test_the_plan_reads_as_it_was_sent(supervisor: Supervisor) -> None:
    plan = supervisor.plan.build(supervisor.machine, supervisor.conditions.digests, "starting")
    assert Plan.parse(json.loads(json.dumps(plan.body()))) == plan
    assert (plan.number, plan.weights, plan.kind, plan.prompt) == (0, -1, "", "starting")


def test_the_plan_has_the_keys_that_readers_know(supervisor: Supervisor) -> None:
    plan = supervisor.plan.build(supervisor.machine, supervisor.conditions.digests, "")
    assert " ".join(plan.body()) == (
        "seq at digests reason answers recover_at behind held state mode number start_number "
        "evaluation explore weights kind recover stop stop_level reset commit labels discard "
        "pending prompt next paused"
    )


def test_actions_of_the_machine_stand_in_the_plan(supervisor: Supervisor) -> None:
    phase = events.Phase(PhaseKind.TRAIN, 3, explore=True)
    label = events.StoreLabel(4, events.Label.SUCCESS, "console", "n", "a person")
    builder = PlanBuilder(supervisor.task)
    for action in (
        events.StartEpisode(4, phase, 2, 1),
        events.Stop(StopLevel.SOFT),
        events.Recover(),
        events.CommitEpisode(4, label),
        events.StoreLabel(3, events.Label.FAILURE, "console", "m"),
        events.Discard(2),
    ):
        builder.take(action)
    body = builder.build(supervisor.machine, {"limits": "l"}, "").body()

    assert (body["number"], body["start_number"], body["weights"]) == (4, 2, 1)
    assert (body["kind"], body["evaluation"], body["explore"]) == ("train", False, True)
    assert (body["stop"], body["stop_level"], body["recover"]) == (1, 2, 1)
    line = {"episode": 4, "label": "success", "source": "console", "nonce": "n"}
    assert body["commit"] == [{"number": 4, "label": line | {"author": "a person"}}]
    assert [label["episode"] for label in body["labels"]] == [3]
    assert body["discard"] == [2]


def test_a_press_is_answered_once(supervisor: Supervisor) -> None:
    pause = events.InputEvent(events.Input.PAUSE, "pause-1", "page")
    supervisor._take_event(pause)
    supervisor._take_event(pause)
    assert supervisor.machine.paused
    assert [answer.nonce for answer in supervisor.plan.answers] == ["pause-1"]


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"state": "NOWHERE"}, {"at": float("inf")}, {"digests": 3}]
)
def test_a_plan_of_another_form_is_refused(supervisor: Supervisor, change: dict) -> None:
    plan = supervisor.plan.build(supervisor.machine, supervisor.conditions.digests, "")
    with pytest.raises(DataError, match="malformed message"):
        Plan.parse(plan.body() | change)
