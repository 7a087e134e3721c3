"""Answers of the recorder to plans, events and rows."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.session_messages import FakeBus, plan_of
from zprl.recordings.store import SessionStore
from zprl.robot.events import Event, Level
from zprl.session.bus import Message
from zprl.session.contents import Contents
from zprl.session.events import Label
from zprl.session.messages import (
    CommitRequest,
    EpisodeCommitted,
    EpisodeLost,
    EventMessage,
    LabelStored,
    Topic,
    WeightsVersion,
    notice,
)
from zprl.session.process import Settings
from zprl.session.processes.recorder import Recorder

LABEL = {"episode": 1, "label": "success", "source": "pedal", "nonce": "n-1", "author": "anna"}


@pytest.fixture
def recorder(settings: Settings) -> Iterator[Recorder]:
    with SessionStore.open(settings.session, write=True) as store:
        yield Recorder(settings, store, FakeBus())


def sent(recorder: Recorder, kind: type[Contents]) -> list[Any]:
    return recorder.bus.of(kind)


def message(sender: str, contents: Contents) -> Message:
    return Message(sender, Topic.of(contents), contents.body())


def follow(recorder: Recorder, **changes: Any) -> None:
    recorder.follow(message("supervisor", plan_of(**{"number": 0, **changes})))


def test_an_episode_that_does_not_exist_is_lost(recorder: Recorder) -> None:
    follow(recorder, commit=[CommitRequest(number=5, label=None).body()])
    assert sent(recorder, EpisodeLost) == [EpisodeLost(number=5)]


def test_an_episode_on_the_disk_is_confirmed_again_without_its_digest(recorder: Recorder) -> None:
    recorder.committed.add(6)
    follow(recorder, commit=[{"number": 6, "label": None}])
    assert [contents.body() for contents in sent(recorder, EpisodeCommitted)] == [{"number": 6}]


def test_a_label_is_stored_once_its_episode_is(recorder: Recorder) -> None:
    follow(recorder, labels=[LABEL])
    assert sent(recorder, LabelStored) == []
    recorder.committed.add(1)
    line = SimpleNamespace(episode=1, nonce="n-1", seq=4, label="success")
    recorder.store = SimpleNamespace(label=lambda *facts, **more: line)
    follow(recorder, labels=[LABEL])
    stored = sent(recorder, LabelStored)
    assert stored == [LabelStored(episode=1, nonce="n-1", seq=4, label=Label.SUCCESS)]


def test_events_are_kept_as_they_came_and_notes_are_not(recorder: Recorder) -> None:
    follow(recorder, number=3)
    clip = EventMessage.of(
        Event("workspace", Level.CLIP, "outside", 2.0, 1.0), number=3, step=4, fault=False
    )
    for event in (clip, notice("homed", 3), notice("estop", 4, level=Level.HARD_STOP)):
        recorder.follow(message("driver", event))
    assert recorder.open[3].events == [clip]
    assert [event.body() for event in recorder.open[3].events] == [clip.body()]
    recorder._drop(3)


def test_a_row_that_cannot_be_read_loses_its_episode(recorder: Recorder) -> None:
    follow(recorder, number=3)
    recorder.take(Message("driver", "frame", {"number": 3, "step": "first"}))
    assert 3 in recorder.gone and 3 not in recorder.open
    lost = sent(recorder, EventMessage)[-1]
    assert (lost.kind, lost.number) == ("recording_lost", 3)
    assert "malformed message" in lost.reason

    recorder.take(Message("driver", "frame", {}))  # of no episode
    assert sent(recorder, EventMessage)[-1].number == 0


def test_what_is_no_recording_is_passed_over(recorder: Recorder) -> None:
    recorder.take(message("learner", WeightsVersion(version=3)))
    assert recorder.open == {} and recorder.bus.sent == []
