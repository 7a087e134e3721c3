from __future__ import annotations

import io
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.report import made
from zprl import durable
from zprl.errors import DataError
from zprl.report import figures, page, style, video_strip
from zprl.report.inputs import Sources

FILES = {
    "video.png",
    "paths.png",
    "learning_curves.png",
    "residuals.png",
    "robot_learning.png",
    "pretraining.png",
} | {
    "maps.png",
    "sweep.png",
    "traces.png",
}


def make(sources: Sources, title: str = "A title") -> page.Page:
    return page.make(sources, title=title, render=made.flat_render)


class Reader(HTMLParser):
    """Collects what a page refers to, its red sentences and all of its text."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.red: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self._red = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [
            value or ""
            for key, value in attrs
            if key in ("src", "srcset", "href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)
        if given.get("class") == "problem":
            self._red = True
            self.red.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # well nested
        if tag == "p":
            self._red = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._red:
            self.red[-1] += data


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill no pixels: for tests about which parts are there."""
    monkeypatch.setattr(style, "_png", lambda size, draw, theme: b"drawn")
    monkeypatch.setattr(video_strip, "WIDTH", 64)
    monkeypatch.setattr(video_strip, "HEIGHT", 48)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> page.Page:
    return make(made.all_results(tmp_path_factory.mktemp("results")))


def test_complete_page(complete: page.Page) -> None:
    reader = Reader(complete.html)
    text = " ".join(" ".join(reader.words).split())
    assert complete.problems == {} and reader.red == [] and reader.open == []
    assert set(complete.files) == FILES
    for words in (
        "A title",
        "60.0",
        "95.0",
        "Accepted",
        "12,345",
        "14 won, 0 lost",
        "it loses 25.0 points",
        "is 0.87 for embeddings and 1.23 for actions",
        "noise on the latent: 24 of 40 succeed",
        "E07 (1)",
        "versions.torch",
    ):
        assert words in text
    assert "posterior_std" not in text  # statistics are left to the bundle


def test_refers_to_nothing_outside(complete: page.Page) -> None:
    references = Reader(complete.html).references
    assert len(references) == 9 + 8  # nine images; all but the video also for dark screens
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    assert (
        "@import" not in complete.html
        and "url(" not in complete.html
        and "<script" not in complete.html
    )


def test_equal_results_give_equal_bytes(complete: page.Page, tmp_path: Path) -> None:
    again = make(made.all_results(tmp_path))
    assert again.html == complete.html and again.files == complete.files


def test_images_carry_no_metadata_that_changes(complete: page.Page) -> None:
    for data in complete.files.values():
        assert set(Image.open(io.BytesIO(data)).info) <= {"dpi"}


def test_digests_are_the_bundles(complete: page.Page, tmp_path: Path) -> None:
    sources = made.all_results(tmp_path)
    for path in sources.bundles().values():
        assert durable.digest(path) in complete.html


def test_fill_writes_page_and_figures(complete: page.Page, tmp_path: Path) -> None:
    complete.fill(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"report.html"}
    assert (tmp_path / "report.html").read_text() == complete.html


def test_nothing_at_all_still_makes_a_page(tmp_path: Path) -> None:
    found = make(Sources(tmp_path / "artifacts", tmp_path / "plots"))
    reader = Reader(found.html)
    assert found.files == {} and reader.open == []
    assert (
        len(reader.red) == len(found.problems) + 1
    )  # each at its place, and one sentence at the top
    assert "incomplete" in " ".join(reader.red)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("gone", "parts"),
    [
        ("artifacts/evaluation/action_residual", {"evaluation action_residual"}),
        (
            "artifacts/evaluation/finetune_sim",
            {"evaluation finetune_sim", "headline", "video", "paths"},
        ),
        ("artifacts/promotion.json", {"promotion"}),
        ("artifacts/transfer", {"transfer"}),
        ("artifacts/data_report", {"data"}),
        ("artifacts/steering/finetune_sim", {"bundle steering/finetune_sim"}),
        ("plots/pretrain.csv", {"pretraining"}),
        ("plots/finetune_sim.csv", {"curve finetune_sim"}),
    ],
)
def test_a_missing_result_is_named_in_red(tmp_path: Path, gone: str, parts: set[str]) -> None:
    sources = made.all_results(tmp_path)
    path = tmp_path / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    found = make(sources)
    assert set(found.problems) == parts
    red = Reader(found.html).red
    for part, sentence in found.problems.items():
        assert any(part in text and sentence in text for text in red)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("artifacts/promotion.json", "{", "promotion"),
        ("artifacts/promotion.json", '{"accept": true, "reasons": 3}', "promotion"),
        ("artifacts/data_report/summary.json", '{"episodes": 3}', "data"),
        ("artifacts/evaluation/embedding/evaluation.json", "{}", "evaluation embedding"),
        ("artifacts/base/bundle.json", "{}", "bundle base"),
        ("plots/pretrain.csv", "step,base_loss\n1,nan\n", "pretraining"),
    ],
)
def test_a_broken_result_is_named_in_red(tmp_path: Path, file: str, text: str, part: str) -> None:
    sources = made.all_results(tmp_path)
    (tmp_path / file).write_text(text)
    found = make(sources)
    assert set(found.problems) == {part}
    assert any(part in red for red in Reader(found.html).red)


@pytest.mark.usefixtures("quick")
def test_policies_judged_by_other_episodes_are_not_compared(tmp_path: Path) -> None:
    sources = made.all_results(tmp_path)
    made.evaluation("action_residual", seed=8).save(
        sources.artifacts / "evaluation" / "action_residual"
    )
    found = make(sources)
    assert set(found.problems) == {"comparison action_residual"}
    assert "not judged by the same episodes" in " ".join(Reader(found.html).red)


@pytest.mark.usefixtures("quick")
def test_a_failing_renderer_costs_only_the_video(tmp_path: Path) -> None:
    def broken(poses: dict[str, np.ndarray]) -> np.ndarray:
        raise RuntimeError("no such body")

    found = page.make(made.all_results(tmp_path), title="t", render=broken)
    assert set(found.problems) == {"video"} and set(found.files) == FILES - {"video.png"}


@pytest.mark.usefixtures("quick")
def test_strangers_text_is_escaped(tmp_path: Path) -> None:
    sources = made.all_results(tmp_path)
    durable.write_json(
        sources.artifacts / "promotion.json",
        {"accept": False, "reasons": ["<script>alert(1)</script>"]},
    )
    found = make(sources, title="<b>bold</b>")
    assert (
        "<script>" not in found.html
        and "&lt;script&gt;" in found.html
        and "<b>bold" not in found.html
    )
    assert "Refused" in found.html


def test_paths_need_positions() -> None:
    blind = made.evaluation("base")
    blind.tracks.pop("position")
    with pytest.raises(DataError, match="kept no end-effector positions"):
        figures.paths(blind, made.evaluation("finetune_sim"))


def test_curves_of_flat_zero_losses_are_drawn() -> None:
    curve = {
        "step": np.array([1.0, 2.0]),
        "base_loss": np.zeros(2),
        "kl": np.array([np.nan, np.nan]),
    }
    assert figures.pretraining(curve).light.startswith(b"\x89PNG")
