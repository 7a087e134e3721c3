"""Targets of `zprl lineage`: what a name means, and what is refused with a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories import write_demo_file
from tests.unit.lineage.test_walk import HERE, RUNS, VERSION, Node, RunRecord, d, outline, records
from zprl import durable
from zprl.data.episode import Episode
from zprl.data.episode_sources import EpisodeOrigin, EpisodeSources, SourceOrigin
from zprl.data.readers.robomimic import RobomimicReader
from zprl.errors import DataError
from zprl.lineage.local import DOCUMENT
from zprl.lineage.records import Records, VersionRecord
from zprl.lineage.target import REMEDY, trace

RUN_ID = "0" * 32


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(target: str, known: Records | None = None) -> Node:
    node, _ = trace(target, lambda more: known or records())
    return node


def test_a_run_is_named_by_its_id() -> None:
    assert asked("p1").name == "pretrain run p1"


def test_a_record_of_what_lies_here_is_no_run_of_the_store() -> None:
    local = RunRecord("artifacts/base", "pretrain", HERE, outputs={"artifacts/base": d("b")})
    with pytest.raises(DataError, match="nothing is known of 'artifacts/base'"):
        asked("artifacts/base", records(*RUNS, local))


@pytest.mark.parametrize(
    "name",
    ["zprl-lift@champion", "zprl-lift/3", "models:/zprl-lift@champion", "models:/zprl-lift/3"],
)
def test_a_registered_policy_is_named_by_alias_or_number(name: str) -> None:
    node = asked(name)
    assert node.name == "zprl-lift version 3 (champion)"
    assert node.facts == {
        "model": "zprl-lift",
        "version": "3",
        "aliases": ["champion"],
        "run": "m1",
    }


def test_a_version_that_names_no_inputs_has_those_of_its_run() -> None:
    old = replace(records(), versions=(VersionRecord("zprl-lift", "1", run_id="m1"),))
    assert outline(asked("zprl-lift/1", old))[1:] == outline(asked("zprl-lift/3"))[1:]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zprl-lift@best", r"there is zprl-lift version 3 \(champion\)"),
        ("zprl-lift/9", r"there is zprl-lift version 3 \(champion\)"),
        ("other@champion", "there is no version of it"),
        (RUN_ID, f"has no run {RUN_ID}"),
        ("x/demo_9", "nothing is known of 'x/demo_9'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        asked(name)
    assert refused.value.remedy == REMEDY


def test_ingest_runs_without_sources_are_counted_in_the_refusal() -> None:
    with pytest.raises(DataError, match="1 ingest runs do not say where their episodes come from"):
        asked("x/demo_0", records(origins={}))


def test_an_episode_is_known_by_its_name() -> None:
    node = asked("x/demo_0")
    assert (node.facts["content"], node.below[0].name) == (d("1"), "ingest")
    # Demo 1 was changed on its way: two contents, none of which is the episode's one.
    assert "content" not in asked("x/demo_1").facts


def test_bundles_that_a_version_holds_are_registered_there() -> None:
    """The version of the hand-made records was made from other bytes than these."""
    path = Path("policy/base")
    durable.write_json(path / DOCUMENT, {"kind": "policy"})
    digest = durable.digest(path)
    held = Records("hand-made", (), (VersionRecord("m", "2", inputs={"base": digest}), VERSION))
    assert asked("policy", held).facts == {"registered": ["m version 2"]}
    assert asked("policy/base").facts == {}


def test_a_file_is_known_by_its_bytes_and_by_its_episodes_content(project: Path) -> None:
    """The run of ingest read a.hdf5; another file holds the first of its two episodes."""
    write_demo_file(project / "a.hdf5", 2)
    write_demo_file(project / "copied.hdf5", 1)
    reader = RobomimicReader(obs_keys=("object",))
    source = SourceOrigin(
        sha256=durable.digest(project / "a.hdf5"), reader="robomimic", obs_keys=("object",)
    )
    rows = tuple(
        EpisodeOrigin(
            name=episode.name,
            source="a.hdf5",
            content=episode.content_hash(),
            recorded_name=episode.name,
            recorded_content=episode.content_hash(),
        )
        for episode in reader.read(project / "a.hdf5")
        if isinstance(episode, Episode)
    )
    known = records(origins={"i1": EpisodeSources(sources={"a.hdf5": source}, episodes=rows)})

    def used(target: str) -> list[str]:
        return [episode["name"] for episode in asked(target, known).below[0].facts["episodes"]]

    assert used("a.hdf5") == ["a/demo_0", "a/demo_1"]
    assert asked("a.hdf5", known).facts == {"sha256": source.sha256}
    assert used("copied.hdf5") == ["a/demo_0"]


def test_a_file_of_other_episodes_is_refused(project: Path) -> None:
    write_demo_file(project / "other.hdf5", 1)
    with pytest.raises(DataError, match=r"nothing is known of 'other\.hdf5'"):
        asked("other.hdf5")
