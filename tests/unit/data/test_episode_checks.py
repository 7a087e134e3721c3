"""Checking one episode at a time finds what checking all at once finds, and keeps nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories import make_episode, make_episodes
from tests.fixed_reader import Fixed, source
from zprl.data.episode import Episode
from zprl.data.episode_checks import FunctionChange, Tally, check
from zprl.data.findings import Finding
from zprl.data.ingest import read_all
from zprl.data.sources import Source
from zprl.data.validation import ValidationLimits, check_set, check_shapes


def findings(*sources: Source, **options: object) -> list[Finding]:
    return [
        item
        for _, item in check(sources, limits=ValidationLimits(), **options)
        if isinstance(item, Finding)
    ]


def narrow(episode: Episode) -> Episode:
    return replace(episode, obs={**episode.obs, "object": episode.obs["object"][:, :7]})


def test_the_set_is_judged_as_if_all_were_in_memory() -> None:
    """Two frames per shape keep the ranges: constant is what never moves over ALL episodes."""
    good = make_episodes(6)
    still = [
        replace(e, obs={**e.obs, "object": np.full((e.length, 10), number, np.float32)})
        for number, e in enumerate(good[:3])
    ]
    for episodes in (good, still, [replace(e, success=False) for e in good]):
        named = [replace(e, name=f"a/demo_{number}") for number, e in enumerate(episodes)]
        assert findings(source("a", named)) == check_set(named)
    # 0, 1, 2: every episode is constant, the set is not.
    assert not any("obs/object" in finding.message for finding in findings(source("a", still)))


def test_odd_shapes_come_last_and_name_the_minority() -> None:
    episodes = [make_episode(0), narrow(make_episode(1)), make_episode(2)]
    items = list(check([source("a", episodes)], limits=ValidationLimits()))
    assert [item.name for _, item in items if isinstance(item, Episode)] == [
        e.name for e in episodes
    ]
    odd = [
        (where, item) for where, item in items if isinstance(item, Finding) and item.code == "D05"
    ]
    assert odd == [(None, finding) for finding in check_shapes([("a.fixed", e) for e in episodes])]
    tally = Tally()
    for item in items:
        tally.add(item)
    assert (tally.passed, list(tally.bad)) == (2, ["made/demo_1"])


def test_it_agrees_with_reading_all() -> None:
    nan = make_episode(3)
    nan.actions[5, 0] = np.nan
    lost = Finding("D01", "error", "b.fixed", "damaged", "copy it again")
    sources = [
        source("a", [make_episode(0), nan, make_episode(0, name="a/copy")]),
        source("b", [lost]),
        source("c", [narrow(make_episode(5)), make_episode(6)]),
    ]
    result = read_all(sources, limits=ValidationLimits())
    tally = Tally()
    for item in check(sources, limits=ValidationLimits()):
        tally.add(item)
    assert [f.code for f in result.findings] == ["D04", "D13", "D01", "D05", "D14", "D14"]
    assert findings(*sources) == list(result.findings)
    assert tuple(tally.bad) == result.quarantine
    assert tally.passed == len(result.good) == 2
    assert tally.as_json()["severities"] == {"error": 4, "warning": 0, "note": 2}


def test_a_name_twice_in_one_source_leaves_the_first_good() -> None:
    sources = [source("a", [make_episode(0, name="a/x"), make_episode(1, name="a/x")])]
    result = read_all(sources, limits=ValidationLimits())
    assert [e.name for e in result.good] == ["a/x"]
    assert [f.code for f in result.findings if f.severity == "error"] == ["D18"]


def test_no_episode_is_kept() -> None:
    """The consumer drops each episode, and so does the checker: at the tenth the first are gone."""
    seen: list[weakref.ref[Episode]] = []

    class Lazy(Fixed):
        def read(self, path: Path | str) -> Iterator[Episode | Finding]:
            for number in range(10):
                yield make_episode(number)

    for _, item in check([Source(Path("a.fixed"), Lazy([]))], limits=ValidationLimits()):
        if isinstance(item, Episode):
            seen.append(weakref.ref(item))
            del item
            gc.collect()
            assert sum(one() is not None for one in seen[:-2]) == 0
    assert len(seen) == 10


def test_what_is_beside_is_the_measure_and_stays_silent() -> None:
    old = [make_episode(0, name="old/0"), make_episode(1, length=1, name="old/short")]
    new = [narrow(make_episode(number, name=f"new/{number}")) for number in (5, 6, 7)]
    found = findings(source("new", new), beside=[source("old", old)])
    assert {f.episode for f in found if f.code == "D05"} == {"new/5", "new/6", "new/7"}, (
        "three against one, and still the three are odd"
    )
    assert "old/short" not in {f.episode for f in found}
    again = findings(source("new", [make_episode(0, name="new/0")]), beside=[source("old", old)])
    assert [(f.code, f.message) for f in again if f.severity == "error"] == [
        ("D13", "the same content as old/0")
    ]


def test_unsafe_names_are_not_read() -> None:
    bad = Source(Path("a\nb.fixed"), Fixed([make_episode(0)]))
    (finding,) = findings(bad)
    assert (finding.code, finding.file) == ("D18", r"'a\nb.fixed'")


@pytest.mark.parametrize("count", [0, 3])
def test_changes_come_before_the_checks(count: int) -> None:
    def cut(_: Source, episode: Episode) -> Iterator[Episode | Finding]:
        for number in range(count):
            yield replace(
                episode, name=f"{episode.name}.{number}", actions=episode.actions + number
            )

    items = [
        item
        for _, item in check(
            [source("a", [make_episode(0)])],
            limits=ValidationLimits(),
            changes=[FunctionChange(cut)],
        )
        if isinstance(item, Episode)
    ]
    # Actions that are shifted are no rotation any more (D08), except where the shift is 0.
    assert [item.name for item in items] == ["made/demo_0.0"][:count]
