"""Templates of the pages: figures embedded in HTML, everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import jinja2

from zprl.report.style import PageFigure


def embedded(figure: PageFigure) -> dict[str, str]:
    """Return a figure's texts and its images as data addresses.

    ``dark`` is empty where one image suits both backgrounds.
    """
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for data in (figure.light, figure.dark)
    )
    return {
        "title": figure.title,
        "caption": figure.caption,
        "light": light,
        "dark": "" if dark == light else dark,
    }


def fill(package: str, template: str, document: Mapping[str, Any]) -> str:
    """Fill a template of a package; it may include those of :mod:`zprl.report`.

    Args:
        package: Dotted name of the package that holds the template.
        template: Its file name.
        document: Variables of the template; a missing one raises.
    """
    loaders = [jinja2.PackageLoader(name, ".") for name in (package, "zprl.report")]
    # Texts come from suites and files of unknown origin: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(document) + "\n"
