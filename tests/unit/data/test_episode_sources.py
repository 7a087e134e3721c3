"""Where stored episodes come from, as ingest notes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories import make_episode, write_demo_file
from tests.session_factories import write_session
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.episode_checks import FunctionChange, check
from zprl.data.episode_sources import SOURCES, EpisodeSources, SourceRecorder
from zprl.data.ingest import read_all
from zprl.data.sources import Source, find_sources
from zprl.data.validation import ValidationLimits
from zprl.errors import DataError

LIMITS = ValidationLimits(min_length=2)


def halves(source: Source, episode: Episode) -> Iterator[Episode]:
    """Two pieces of every episode."""
    middle = episode.length // 2
    for name, part in (("a", slice(None, middle)), ("b", slice(middle, None))):
        arrays = {field: getattr(episode, field)[part] for field in ("actions", "rewards", "dones")}
        yield replace(
            episode,
            name=f"{episode.name}{name}",
            obs={k: v[part] for k, v in episode.obs.items()},
            **arrays,
        )


def test_each_episode_names_its_source_and_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_demo_file(tmp_path / "data/a.hdf5", 2)
    write_demo_file(tmp_path / "data/more/b.hdf5", 1, seed=7)
    recorder = SourceRecorder()
    result = read_all(
        find_sources(Path("data"), obs_keys=["object"]), limits=LIMITS, changes=recorder.around([])
    )
    recorder.write(Path(SOURCES), result.good[1:])
    found = EpisodeSources.read(Path(SOURCES))
    assert [(e.name, e.source) for e in found.episodes] == [
        ("a/demo_1", "data/a.hdf5"),
        ("b/demo_0", "data/more/b.hdf5"),
    ]
    assert [e.content for e in found.episodes] == [e.content_hash() for e in result.good[1:]]
    assert all((e.recorded_name, e.recorded_content) == (e.name, e.content) for e in found.episodes)
    assert {name: source.sha256 for name, source in found.sources.items()} == {
        "data/a.hdf5": durable.digest("data/a.hdf5"),
        "data/more/b.hdf5": durable.digest("data/more/b.hdf5"),
    }
    assert found.sources["data/a.hdf5"].reader == "robomimic"
    assert found.sources["data/a.hdf5"].obs_keys == ("object",)
    before = Path(SOURCES).read_bytes()
    recorder.write(Path(SOURCES), result.good[1:])
    assert Path(SOURCES).read_bytes() == before


def test_what_was_changed_is_traced_to_what_was_read(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 2, length=40)
    raw = [
        item.content_hash()
        for _, item in check(find_sources(tmp_path), limits=LIMITS)
        if isinstance(item, Episode)
    ]
    recorder = SourceRecorder()
    result = read_all(
        find_sources(tmp_path), limits=LIMITS, changes=recorder.around([FunctionChange(halves)])
    )
    recorder.write(tmp_path / SOURCES, result.good)
    found = EpisodeSources.read(tmp_path / SOURCES).episodes
    assert [e.name for e in found] == ["a/demo_0a", "a/demo_0b", "a/demo_1a", "a/demo_1b"]
    assert [e.recorded_name for e in found] == ["a/demo_0"] * 2 + ["a/demo_1"] * 2
    assert [e.recorded_content for e in found] == [raw[0], raw[0], raw[1], raw[1]]
    assert [e.content for e in found] == [e.content_hash() for e in result.good]
    assert len({e.content for e in found}) == 4


def test_of_equal_names_the_one_that_is_used_counts(tmp_path: Path) -> None:
    recorder = SourceRecorder()
    (look,) = recorder.around([])
    one, other = (make_episode(seed, name="a/demo_0") for seed in (1, 2))
    sources = find_sources(write_demo_file(tmp_path / "a.hdf5", 1)) + find_sources(
        write_demo_file(tmp_path / "b.hdf5", 1)
    )
    for source, episode in zip(sources, (one, other), strict=True):
        assert list(look(source, episode)) == [episode]
    recorder.write(tmp_path / SOURCES, [other])
    (found,) = EpisodeSources.read(tmp_path / SOURCES).episodes
    assert found.source.endswith("b.hdf5")


def test_a_session_is_a_source_as_a_whole(tmp_path: Path) -> None:
    session = write_session(tmp_path / "session", labels=("success", "failure", "success"))
    (source,) = find_sources(session)
    recorder = SourceRecorder()
    (look,) = recorder.around([])
    used = [e for item in source.reader.read(session) for e in look(source, item)]
    recorder.write(tmp_path / SOURCES, used)
    found = EpisodeSources.read(tmp_path / SOURCES)
    assert found.sources[session.as_posix()].sha256 == durable.digest(session)
    assert found.sources[session.as_posix()].reader == "session"
    assert len(found.episodes) == 3


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "nonsense",
        '{"format_version": 2, "sources": {}, "episodes": []}',
        '{"format_version": 1, "sources": {}, '
        '"episodes": [{"name": "a/b", "source": "x", "content": "1"}]}',
    ],
)
def test_a_damaged_file_is_bad_data(tmp_path: Path, text: str) -> None:
    (tmp_path / SOURCES).write_text(text)
    with pytest.raises(DataError, match="json"):
        EpisodeSources.read(tmp_path / SOURCES)
