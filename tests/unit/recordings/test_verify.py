"""Verification names what is damaged, and finds nothing in what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import session_factories as made
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return made.write_session(tmp_path / "session")


def test_a_sound_session_has_no_damage(session: Path) -> None:
    assert verify(session) == []
    (session / "mcap").mkdir()
    (session / "mcap/000001.mcap").write_bytes(b"made again at any time")
    (session / "episodes/open-000009.partial").write_bytes(b"F")
    assert verify(session) == []


def test_an_empty_session_is_sound_without_its_empty_folder(tmp_path: Path) -> None:
    made.create(tmp_path / "session").close()
    (tmp_path / "session/episodes").rmdir()  # version control keeps none
    assert verify(tmp_path / "session") == []
    with SessionStore.open(tmp_path / "session", write=True) as store:
        made.add_episode(store, 1)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("start/agent.safetensors", "start"),
        ("start/base/bundle.json", "start"),
        ("session.json", "session.json"),
        ("labels.jsonl", "labels.jsonl"),
        ("task.yaml", "task.yaml"),
        ("episodes/000002/frames.safetensors", "episodes/000002"),
        ("episodes/000002/chunks.safetensors", "episodes/000002"),
        ("episodes/000002/episode.json", "episodes/000002"),
    ],
)
def test_a_missing_file_is_named(session: Path, name: str, where: str) -> None:
    (session / name).unlink()
    damage = verify(session)
    assert [d.where for d in damage] == [where]


def test_a_missing_episode_is_missed_by_its_label(session: Path) -> None:
    shutil.rmtree(session / "episodes/000003")
    assert [str(d) for d in verify(session)] == [
        "labels.jsonl: line 3 is about episode 3, which is not there"
    ]


def test_episodes_that_change_places_are_noticed(session: Path) -> None:
    episodes = session / "episodes"
    for a, b in (("000002", "x"), ("000003", "000002"), ("x", "000003")):
        (episodes / a).rename(episodes / b)
    assert [d.where for d in verify(session)] == ["episodes/000002", "episodes/000003"]


def test_something_nobody_recorded_is_noticed(session: Path) -> None:
    (session / "episodes/000001/more.safetensors").write_bytes(b"")
    (session / "episodes/notes.txt").write_text("hello")
    damages = verify(session)
    assert [d.where for d in damages] == ["episodes/000001", "episodes/notes.txt"]
    assert "more.safetensors" in damages[0].message


def test_an_episode_of_another_session_is_noticed(session: Path, tmp_path: Path) -> None:
    """Its digests are in order, but it was recorded under other limits."""
    limits = (made.TASKS / "lift_cube.limits.yaml").read_text() + "# stricter\n"
    start = made.make_toy_start(tmp_path / "start")
    task = (made.TASKS / "lift_cube.yaml").read_text()
    with SessionStore.create(
        tmp_path / "other", made.header(), task_yaml=task, limits_yaml=limits, start=start
    ) as other:
        made.add_episode(other, 1, phase="evaluate_before", steps=9)
    shutil.rmtree(session / "episodes/000001")
    shutil.copytree(tmp_path / "other/episodes/000001", session / "episodes/000001")
    assert [str(d) for d in verify(session)] == [
        "episodes/000001: was recorded under other limits than the session's"
    ]


def test_a_torn_label_is_damage_and_mended_by_the_writer(session: Path) -> None:
    with open(session / "labels.jsonl", "ab") as file:
        file.write(b'{"check": "00')
    assert [d.where for d in verify(session)] == ["labels.jsonl"]
    SessionStore.open(session, write=True).close()
    assert verify(session) == []
