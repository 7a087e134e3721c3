"""Recipes: they keep, correct, cut and join, and recordings stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.factories import ENV_ARGS, make_episode, read_json, write_demo_file
from zprl import durable
from zprl.config import Recipe
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.ingest import Ingested, read_all
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.recipe import Apply, cut, join, relabelled
from zprl.data.sources import Source, find_sources
from zprl.data.store import EpisodeStore, fit_normalizer
from zprl.data.validation import ValidationLimits
from zprl.data.writers.robomimic import RobomimicWriter


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Files a and b of four episodes (40 to 43 frames; better, okay, worse, better and failed)."""
    for seed, name in enumerate("ab"):
        write_demo_file(tmp_path / "demos" / f"{name}.hdf5", 4, seed=10 * seed)
    return tmp_path / "demos"


def read(demos: Path, **recipe: object) -> Ingested:
    return read_all(
        find_sources(demos),
        limits=ValidationLimits(),
        changes=[Apply(Recipe.model_validate(recipe))],
    )


def names(result: Ingested) -> list[str]:
    return [episode.name for episode in result.good]


def said(result: Ingested, code: str) -> list[str]:
    return [finding.message for finding in result.findings if finding.code == code]


def three(
    values: tuple[float, ...] = (0.0, 0.0, 1.0),
    *,
    name: str = "a/demo_0",
    success: bool = True,
    quality: str = "okay",
) -> Episode:
    column = np.arange(3, dtype=np.float32)[:, None]
    return Episode(
        name,
        {"x": column},
        column,
        np.array(values, np.float32),
        np.array([False, False, True]),
        success,
        quality,
    )


# -- subsets ---------------------------------------------------------------------------------------


def test_an_empty_recipe_changes_nothing(demos: Path) -> None:
    plain = read_all(find_sources(demos), limits=ValidationLimits())
    result = read(demos)
    assert result.findings == plain.findings
    for before, after in zip(plain.good, result.good, strict=True):
        assert (before.name, before.content_hash()) == (after.name, after.content_hash())


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ({"only": ["b/*"]}, ["b/demo_0", "b/demo_1", "b/demo_2", "b/demo_3"]),
        ({"only": ["a/demo_[01]", "b/demo_3"]}, ["a/demo_0", "a/demo_1", "b/demo_3"]),
        ({"only": ["a/*"], "leave_out": ["*/demo_2"]}, ["a/demo_0", "a/demo_1", "a/demo_3"]),
        ({"keep_quality": ["worse"]}, ["a/demo_2", "b/demo_2"]),
        (
            {"quality": {"a/demo_0": "worse"}, "keep_quality": ["worse"]},
            ["a/demo_0", "a/demo_2", "b/demo_2"],
        ),
    ],
)
def test_which_are_kept(demos: Path, recipe: dict, kept: list[str]) -> None:
    result = read(demos, **recipe)
    assert names(result) == kept
    assert result.quarantine == (), "left out is not bad"


def test_the_last_pattern_that_fits_holds(demos: Path) -> None:
    result = read(demos, quality={"a/*": "worse", "a/demo_1": "better"})
    assert [episode.quality for episode in result.good][:4] == ["worse", "better", "worse", "worse"]


# -- labels, cuts, joins ---------------------------------------------------------------------------


def test_a_new_label_moves_reward_and_end(demos: Path) -> None:
    result = read(demos, success={"a/demo_3": True, "b/demo_0": False})
    good = {episode.name: episode for episode in result.good}
    assert good["a/demo_3"].success
    assert good["a/demo_3"].rewards.tolist() == [0.0] * 42 + [1.0]
    assert not good["b/demo_0"].success
    assert good["b/demo_0"].rewards.tolist() == [0.0] * 40
    assert good["b/demo_0"].dones.tolist() == [False] * 39 + [True]
    assert "label of success 2" in said(result, "D24")[0]


def test_relabelling_replaces_dense_rewards() -> None:
    found = relabelled(three((0.3, 1.5, 0.1)), success=True)
    assert (found.rewards.tolist(), found.success) == ([0, 0, 1], True)
    assert found.rewards.dtype == np.float32


def test_cut_keeps_frames_and_label() -> None:
    found = cut(three((0, 0, 1)), 0, 2)
    assert found.obs["x"].ravel().tolist() == [0, 1]
    assert (found.rewards.tolist(), found.dones.tolist(), found.success) == (
        [0, 1],
        [False, True],
        True,
    )
    front = cut(three((0, 0, 1)), 1, 3)
    assert (front.actions.ravel().tolist(), front.rewards.tolist()) == ([1, 2], [0, 1])
    failure = cut(three((0, 0, 0), success=False), 0, 2)
    assert (failure.rewards.tolist(), failure.success) == ([0, 0], False)


def test_cut_beyond_the_end_is_said(demos: Path) -> None:
    result = read(demos, cut={"a/demo_0": [10, 80], "a/demo_1": [41, 60]})
    assert [episode.length for episode in result.good if episode.name == "a/demo_0"] == [30]
    assert said(result, "D23") == [
        "the recipe's cut [10, 80) goes beyond its 40 frames",
        "the recipe's cut [41, 60) goes beyond its 41 frames",
    ]
    assert said(result, "D12") == ["the recipe's cut [41, 60) leaves none of its 41 frames"]
    assert result.quarantine == ("a/demo_1",)


