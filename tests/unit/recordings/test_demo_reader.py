"""A session read as demonstrations: the numbers of its exports; damage is a finding."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import session_factories as made
from tests.session_factories import Rows
from zprl import plugins
from zprl.data.episode import Episode
from zprl.data.findings import CODES, Finding
from zprl.data.ingest import read_all
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import find_sources
from zprl.data.validation import ValidationLimits
from zprl.recordings import checksummed_json, demo_reader
from zprl.recordings.demo_reader import SessionReader
from zprl.recordings.export.lerobot import export_lerobot
from zprl.recordings.export.robomimic import export_robomimic
from zprl.recordings.store import SessionStore

LABELS = ("failure", "success", "discard", None, "success")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of 9, 10, 11, 12, 13 steps."""
    return made.write_session(tmp_path_factory.mktemp("reader") / "session", labels=LABELS)


@pytest.fixture
def copy(session: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(session, tmp_path / "session"))


def split(path: Path, **options) -> tuple[list[Episode], list[Finding]]:
    items = list(SessionReader(**options).read(path))
    return [i for i in items if isinstance(i, Episode)], [
        i for i in items if isinstance(i, Finding)
    ]


def codes(findings: list[Finding]) -> list[tuple[str, str, str | None]]:
    return [(f.code, f.severity, f.episode) for f in findings]


def same(one: Episode, other: Episode) -> None:
    assert one.success == other.success
    assert list(one.obs) == list(other.obs)
    for key, value in one.obs.items():
        np.testing.assert_array_equal(value, other.obs[key])
    for name in ("actions", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.content_hash() == other.content_hash()


def test_episodes_are_those_of_the_robomimic_export(session: Path, tmp_path: Path) -> None:
    numbers = export_robomimic(SessionStore.open(session), tmp_path / "session.hdf5")
    exported = [
        item
        for item in RobomimicReader().read(tmp_path / "session.hdf5")
        if isinstance(item, Episode)
    ]
    episodes, findings = split(session)
    assert [e.name for e in episodes] == [f"session/episode_{n:06d}" for n in numbers.values()]
    assert len(episodes) == len(exported) == 3
    for one, other in zip(episodes, exported, strict=True):
        same(one, other)
    assert {e.rate_hz for e in episodes} == {50.0}
    assert codes(findings) == [
        ("D30", "note", "session/episode_000003"),
        ("D30", "note", "session/episode_000004"),
    ]
    assert ["discarded" in f.message for f in findings] == [True, False]


def test_episodes_are_those_of_the_lerobot_export(session: Path, tmp_path: Path) -> None:
    if "lerobot" not in plugins.names("readers"):
        pytest.skip("no reader of LeRobot's datasets is registered")
    export_lerobot(SessionStore.open(session), tmp_path / "dataset")
    keys = list(made.WIDTHS)
    reader = plugins.load("readers", "lerobot")(obs_keys=keys)
    exported = [item for item in reader.read(tmp_path / "dataset") if isinstance(item, Episode)]
    episodes, _ = split(session, obs_keys=keys)

    assert len(exported) == 3
    for one, other in zip(episodes, exported, strict=True):
        assert (one.success, one.rate_hz) == (other.success, other.rate_hz)
        np.testing.assert_array_equal(one.actions, other.actions)
        for mine, theirs in zip(one.obs.values(), other.obs.values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_values_are_those_recorded(session: Path) -> None:
    episodes, _ = split(session, obs_keys=["object", "robot0_gripper_command"])
    rows = Rows(2, steps=10)
    assert list(episodes[1].obs) == ["object", "robot0_gripper_command"]
    np.testing.assert_array_equal(episodes[1].obs["object"], rows.values["object"][:-1])
    np.testing.assert_array_equal(episodes[1].actions, rows.actions)
    assert (
        np.flatnonzero(episodes[1].rewards).tolist()
        == np.flatnonzero(episodes[1].dones).tolist()
        == [9]
    )
    assert not episodes[0].rewards.any()


def test_a_label_corrected_later_counts(copy: Path) -> None:
    with SessionStore.open(copy, write=True) as store:
        store.label(3, "success", source="test", nonce="late")
        store.label(2, "discard", source="test", nonce="later")
    episodes, findings = split(copy)
    assert [e.name[-1] for e in episodes] == ["1", "3", "5"]
    assert [f.episode[-1] for f in findings] == ["2", "4"]


def test_what_a_person_moved_is_left_out(tmp_path: Path) -> None:
    with made.create(tmp_path / "session") as store:
        made.add_episode(store, 1)
        rows, writer = Rows(2, steps=8), store.open_episode(2)
        for number in range(2):
            writer.add_chunk(**rows.chunk(number))
        for step in range(8):
            writer.add_frame(**rows.frame(step) | {"intervention": step in (5, 6)})
        writer.finish(**rows.observation(8))
        writer.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )
        writer.commit(made.facts())
        for number in (1, 2):
            store.label(number, "success", source="test", nonce=str(number))
    episodes, (finding,) = split(tmp_path / "session")
    assert [e.name for e in episodes] == ["session/episode_000001"]
    assert (finding.code, finding.severity, finding.message) == (
        "D30",
        "note",
        "the episode was moved by a person",
    )
    # 2 of the 18 control steps.
    assert (
        SessionReader().facts(tmp_path / "session")["interventions"] == "11.1% of the control steps"
    )


def test_images_are_read_when_asked_for(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 255, (6, 4, 5, 3)).astype(np.uint8)
    with made.create(tmp_path / "session") as store:
        rows, writer = Rows(1, steps=5), store.open_episode(1)

        def seen(step: int, row: dict) -> dict:
            return row | {"obs": row["obs"] | {"wrist": frames[step]}}

        for number in range(rows.decisions):
            writer.add_chunk(**rows.chunk(number))
        for step in range(5):
            writer.add_frame(**seen(step, rows.frame(step)))
        writer.finish(**seen(5, rows.observation(5)))
        writer.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )
        writer.commit(made.facts())
        store.label(1, "success", source="test", nonce="1")
    (episode,), _ = split(tmp_path / "session")
    assert "wrist" not in episode.obs
    (episode,), _ = split(tmp_path / "session", obs_keys=["object", "wrist"])
    np.testing.assert_array_equal(episode.obs["wrist"], frames[:-1])


