"""Properties of a session on disk: any damage is noticed, any cut leaves what stood before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import session_factories as made
from tests.session_factories import Rows
from zprl.recordings import write_ahead_log as written_ahead
from zprl.recordings.labels import LabelFile
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("properties") / "session"
    made.write_session(path, labels=("failure", "success", "success"))
    assert verify(path) == []
    return path


def files(session: Path) -> list[Path]:
    return sorted(p for p in session.rglob("*") if p.is_file())


@settings(QUICK, max_examples=250)
@given(data=st.data())
def test_any_changed_bit_is_noticed_and_its_place_named(session: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files(session)), label="file")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1), label="byte")
    changed = bytearray(whole)
    changed[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(changed)

    try:
        damages = verify(session)
    finally:
        path.write_bytes(whole)
    name = path.relative_to(session).as_posix()
    assert damages, f"{name}, byte {place}"
    assert any(name.startswith(damage.where) for damage in damages), (
        name,
        [str(d) for d in damages],
    )


@settings(QUICK, max_examples=80)
@given(data=st.data())
def test_any_lost_or_added_end_is_noticed(session: Path, data: st.DataObject) -> None:
    path = data.draw(
        st.sampled_from([p for p in files(session) if p.name != "labels.jsonl"]), label="file"
    )
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1) | st.none(), label="cut")
    path.write_bytes(whole + b" " if cut is None else whole[:cut])
    try:
        assert verify(session)
    finally:
        path.write_bytes(whole)


@QUICK
@given(data=st.data())
def test_a_file_of_labels_cut_anywhere_keeps_its_whole_lines(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "labels.jsonl"
    path.unlink(missing_ok=True)
    words = st.sampled_from(["success", "failure", "discard"])
    inputs = data.draw(
        st.lists(st.tuples(st.integers(1, 4), words, st.integers(0, 8)), min_size=1, max_size=8)
    )

    labels = LabelFile(path, write=True)
    for episode, label, nonce in inputs:
        labels.append(episode, label, source="test", nonce=str(nonce))
    labels.close()
    lines = labels.in_order()
    first = {nonce: (episode, label) for episode, label, nonce in reversed(inputs)}
    assert {line.nonce: (line.episode, line.label) for line in lines} == {
        str(nonce): value for nonce, value in first.items()
    }
    assert [int(line.nonce) for line in lines] == list(dict.fromkeys(nonce for *_, nonce in inputs))

    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)), label="cut")
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
    again = LabelFile(path, write=True)
    assert again.in_order() == lines[:kept]
    for line in lines[kept:]:
        again.append(line.episode, line.label, source=line.source, nonce=line.nonce)
    again.close()
    assert path.read_bytes() == whole


@QUICK
@given(data=st.data())
def test_rows_cut_anywhere_are_read_up_to_the_last_whole_one(
    tmp_path: Path, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 5))
    kinds = [data.draw(st.sampled_from("FCLS")) for _ in range(count)]
    arrays = [{"a": np.arange(n, dtype=np.float64), "b": np.asarray(n)} for n in range(count)]
    records = [written_ahead.encode(kind, value) for kind, value in zip(kinds, arrays, strict=True)]
    whole = b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "rows"
    path.write_bytes(whole[:cut])

    rows, size = written_ahead.read(path)
    ends = np.cumsum([len(record) for record in records])
    assert len(rows) == int((ends <= cut).sum())
    assert size == max([0, *ends[ends <= cut]])
    for row, kind, value in zip(rows, kinds, arrays, strict=False):
        assert row.kind == kind
        assert {n: v.tolist() for n, v in row.arrays.items()} == {
            n: v.tolist() for n, v in value.items()
        }


@QUICK
@given(data=st.data())
def test_arbitrary_bytes_are_never_mistaken_for_more_rows(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "rows"
    record = written_ahead.encode("F", {"a": np.zeros(3)})
    path.write_bytes(record + data.draw(st.binary(max_size=200)))
    rows, size = written_ahead.read(path)
    assert (len(rows), size) == (1, len(record))


@settings(QUICK, max_examples=40)
@given(
    layout=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), min_size=1, max_size=5
    ),
    tail=st.integers(0, 2),
    unused=st.integers(0, 2),
)
def test_steps_of_chunks_follow_from_the_frames(
    tmp_path_factory: pytest.TempPathFactory, layout: list, tail: int, unused: int
) -> None:
    """A layout gives for each chunk: steps that the arm held before it, steps that were played of
    it, and whether a person moved the arm at its first."""
    played: list[int] = []
    moved: list[bool] = []
    for number, (held, steps, intervention) in enumerate(layout):
        played += [-1] * held + [number] * steps
        moved += [False] * held + [intervention] + [False] * (steps - 1)
    played += [-1] * tail
    moved += [False] * tail

    path = tmp_path_factory.mktemp("layout") / "session"
    with made.create(path) as store:
        rows = Rows(1, steps=len(played))
        writer = store.open_episode(1)
        for number in range(len(layout) + unused):
            writer.add_chunk(**rows.chunk(0) | {"id": number, "version": number // 2})
        for step, (chunk, intervention) in enumerate(zip(played, moved, strict=True)):
            writer.add_frame(**rows.frame(step) | {"chunk": chunk, "intervention": intervention})
        writer.finish(**rows.observation(len(played)))
        writer.finish_state(
            final_embedding=rows.vectors[-1, 0], final_anchor=rows.vectors[-1, 1, : made.R]
        )
        writer.commit(made.facts())

    assert verify(path) == []
    episode = SessionStore.open(path).episode(1)
    assert episode.chunks["steps"].tolist() == [steps for _, steps, _ in layout]
    assert episode.chunks["step"].tolist() == [
        played.index(number) for number in range(len(layout))
    ]
    assert episode.chunks["intervened"].tolist() == [intervention for *_, intervention in layout]
    assert episode.facts.unused_decisions == unused
    assert episode.versions == tuple(range((len(layout) + 1) // 2))
    shutil.rmtree(path.parent)