def test_join_by_hand() -> None:
    found = join(
        [three((0, 0, 1)), three((0, 0, 0), name="a/demo_4", success=False, quality="worse")]
    )
    assert found.name == "a/demo_0+demo_4"
    assert found.actions.ravel().tolist() == [0, 1, 2, 0, 1, 2]
    assert found.dones.tolist() == [False] * 5 + [True]
    assert (found.success, found.quality) == (False, "unknown")
    assert join([three(), three()]).quality == "okay"


def test_merge_takes_the_order_of_the_recipe_and_the_place_of_the_last(demos: Path) -> None:
    result = read(demos, merge=[["a/demo_2", "a/demo_0"]])
    assert names(result)[:3] == ["a/demo_1", "a/demo_2+demo_0", "a/demo_3"]
    joined, (zero, _, two, *_) = (
        result.good[1],
        read_all(find_sources(demos), limits=ValidationLimits()).good,
    )
    np.testing.assert_array_equal(joined.actions, np.concatenate([two.actions, zero.actions]))
    assert joined.length == 82
    assert said(result, "D23") == []


def test_merge_across_sources_or_with_a_missing_one_stays_apart(demos: Path) -> None:
    result = read(demos, merge=[["a/demo_0", "b/demo_0"], ["a/demo_1", "a/demo_9"]])
    assert sorted(names(result)) == sorted(f"{file}/demo_{n}" for file in "ab" for n in range(4))
    texts = said(result, "D23")
    assert len(texts) == 4
    assert "joins it with b/demo_0" in texts[0]
    assert (
        texts[-1]
        == "ingest.recipe.merge names 'a/demo_9', which no episode that was read is called"
    )


def test_parts_that_do_not_fit_are_an_error() -> None:
    other = replace(three(name="a/demo_1"), obs={"y": three().obs["x"]})
    change = Apply(Recipe(merge=(("a/demo_0", "a/demo_1"),)))
    source = Source(Path("a.hdf5"), RobomimicReader())
    items = [*change(source, three()), *change(source, other), *change.end_of_source(source)]
    assert [
        (item.code, item.severity, item.episode) for item in items if isinstance(item, Finding)
    ] == [("D05", "error", "a/demo_0")]


# -- what is said ----------------------------------------------------------------------------------


def test_names_that_nothing_has_are_warnings_at_the_end(demos: Path) -> None:
    result = read(
        demos,
        only=["a/*", "c/*"],
        leave_out=["a/demo_13"],
        success={"x": True},
        quality={"y/*": "okay"},
        cut={"z": [0, 9]},
    )
    found = [finding for finding in result.findings if finding.code == "D23"]
    assert {finding.severity for finding in found} == {"warning"}
    assert [finding.message.partition(",")[0] for finding in found] == [
        "ingest.recipe.only names 'c/*'",
        "ingest.recipe.leave_out names 'a/demo_13'",
        "ingest.recipe.success names 'x'",
        "ingest.recipe.quality names 'y/*'",
        "ingest.recipe.cut names 'z'",
    ]
    assert said(result, "D24") == ["episodes that the recipe changed: left out 4"]


def test_recordings_stay_as_they_are(demos: Path) -> None:
    before = durable.digest(demos)
    read(demos, success={"*": False}, cut={"*": [0, 20]}, merge=[["a/demo_0", "a/demo_1"]])
    assert durable.digest(demos) == before


@pytest.mark.parametrize(
    "recipe",
    [
        {"cut": {"a": [5, 5]}},
        {"cut": {"a": [-1, 5]}},
        {"weights": {"better": 0}},
        {"weights": {"better": float("nan")}},
        {"weights": {"best": 1}},
        {"merge": [["a"]]},
        {"merge": [["a", "b"], ["b", "c"]]},
        {"keep_quality": ["good"]},
        {"leave": ["a"]},
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(recipe: dict) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(recipe)


# -- weights ---------------------------------------------------------------------------------------


def test_weights_are_stored_only_where_a_recipe_gives_some(tmp_path: Path) -> None:
    episodes = [
        make_episode(i, quality=grade) for i, grade in enumerate(("better", "okay", "unknown"))
    ]
    normalizer = fit_normalizer(episodes)
    EpisodeStore.write(tmp_path / "none", episodes, normalizer)
    EpisodeStore.write(tmp_path / "empty", episodes, normalizer, weights={})
    assert durable.digest(tmp_path / "none") == durable.digest(tmp_path / "empty")
    assert "weights" not in read_json(tmp_path / "none" / "index.json")
    assert EpisodeStore.open(tmp_path / "none").weights.tolist() == [1, 1, 1]
    EpisodeStore.write(
        tmp_path / "some", episodes, normalizer, weights={"better": 2.0, "okay": 0.5}
    )
    assert EpisodeStore.open(tmp_path / "some").weights.tolist() == [2, 0.5, 1]


def test_a_written_file_survives_relabelling_by_recipe(tmp_path: Path) -> None:
    """An episode whose label alone is wrong is good again without a new recording (D21 is gone)."""
    with RobomimicWriter(tmp_path / "demos" / "a.hdf5", ENV_ARGS) as writer:
        writer.write(make_episode(0, success=False))
    assert said(read(tmp_path / "demos"), "D21")
    assert not said(read(tmp_path / "demos", success={"a/demo_0": True}), "D21")
