"""The walk over hand-made records, back and forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from zprl.data.episode_sources import EpisodeOrigin, EpisodeSources, SourceOrigin
from zprl.lineage.records import HERE, Records, RunRecord, VersionRecord
from zprl.lineage.tree_view import show
from zprl.lineage.walk import Graph, Here, Node, back, forward, run_back


def d(letter: str) -> str:
    """A digest."""
    return letter * 64


def at(minute: int) -> str:
    return f"2025-01-01T10:{minute:02d}:00+00:00"


def origins_of(*episodes: tuple[str, str, str], file: str = "f") -> EpisodeSources:
    """From (name, content, recorded content)."""
    rows = [
        EpisodeOrigin(
            name=n, source="data/x.hdf5", content=d(c), recorded_name=n, recorded_content=d(r)
        )
        for n, c, r in episodes
    ]
    source = SourceOrigin(sha256=d(file), reader="robomimic", obs_keys=("object",))
    return EpisodeSources(sources={"data/x.hdf5": source}, episodes=tuple(rows))


EPISODES, BASE, STEERING = "artifacts/episodes", "artifacts/base", "artifacts/steering/finetune_sim"
INGEST = RunRecord(
    "i1",
    "ingest",
    started=at(1),
    commit="abc",
    inputs={"data": d("9")},
    outputs={EPISODES: d("e")},
    params={"ingest.reader": "auto"},
)
PRETRAIN = RunRecord(
    "p1",
    "pretrain",
    started=at(2),
    commit="abc-dirty",
    inputs={EPISODES: d("e")},
    outputs={BASE: d("b")},
)
FINETUNE = RunRecord(
    "s1",
    "finetune_sim",
    started=at(3),
    inputs={BASE: d("b"), EPISODES: d("e")},
    outputs={STEERING: d("5")},
)
JUDGED = "artifacts/evaluation/base"
PROMOTE = RunRecord(
    "m1",
    "promote",
    started=at(4),
    inputs={BASE: d("b"), STEERING: d("5"), JUDGED: d("0")},
    note="accepted",
)
REPORT = RunRecord("r1", "report", started=at(5), inputs={BASE: d("b")})
VERSION = VersionRecord("zprl-lift", "3", ("champion",), "m1", inputs=PROMOTE.inputs)
RUNS = (INGEST, PRETRAIN, FINETUNE, PROMOTE, REPORT)
USED = origins_of(("x/demo_0", "1", "1"), ("x/demo_1", "2", "3"))


def records(*runs: RunRecord, origins: dict[str, EpisodeSources] | None = None) -> Records:
    known = {"i1": USED} if origins is None else origins
    return Records("hand-made", runs or RUNS, (VERSION,), lambda run: known.get(run.id))


def outline(node: Node) -> list:
    """Names only, as nested lists."""
    return [node.name, *map(outline, node.below)]


HERE_NOW = Here(
    lambda path, digest: "same bytes" if path == "data/x.hdf5" else "not here",
    lambda commit: f"md5 at {commit}",
)


# -- back ------------------------------------------------------------------------------------------


def test_a_steering_bundle_back_to_its_episodes() -> None:
    root = back(Graph(records()), "mine", {STEERING: d("5")}, HERE_NOW)
    source = ["data/x.hdf5", ["x/demo_0"], ["x/demo_1"]]
    assert outline(root) == ["mine", [STEERING, [BASE, [EPISODES, source]], [EPISODES]]]
    steering = root.below[0]
    assert steering.facts["made_by"] == {
        "stage": "finetune_sim",
        "run": "s1",
        "status": "FINISHED",
        "started": at(3),
    }
    base, again = steering.below
    assert (base.facts["made_by"]["commit"], again.facts["shown"]) == ("abc-dirty", "above")
    episodes = base.below[0]
    assert episodes.facts["data"] == {"sha256": d("9"), "dvc_md5": "md5 at abc"}
    assert episodes.facts["made_by"]["params"] == {"ingest.reader": "auto"}
    file = episodes.below[0]
    assert (file.facts["sha256"], file.facts["here"], file.facts["reader"]) == (
        d("f"),
        "same bytes",
        "robomimic",
    )
    assert file.below[0].facts == {"content": d("1")}
    assert file.below[1].facts == {
        "content": d("2"),
        "recorded_name": "x/demo_1",
        "recorded_content": d("3"),
    }


def test_what_nobody_made_is_a_leaf_and_comes_after_what_has_a_story() -> None:
    root = back(Graph(records()), "version", PROMOTE.inputs, HERE_NOW)
    assert [node.name for node in root.below] == [STEERING, BASE, JUDGED]
    assert root.below[1].facts["shown"] == "above"
    assert "made_by" not in root.below[2].facts


def test_a_run_back() -> None:
    root = run_back(Graph(records()), PRETRAIN, HERE_NOW)
    assert root.facts["outputs"] == {BASE: d("b")}
    assert outline(root)[1][0] == EPISODES
    assert outline(run_back(Graph(records()), INGEST, HERE_NOW))[1:] == [
        ["data"],
        ["data/x.hdf5", ["x/demo_0"], ["x/demo_1"]],
    ]


def test_the_newest_of_equal_runs_is_told_and_the_others_counted() -> None:
    rerun = replace(PRETRAIN, id="p2", started=at(9))
    failed = replace(PRETRAIN, id="p3", started=at(10), status="FAILED", outputs={})
    root = back(Graph(records(*RUNS, rerun, failed)), "mine", {BASE: d("b")}, HERE_NOW)
    made = root.below[0].facts["made_by"]
    assert (made["run"], made["reruns"]) == ("p2", 1)


def test_a_tracked_run_comes_before_what_a_bundle_says() -> None:
    said = RunRecord(
        "artifacts/base", "pretrain", HERE, inputs={EPISODES: d("e")}, outputs={BASE: d("b")}
    )
    graph = Graph(records(*RUNS, said))
    assert graph.maker(d("b")) is PRETRAIN
    assert Graph(records(INGEST, said)).maker(d("b")) is said


def test_bytes_that_were_copied_elsewhere_are_still_known() -> None:
    real = RunRecord(
        "t1",
        "finetune_real",
        inputs={"session": d("7"), "session/start/base": d("b")},
        outputs={"artifacts/steering/real": d("6")},
    )
    root = back(Graph(records(*RUNS, real)), "real", {"somewhere": d("6")}, HERE_NOW)
    assert outline(root)[1][:2] == [
        "somewhere",
        ["session/start/base", [EPISODES, ["data/x.hdf5", ["x/demo_0"], ["x/demo_1"]]]],
    ]


def test_ingest_without_sources_ends_there() -> None:
    root = back(Graph(records(origins={})), "mine", {EPISODES: d("e")}, HERE_NOW)
    assert outline(root) == ["mine", [EPISODES]]
    assert root.below[0].facts["made_by"]["run"] == "i1"


def test_runs_that_read_what_they_made_do_not_loop() -> None:
    one = RunRecord("a", "toy", inputs={"x": d("1")}, outputs={"y": d("2")})
    two = RunRecord("b", "toy", inputs={"y": d("2")}, outputs={"x": d("1")})
    graph = Graph(records(one, two, replace(INGEST, outputs={"x": d("1")})))
    back(graph, "loop", {"y": d("2")}, HERE_NOW)
    assert forward(graph, "loop", lambda *_: True).below


# -- forward ---------------------------------------------------------------------------------------


def content(letter: str):
    return lambda _, episode: d(letter) in (episode.content, episode.recorded_content)


def test_an_episode_forward_to_the_champion() -> None:
    root = forward(Graph(records()), "x/demo_1", content("3"))
    champion = "zprl-lift version 3 (champion)"
    assert outline(root) == [
        "x/demo_1",
        ["ingest", ["pretrain", ["finetune_sim", ["promote", [champion]]]]],
    ]
    (ingest,) = root.below
    assert ingest.facts["episodes"] == [
        {
            "content": d("2"),
            "recorded_name": "x/demo_1",
            "recorded_content": d("3"),
            "name": "x/demo_1",
            "source": "data/x.hdf5",
        }
    ]


def test_an_episode_that_was_left_out_reaches_nothing() -> None:
    assert forward(Graph(records()), "x/demo_2", content("8")).below == []


def test_every_policy_of_every_data_set_that_had_it() -> None:
    other = RunRecord("i2", "ingest", started=at(6), outputs={EPISODES: d("a")})
    wide = RunRecord(
        "p2", "pretrain", started=at(7), inputs={EPISODES: d("a")}, outputs={BASE: d("c")}
    )
    narrow = RunRecord(
        "p3", "pretrain", started=at(8), inputs={EPISODES: d("a")}, outputs={BASE: d("d")}
    )
    failed = RunRecord("p4", "pretrain", "FAILED", started=at(9), inputs={EPISODES: d("a")})
    refused = RunRecord("m2", "promote", started=at(9), inputs={BASE: d("d")}, note="refused")
    renamed = origins_of(("y/demo_7", "1", "1"), file="0")
    everything = records(
        *RUNS, other, wide, narrow, failed, refused, origins={"i1": USED, "i2": renamed}
    )
    root = forward(Graph(everything), "x/demo_0", content("1"))
    assert outline(root) == [
        "x/demo_0",
        ["ingest", ["pretrain"], ["pretrain", ["promote"]]],
        ["ingest", ["pretrain", ["finetune_sim", ["promote", ["zprl-lift version 3 (champion)"]]]]],
    ]
    assert [node.facts["episodes"][0]["name"] for node in root.below] == ["y/demo_7", "x/demo_0"]


# -- the page --------------------------------------------------------------------------------------


def printed(node: Node, **options) -> str:
    console = Console(width=200, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show(node, console, **options)
    return console.export_text()


def test_the_tree_says_what_matters() -> None:
    text = printed(
        back(Graph(records()), "mine", {STEERING: d("5")}, HERE_NOW), episodes=1, params=True
    )
    for words in (
        "made by finetune_sim run s1, 2025-01-01T10:03:00+00:00",
        "commit abc-dirty",
        "data.dvc: md5 md5 at abc",
        f"data/x.hdf5  {'f' * 12}  same bytes here",
        f"x/demo_0  content {'1' * 12}",
        "and 1 more episodes",
        "ingest.reader=auto",
        "(above)",
    ):
        assert words in text
    assert "x/demo_1" not in text
    text = printed(forward(Graph(records()), "x/demo_1", content("3")))
    assert f"finetune_sim run s1, {at(3)} → {STEERING} {'5' * 12}" in text
    assert "promote run m1, 2025-01-01T10:04:00+00:00, accepted" in text


@pytest.mark.parametrize("name", ["[red]x[/]", "[/]"])
def test_names_are_not_markup(name: str) -> None:
    assert name in printed(Node("target", name, below=[Node("artifact", name, {"sha256": d("1")})]))
