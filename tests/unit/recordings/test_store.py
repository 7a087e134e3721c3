"""A session on disk: what goes in comes out, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import session_factories as made
from tests.session_factories import Rows
from tests.session_start import make_start
from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.recordings import append_file
from zprl.recordings.store import SessionStore
from zprl.rl.session_learner import SessionLearner


@pytest.fixture
def store(tmp_path: Path):
    with made.create(tmp_path / "session") as opened:
        yield opened


def test_what_was_recorded_is_what_is_read(store: SessionStore) -> None:
    rows = Rows(1, steps=10)
    digest = made.add_episode(store, 1, steps=10)
    episode = SessionStore.open(store.path).episode(1)
    assert (episode.number, episode.phase, episode.steps, episode.digest) == (
        1,
        "train",
        10,
        digest,
    )

    np.testing.assert_array_equal(episode.stamps, 100.0 + np.arange(11) / 50)
    np.testing.assert_array_equal(episode.positions, rows.path)
    np.testing.assert_array_equal(episode.commanded, rows.actions)
    np.testing.assert_array_equal(episode.wrench, rows.wrench)
    for key, value in rows.values.items():
        np.testing.assert_array_equal(episode.obs[key], value)
    assert np.flatnonzero(episode.clipped).tolist() == [3]
    np.testing.assert_array_equal(episode.chunks["final_embedding"], rows.vectors[-1, 0])
    assert episode.chunks["targets"].shape == (3, 4, 10)
    assert dict(episode.facts.events[0])["reason"] == "workspace"


def test_when_each_chunk_was_executed_follows_from_the_steps(store: SessionStore) -> None:
    made.add_episode(store, 1, steps=10, late=1)
    episode = store.episode(1)
    assert episode.chunks["id"].tolist() == [0, 1, 2]
    assert episode.chunks["step"].tolist() == [0, 4, 8]
    assert episode.chunks["steps"].tolist() == [4, 4, 1]  # the tenth step held: no chunk was there
    assert episode.facts.robot_s == pytest.approx(0.2)  # ten steps at 50 Hz
    assert episode.wall_s == pytest.approx(0.21)
    assert episode.facts.clip_share == pytest.approx(0.1)


def test_chunks_that_were_never_played_are_dropped_and_counted(store: SessionStore) -> None:
    rows = Rows(1, steps=8)
    writer = store.open_episode(1)
    writer.add_chunk(**rows.chunk(0) | {"id": 7})  # decided, but too late
    rows.write(writer)
    writer.commit(made.facts())
    episode = store.episode(1)
    assert episode.chunks["id"].tolist() == [0, 1]
    assert (episode.facts.decisions, episode.facts.unused_decisions) == (2, 1)


def test_chunks_may_arrive_before_or_after_their_steps(store: SessionStore) -> None:
    rows = Rows(1, steps=8)
    writer = store.open_episode(1)
    writer.finish_state(
        final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
    )
    for step in range(8):
        writer.add_frame(**rows.frame(step))
    writer.finish(**rows.observation(8))
    assert not writer.complete
    for number in (1, 0):
        writer.add_chunk(**rows.chunk(number))
    assert writer.complete
    other = made.create(store.path.with_name("other"))
    assert writer.commit(made.facts()) == made.add_episode(
        other, 1, steps=8
    )  # order leaves no trace
    other.close()


@pytest.mark.parametrize(
    ("steps", "marks"),
    [
        ((5,), [False, True, False]),
        ((0,), [True, False, False]),
        ((3, 9), [True, False, True]),
        ((8,), [False, True, False]),
        ((), [False, False, False]),
    ],
)
def test_a_chunk_that_a_person_overrode_is_marked(
    store: SessionStore, steps: tuple[int, ...], marks: list[bool]
) -> None:
    rows = Rows(1, steps=10)
    writer = store.open_episode(1)
    for number in range(3):
        writer.add_chunk(**rows.chunk(number))
    for step in range(10):
        moved = step in steps
        writer.add_frame(
            **rows.frame(step) | {"intervention": moved} | ({"chunk": -1} if moved else {})
        )
    writer.finish(**rows.observation(10))
    writer.finish_state(
        final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
    )
    writer.commit(made.facts())
    episode = store.episode(1)
    assert episode.chunks["intervened"].tolist() == marks
    assert episode.facts.intervention_share == pytest.approx(len(steps) / 10)
    np.testing.assert_array_equal(
        episode.chunks["residual"], np.stack([rows.chunk(i)["residual"] for i in range(3)])
    )  # as it was


def test_the_learner_takes_a_recorded_episode_in(tmp_path: Path) -> None:
    """A real start folder, with the widths of its own policy."""
    start = make_start(tmp_path / "start")
    config = made.header().config.model_copy(update={"batch_size": 4, "updates_per_chunk": 1.0})
    learner = SessionLearner(start, config, seed=0)
    d, r = learner.state_dim - learner.dim, learner.dim
    rows, draw = Rows(1, steps=6), np.random.default_rng(0)
    with made.create(tmp_path / "session", start=start) as store:
        writer = store.open_episode(1)
        for number in range(2):
            wide = {"embedding": d, "anchor": r, "residual": r, "point": r, "mean": r, "log_std": r}
            writer.add_chunk(
                **rows.chunk(number)
                | {name: draw.standard_normal(width) for name, width in wide.items()}
            )
        for step in range(6):
            writer.add_frame(**rows.frame(step))
        writer.finish(**rows.observation(6))
        writer.finish_state(final_embedding=np.zeros(d), final_anchor=np.zeros(r))
        writer.commit(made.facts())
        learner.consume(store.episode(1).transitions(), 1, success=True)
    assert learner.replay.added == 2
    assert learner.replay.data["reward"][:2].tolist() == [
        0.0,
        pytest.approx(0.99),
    ]  # success at the second of two steps


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"features": [float("nan")] * 8},
        {"obs": {"robot0_eef_pos": [float("inf")] * 3}},
        {"commanded": np.zeros(9)},
        {"wrench": None},
        {"step": 2},
        {"step": 0},
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_leaves_no_trace(
    store: SessionStore, change: dict
) -> None:
    rows = Rows(1)
    writer = store.open_episode(1)
    writer.add_frame(**rows.frame(0))
    before = writer.path.read_bytes()
    with pytest.raises(DataError, match="episode 1"):
        writer.add_frame(**rows.frame(1) | change)
    assert writer.path.read_bytes() == before
    writer.add_frame(**rows.frame(1))
    assert writer.steps == 2


def test_a_decision_or_an_end_comes_once(store: SessionStore) -> None:
    rows = Rows(1)
    writer = store.open_episode(1)
    rows.write(writer)
    with pytest.raises(DataError, match="came twice"):
        writer.add_chunk(**rows.chunk(0))
    with pytest.raises(DataError, match="ended already"):
        writer.finish(**rows.observation(3))


@pytest.mark.parametrize("missing", ["frames", "chunks", "finish", "state"])
def test_an_incomplete_episode_is_not_committed(store: SessionStore, missing: str) -> None:
    rows = Rows(1, steps=4)
    writer = store.open_episode(1)
    if missing != "chunks":
        writer.add_chunk(**rows.chunk(0))
    if missing != "frames":
        for step in range(4):
            writer.add_frame(**rows.frame(step))
    if missing != "finish":
        writer.finish(**rows.observation(4))
    if missing != "state":
        writer.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )

    assert not writer.complete
    with pytest.raises(DataError, match="not complete"):
        writer.commit(made.facts())
    assert store.numbers() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chunk": 9}, "chunk 9 was played but never recorded"),
        ({"stamp": 99.0}, "stamp goes back"),
        ({"host": 0.0}, "host goes back"),
    ],
)
def test_rows_that_contradict_each_other_are_not_committed(
    store: SessionStore, change: dict, says: str
) -> None:
    rows = Rows(1, steps=4)
    writer = store.open_episode(1)
    writer.add_chunk(**rows.chunk(0))
    for step in range(4):
        writer.add_frame(**rows.frame(step) | (change if step == 2 else {}))
    writer.finish(**rows.observation(4))
    writer.finish_state(
        final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
    )
    with pytest.raises(DataError, match=says):
        writer.commit(made.facts())
    assert 1 not in store


def test_an_episode_without_any_played_chunk_is_not_committed(store: SessionStore) -> None:
    rows = Rows(1, steps=4)
    writer = store.open_episode(1)
    writer.add_chunk(**rows.chunk(0))
    for step in range(4):
        writer.add_frame(**rows.frame(step) | {"chunk": -1, "intervention": True})
    writer.finish(**rows.observation(4))
    writer.finish_state(
        final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
    )
    with pytest.raises(DataError, match="no chunk was played"):
        writer.commit(made.facts())


def test_a_committed_episode_is_never_changed(store: SessionStore) -> None:
    made.add_episode(store, 1)
    before = durable.digest(store.path / "episodes")
    with pytest.raises(DataError, match="in use"):
        store.open_episode(1)
    assert durable.digest(store.path / "episodes") == before


def test_numbers(store: SessionStore) -> None:
    assert store.next_number() == 1
    made.add_episode(store, 1)
    made.add_episode(
        store, 4
    )  # numbers of discarded episodes are not used again: the caller skips them
    assert store.numbers() == [1, 4]
    writer = store.open_episode(7)
    assert (store.open_numbers(), store.next_number()) == ([7], 8)
    writer.discard()
    writer.discard()
    assert (store.open_numbers(), store.next_number(), len(store)) == ([], 5, 2)
    for bad in (0, -1, 1_000_000):
        with pytest.raises(DataError, match="cannot be begun"):
            store.open_episode(bad)


def test_labels_are_for_committed_episodes(store: SessionStore) -> None:
    with pytest.raises(DataError, match="no episode 1 to label"):
        store.label(1, "success", source="test", nonce="a")
    made.add_episode(store, 1)
    assert store.label(1, "success", source="test", nonce="a").seq == 1


# -- one writer, many readers ----------------------------------------------------------------------


def test_one_writer_and_readers_beside_it(store: SessionStore) -> None:
    reader = SessionStore.open(store.path)
    with pytest.raises(EnvironmentProblem, match="another process"):
        SessionStore.open(store.path, write=True)
    writer = store.open_episode(1)
    writer.add_frame(**Rows(1).frame(0))
    SessionStore.open(store.path)  # a reader that comes meanwhile harms nothing
    assert (reader.numbers(), writer.path.exists()) == ([], True)
    writer.discard()
    made.add_episode(store, 1)
    store.label(1, "failure", source="test", nonce="a")
    assert (reader.numbers(), reader.labels.current()) == ([1], {1: "failure"})
    with pytest.raises(RuntimeError, match="for reading"):
        reader.label(1, "success", source="test", nonce="b")
    store.close()
    SessionStore.open(store.path, write=True).close()


def test_an_open_episode_is_resumed_where_its_rows_end(store: SessionStore) -> None:
    rows = Rows(1, steps=9)
    writer = store.open_episode(1)
    for number in range(3):
        writer.add_chunk(**rows.chunk(number))
    for step in range(5):
        writer.add_frame(**rows.frame(step))
    writer.close()
    with open(writer.path, "ab") as file:
        file.write(b"F\x10\x00\x00\x00torn")
    store.close()

    with SessionStore.open(store.path, write=True) as again:
        assert again.open_numbers() == [1]
        resumed = again.resume_episode(1)
        assert resumed.steps == 5
        with pytest.raises(DataError, match="came twice"):
            resumed.add_chunk(**rows.chunk(2))
        for step in range(5, 9):
            resumed.add_frame(**rows.frame(step))
        resumed.finish(**rows.observation(9))
        resumed.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )
        other = made.create(store.path.with_name("other"))
        assert resumed.commit(made.facts()) == made.add_episode(other, 1, steps=9)
        assert again.open_numbers() == []
        other.close()
        with pytest.raises(DataError, match="not open"):
            again.resume_episode(1)


def test_a_full_disk_loses_no_row_and_no_label(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(1, steps=4)
    writer = store.open_episode(1)
    original = append_file._write

    def half_then_full(fd: int, data: bytes) -> None:
        original(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(append_file, "_write", half_then_full)
    with pytest.raises(EnvironmentProblem, match="no space"):
        writer.add_frame(**rows.frame(0))
    monkeypatch.setattr(append_file, "_write", original)
    rows.write(writer)  # the very same step, once there is space
    writer.commit(made.facts())
    monkeypatch.setattr(append_file, "_write", half_then_full)
    with pytest.raises(EnvironmentProblem, match="no space"):
        store.label(1, "success", source="test", nonce="a")
    monkeypatch.setattr(append_file, "_write", original)
    assert store.labels.current() == {}
    store.label(1, "success", source="test", nonce="a")
    assert [line.seq for line in SessionStore.open(store.path).labels.in_order()] == [1]


# -- making and opening ----------------------------------------------------------------------------


def test_create_refuses_an_existing_folder_and_a_missing_start(tmp_path: Path) -> None:
    made.create(tmp_path / "session").close()
    with pytest.raises(DataError, match="exists already"):
        made.create(tmp_path / "session")
    with pytest.raises(DataError, match="does not exist"):
        made.create(tmp_path / "other", start=tmp_path / "nothing")
    assert not (tmp_path / "other").exists()


def test_equal_sessions_have_equal_bytes(tmp_path: Path) -> None:
    first, second = made.write_session(tmp_path / "a"), made.write_session(tmp_path / "b")
    third = made.write_session(tmp_path / "c", seed=1)
    assert durable.digest(first) == durable.digest(second) != durable.digest(third)


@pytest.mark.parametrize("name", ["task.yaml", "limits.yaml"])
def test_a_session_with_other_limits_than_it_began_with_is_not_opened(
    tmp_path: Path, name: str
) -> None:
    path = made.write_session(tmp_path / "session")
    with open(path / name, "a") as file:
        file.write("# edited\n")
    with pytest.raises(DataError, match=name):
        SessionStore.open(path)


def test_what_is_no_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a session"):
        SessionStore.open(tmp_path)
    path = made.write_session(tmp_path / "session")
    document = json.loads((path / "session.json").read_text())
    document["header"]["seed"] = 1
    (path / "session.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    with pytest.raises(DataError, match="damaged"):
        SessionStore.open(path)


def test_tensors_are_checked_when_they_are_read(tmp_path: Path) -> None:
    """A forger who mends the digests still cannot make numbers fit that do not."""
    from zprl.recordings import checksummed_json

    path = made.write_session(tmp_path / "session")
    folder = path / "episodes/000002"
    frames = durable.read_tensors(folder / "frames.safetensors")
    for change, says in [
        ({"stamp": frames["stamp"].flip(0)}, "goes back"),
        ({"features": frames["features"] * torch.nan}, "not finite"),
        ({"sent": frames["sent"][:-1]}, "sent is"),
        ({"commanded": frames["commanded"].to(torch.float64)}, "commanded is torch.float64"),
        ({"more": frames["stamp"].clone()}, "more unknown"),
        ({"chunk": frames["chunk"].flip(0)}, "disagree"),
    ]:
        durable.write_tensors(folder / "frames.safetensors", frames | change)
        facts = checksummed_json.read(folder / "episode.json")
        facts["files"]["frames.safetensors"] = durable.digest(folder / "frames.safetensors")
        del facts["digest"]
        durable.write_json(folder / "episode.json", checksummed_json.write(facts))
        with pytest.raises(DataError, match=says):
            _ = SessionStore.open(path).episode(2).frames


def test_the_command_line_names_the_author_of_a_label(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zprl.cli import app
    from zprl.session.inputs import this_user

    folder = made.write_session(tmp_path / "session")
    runner = CliRunner()
    before = runner.invoke(app, ["session", "show", str(folder)])
    assert " by " not in before.output
    done = runner.invoke(app, ["session", "label", "1", "success", "--path", str(folder)])
    assert done.exit_code == 0, done.output
    assert f"by {this_user()}" in runner.invoke(app, ["session", "show", str(folder)]).output
    assert runner.invoke(app, ["session", "verify", str(folder)]).exit_code == 0


def test_a_session_that_runs_is_not_judged(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zprl.cli import app

    folder = made.write_session(tmp_path / "session")
    path = ["--path", str(folder)]
    commands = (
        ["verify", str(folder)],
        ["label", "1", "success", *path],
        ["export", str(tmp_path / "out.hdf5"), *path],
    )
    with SessionStore.open(folder, write=True):
        for command in commands:
            refused = CliRunner().invoke(app, ["session", *command]).exception
            assert "a session is running here" in str(refused)
            assert "zprl session page" in str(refused)
        assert CliRunner().invoke(app, ["session", "show", str(folder)]).exit_code == 0
    for command in commands:
        assert CliRunner().invoke(app, ["session", *command]).exit_code == 0, command


def test_no_link_where_no_session_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from zprl.cli import app

    monkeypatch.chdir(tmp_path)
    assert "no session is running" in str(CliRunner().invoke(app, ["session", "page"]).exception)