def test_facts(session: Path, tmp_path: Path) -> None:
    assert SessionReader().facts(session) == {
        "format": "zprl session made-0",
        "task": "lift_cube",
        "robot": "unknown",
        "rate": "50 Hz",
        "space": "latent",
        "episodes": "1 discard, 1 failure, 2 success, 1 unlabelled",
        "interventions": "0.0% of the control steps",
    }
    assert SessionReader().facts(tmp_path) == {}


def test_a_walk_finds_the_session_and_nothing_inside(copy: Path) -> None:
    (copy / "start/demos.hdf5").write_bytes(b"must not be looked at")
    (source,) = find_sources(copy.parent)
    assert (source.path, source.reader.name) == (copy, "session")
    (source,) = find_sources(copy)
    assert source.path == copy
    result = read_all([source], limits=ValidationLimits(min_length=2))
    # Random numbers are no rotations (D08); what was left out is not bad.
    assert [name[-1] for name in result.quarantine] == ["1", "2", "5"]
    assert result.facts[copy.as_posix()]["task"] == "lift_cube"


def test_reading_changes_nothing(copy: Path) -> None:
    (copy / "episodes/open-000009.partial").write_bytes(b"F")
    before = sorted((p.relative_to(copy), p.stat().st_mtime_ns) for p in copy.rglob("*"))
    split(copy)
    assert sorted((p.relative_to(copy), p.stat().st_mtime_ns) for p in copy.rglob("*")) == before


# -- damage ----------------------------------------------------------------------------------------


def test_a_key_that_is_not_there_is_named(session: Path) -> None:
    episodes, findings = split(session, obs_keys=["objekt"])
    assert episodes == []
    assert [f.code for f in findings] == ["D22", "D22", "D30", "D30", "D22"]
    assert findings[0].remedy == "did you mean 'object'?"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("session.json", 0),
        ("labels.jsonl", 0),
        ("limits.yaml", 0),
        ("episodes/000002/frames.safetensors", 2),
    ],
)
def test_a_changed_byte_is_a_finding(copy: Path, name: str, count: int) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    assert SessionReader().owns(copy)
    episodes, findings = split(copy)
    assert len(episodes) == count
    errors = [f for f in findings if f.severity == "error"]
    assert [f.code for f in errors] == ["D01"]
    assert errors[0].episode == ("session/episode_000002" if count else None)


def test_an_episode_that_is_gone_is_missed_by_its_label(copy: Path) -> None:
    shutil.rmtree(copy / "episodes/000002")
    episodes, findings = split(copy)
    assert len(episodes) == 2
    assert ("D02", "error", "session/episode_000002") in codes(findings)


def test_no_episodes(tmp_path: Path) -> None:
    made.create(tmp_path / "session").close()
    assert codes(split(tmp_path / "session")[1]) == [("D02", "error", None)]


def test_oversized_files_are_refused_before_they_are_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_reader, "MAX_BYTES", 2000)
    episodes, findings = split(copy)
    assert not episodes
    assert {f.code for f in findings if f.severity == "error"} == {"D17"}
    with open(copy / "limits.yaml", "r+b") as file:
        file.truncate(demo_reader.MAX_TEXT + 1)
    assert codes(split(copy)[1]) == [("D17", "error", None)]


def test_another_format_version_is_refused(copy: Path) -> None:
    document = checksummed_json.read(copy / "session.json")
    document = checksummed_json.write(
        {k: v for k, v in document.items() if k != "digest"} | {"format_version": 99}
    )
    (copy / "session.json").write_text(checksummed_json.canonical(document))
    episodes, (finding,) = split(copy)
    assert not episodes
    assert "format version 99" in finding.message


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_a_finding(
    session: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = Path(shutil.copytree(session, tmp_path_factory.mktemp("damage") / "session"))
    files = sorted(p for p in copy.rglob("*") if p.is_file() and "start" not in p.parts)
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    changed = bytes(content[:cut]) != file.read_bytes()
    file.write_bytes(bytes(content[:cut]))
    SessionReader().owns(copy)
    SessionReader().facts(copy)
    before, _ = split(session)
    episodes, findings = split(copy)
    assert all(f.code in CODES for f in findings)
    whole = {e.content_hash() for e in before}
    assert {e.content_hash() for e in episodes} <= whole, "what comes through is what was recorded"
    # Labels may end at any line.
    read = file.name != "labels.jsonl" and file.parent.name not in ("000003", "000004")
    assert any(f.severity == "error" for f in findings) or not (changed and read)
