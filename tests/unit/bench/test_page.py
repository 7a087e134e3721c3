"""The page of whole suites, of parts, of one seed, and of suites without a rival."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.bench import made
from zprl.bench import claims as bench_claims
from zprl.bench import figures, page, statistics, suite
from zprl.bench.statistics import OURS
from zprl.errors import DataError
from zprl.report import style

THIN = "\N{NARROW NO-BREAK SPACE}"


class Reader(HTMLParser):
    """Collects what a page refers to, its headings and its text; refuses badly nested tags."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or ""
            for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 40)
    monkeypatch.setattr(statistics, "DRAWS", 200)


def read(**parts: object) -> Reader:
    return Reader(page.html(*made.suite(**parts)))  # type: ignore[arg-type]


def test_a_whole_suite_has_every_part() -> None:
    found = read()
    parts = (
        "What it shows",
        "Final success",
        "Learning",
        "All tasks together",
        "Environment steps to a success",
        "While learning",
        "Smoothness",
        "Cost",
    )
    facts = (
        "Methods and their tuning",
        "How to make it again",
        "zprl bench made -j 2",
        "40091bc",
        "a863b96",
        "2 x EPYC",
    )
    for part in parts + facts:
        assert part in found.text, part
    for label, *_ in made.RIVALS.values():
        assert label in found.text
    assert "3 seeds, 300 episodes each" in found.text
    assert "Not finished" not in found.text
    assert "What is missing" not in found.text
    assert "% one seed" not in found.text


def test_the_page_refers_to_nothing_but_the_table_beside_it(tmp_path: Path) -> None:
    points, facts, info = made.suite(done=0.5)
    page.write(tmp_path / "made.html", points, facts, info)
    text = (tmp_path / "made.html").read_text()
    found = Reader(text)
    assert "<script" not in text
    named = [
        reference
        for reference in found.references
        if not reference.startswith("data:image/png;base64,")
    ]
    assert sorted(named) == ["#missing", "made.csv"]
    page.write(tmp_path / "again.html", points[::-1], facts[::-1], info)
    assert (tmp_path / "again.html").read_text() == text, (
        "the same rows give the same bytes, whatever their order"
    )


def test_verdicts_stand_first_with_their_numbers() -> None:
    found = read()
    claims = bench_claims.claims(
        made.suite()[0],
        {m: v[1] for m, v in made.RIVALS.items()},
        {m: v[0] for m, v in made.RIVALS.items()},
    )
    assert len(claims) == 6
    for verdict in page.VERDICTS:
        count = sum(claim.verdict == verdict for claim in claims)
        assert f" {count} of 6 claims {verdict}" in found.text
    assert all(
        part.replace(THIN, " ") in found.text for claim in claims for part in claim.text.split("; ")
    )
    assert found.text.index("claims held") < found.text.index("Final success")


def test_a_rival_that_wins_is_said_to_win() -> None:
    methods = {"zprl": ("ZPRL", "latent", 0.6, 0.9), "pd": ("Policy Decorator", "action", 1.0, 0.1)}
    found = read(methods=methods)
    assert "6 of 6 claims not held" in found.text
    assert "clearly better than ZPRL: Policy Decorator" in found.text


def test_part_of_a_suite_says_what_is_missing_and_decides_nothing() -> None:
    found = read(done=0.4)
    assert "Not finished. 59 runs are missing" in found.text
    assert "6 of 6 claims undecided" in found.text
    assert "so far: ZPRL" in found.text
    missing = found.text[found.text.index("What is missing") :]
    for label, *_ in made.RIVALS.values():
        assert label in missing
    assert (
        "metaworld/box-close-v3 Embedding residual 2" in missing
        or "Embedding residual 1, 2" in missing
    )


def test_methods_without_a_run_on_every_task_are_not_put_together() -> None:
    points, facts, info = made.suite(seeds=(0, 1), done=1.0)
    gone = [p for p in points if (p.task, p.method) != ("robosuite/lift", "dsrl")]
    text = Reader(page.html(gone, facts, info)).text
    assert "Not on every task yet, so not here: DSRL." in text
    assert "not done" in text


def test_one_task_and_one_seed_has_no_intervals() -> None:
    found = read(tasks=("robosuite/lift",), seeds=(0,))
    assert found.text.count("% one seed") >= len(made.RIVALS) + 1, (
        "in every row of the table of final success"
    )
    assert not re.search(r"\d to \d+\.\d %", found.text)
    assert "2 of 2 claims undecided" in found.text
    assert "All runs together" in found.text


def test_an_ablation_claims_nothing() -> None:
    found = read(methods=made.VARIANTS)
    assert "Nothing is claimed here" in found.text
    assert "claims held" not in found.text
    assert "probability of improvement" in found.text.lower()


