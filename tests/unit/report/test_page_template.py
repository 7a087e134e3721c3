"""Templates of pages: texts are escaped, figures embedded, missing variables refused."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2
import pytest

from zprl.report import page_template
from zprl.report.page_template import embedded, fill
from zprl.report.style import PageFigure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a template of its own that includes the report's style."""
    folder = tmp_path / "made_pages"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "page.html.j2").write_text("{% if title %}\n<h1>{{ title }}</h1>\n{% endif %}")
    (folder / "styled.html.j2").write_text('{% include "style.css.j2" %}')
    monkeypatch.syspath_prepend(tmp_path)
    return "made_pages"


def test_texts_of_unknown_origin_are_escaped(package: str) -> None:
    text = fill(package, "page.html.j2", {"title": "<script>'a' & \"b\""})
    assert text == "<h1>&lt;script&gt;&#39;a&#39; &amp; &#34;b&#34;</h1>\n\n"


def test_a_missing_variable_is_a_mistake(package: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        fill(package, "page.html.j2", {})


def test_the_report_s_style_can_be_included(package: str) -> None:
    style = Path(page_template.__file__).with_name("style.css.j2").read_text()
    assert fill(package, "styled.html.j2", {}).split() == style.split()


def test_a_figure_is_embedded_for_both_backgrounds() -> None:
    figure = PageFigure("curves", "Learning", "What to see.", light=b"light", dark=b"dark")
    values = embedded(figure)
    assert (values["title"], values["caption"]) == ("Learning", "What to see.")
    for theme in ("light", "dark"):
        head, data = values[theme].split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == theme.encode()


def test_one_image_for_both_backgrounds_is_embedded_once() -> None:
    assert embedded(PageFigure("strip", "t", "c", light=b"one", dark=b"one"))["dark"] == ""