@pytest.mark.parametrize("done", [0.0, 0.001, 0.02])
def test_the_first_results_make_a_page_too(done: float) -> None:
    found = read(done=done)
    assert "runs are missing" in found.text
    assert ("Nothing is done yet." in found.text) == (done == 0)


def test_texts_of_strangers_are_escaped() -> None:
    points, facts, info = made.suite(methods=made.VARIANTS, seeds=(0,))
    info = dataclasses.replace(
        info,
        title="<b>&",
        methods={
            m: dataclasses.replace(i, tuning="<script>1</script>") for m, i in info.methods.items()
        },
    )
    text = page.html(points, facts, info)
    assert "<script" not in text
    assert "&lt;b&gt;&amp;" in text


# -- figures ---------------------------------------------------------------------------------------


def test_curves_are_the_same_bytes_again_and_land_in_a_file(tmp_path: Path) -> None:
    points, _, info = made.suite(seeds=(0, 1))
    labels, spaces = (
        {name: getattr(method, part) for name, method in info.methods.items()}
        for part in ("label", "space")
    )
    drawn = figures.curves(points, labels, spaces)
    assert figures.curves(points[::-1], labels, spaces) == drawn
    assert drawn.light != drawn.dark
    figures.save(drawn, tmp_path / "made.png")
    with Image.open(io.BytesIO((tmp_path / "made.png").read_bytes())) as image:
        assert image.width > image.height / 2
        assert image.mode == "P" and not image.info, "a palette, and no metadata"
    with pytest.raises(DataError, match="no results"):
        figures.curves([], labels, spaces)


def test_a_method_keeps_its_look_and_no_two_look_alike() -> None:
    names = {f"m{n}": "action" for n in range(30)}
    found = figures.looks({"dsrl": "noise", "zprl": "latent", **names})
    assert [name for name, look in found.items() if look.light == figures.COLOURS[0]] == ["zprl"]
    assert [name for name, look in found.items() if look.marker == "o"] == ["zprl", "base"]
    assert len({(look.light, look.marker) for look in found.values()}) == len(found)
    assert all(look.marker in figures.MARKS for look in found.values())


def test_of_every_shipped_suite_no_two_methods_of_a_diagram_share_a_colour() -> None:
    for name in suite.names():
        spaces = {key: method.space for key, method in suite.load(name).chosen().items()}
        look = figures.looks(spaces)
        for shown in figures.groups(list(spaces), spaces).values():
            assert len({look[method].light for method in shown}) == len(shown), name


def test_many_methods_are_drawn_by_where_they_act_with_ours_in_every_group() -> None:
    spaces = {method: space for method, (_, space, *_) in made.RIVALS.items()}
    assert figures.groups(list(spaces), spaces) == {
        "On the latent": ["zprl", "zprl_best_of"],
        "On actions": ["zprl", "policy_decorator", "action_residual", "action_demos"],
        "On the flow noise and on the embedding": ["zprl", "dsrl", "dsrl_na", "embedding"],
        "On the policy's weights": ["zprl", "dppo", "reinflow"],
    }


def test_few_methods_or_those_of_one_kind_stay_in_one_diagram() -> None:
    spaces = {method: space for method, (_, space, *_) in made.RIVALS.items()}
    few = list(spaces)[: figures.CROWD]
    assert figures.groups(few, spaces) == {"": few}
    variants = {f"v{n}": "latent" for n in range(12)}
    assert figures.groups(list(variants), variants) == {"": list(variants)}


def test_a_group_in_which_ours_alone_is_done_is_not_drawn() -> None:
    spaces = {"zprl": "latent", **{f"a{n}": "action" for n in range(9)}}
    assert list(figures.groups(list(spaces), spaces)) == ["On actions"]


def _seen(colour: str, eye: list[list[float]]) -> list[float]:
    """CIE L*a*b* (D65) of a colour as an eye sees it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    linear = [
        min(max(sum(w * c for w, c in zip(row, linear, strict=True)), 0.0), 1.0) for row in eye
    ]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [
        sum(w * c for w, c in zip(row, linear, strict=True)) / n
        for row, n in zip(to_xyz, (0.9505, 1.0, 1.089), strict=True)
    ]
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0, over linear RGB.
EYES = {
    "normal": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(("theme", "apart"), [("light", 13), ("dark", 11)])
def test_colours_are_apart_to_every_eye(eye: str, theme: str, apart: float) -> None:
    spaces = dict.fromkeys([OURS, *map(str, range(1, len(figures.COLOURS)))], "latent")
    seen = [_seen(getattr(look, theme), EYES[eye]) for look in figures.looks(spaces).values()]
    nearest = min(
        sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5
        for n, x in enumerate(seen)
        for y in seen[:n]
    )
    assert nearest > apart
