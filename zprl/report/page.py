"""The page: gathers the parts, draws the figures, fills the template.  Equal artifacts give equal bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from zprl import durable
from zprl.evaluation.result import Evaluation
from zprl.report import figures, latent_section, robot_section, tables, video_strip
from zprl.report.inputs import CANDIDATE, LEARNERS, POLICIES, REFERENCE, Curve, Parts, Sources
from zprl.report.style import DARK, LIGHT, Figure

HTML = "report.html"
TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Page:
    """A finished page.

    Attributes:
        html: The page; it refers to nothing outside of itself.
        files: PNG bytes by file name.
        problems: Part to the sentence that stands there instead.
    """

    html: str
    files: dict[str, bytes]
    problems: dict[str, str]

    def fill(self, folder: Path) -> None:
        """Write everything into an empty folder."""
        durable.write_text(folder / HTML, self.html)
        for name, data in self.files.items():
            durable.write_bytes(folder / name, data)


def make(sources: Sources, *, title: str, render: video_strip.Render) -> Page:
    """Make the page of whatever there is.

    Args:
        sources: Results of the earlier stages.
        title: Heading.
        render: Draws a frame of the film.
    """
    parts = Parts()
    evaluations = _evaluations(parts, sources)
    curves = _curves(parts, sources)
    headline = parts.make("headline", lambda: tables.headline(evaluations))
    rows = [_row(parts, name, evaluations) for name in POLICIES]
    pictures = {
        key: value
        for key, value in _pictures(parts, sources, evaluations, curves, render).items()
        if value is not None
    }
    document = {
        "title": title,
        "headline": headline,
        "policies": rows,
        "pictures": {key: _embedded(value) for key, value in pictures.items()},
        "promotion": parts.make("promotion", lambda: _promotion(sources)),
        "transfer": parts.make(
            "transfer", lambda: tables.transfer(sources.document("transfer/drop.json", "engines"))
        ),
        "robot": parts.make("robot", lambda: robot_section.part(sources)),
        "data": parts.make("data", lambda: _data(sources)),
        "provenance": {
            name: parts.make(f"bundle {name}", lambda p=path: tables.provenance(p))
            for name, path in sources.bundles().items()
        },
        "reference": REFERENCE,
        "candidate": CANDIDATE,
        "themes": {"light": LIGHT, "dark": DARK},
        "problems": parts.problems,
    }
    files = {f"{picture.name}.png": picture.light for picture in pictures.values()}
    return Page(_fill(document), files, parts.problems)


def _evaluations(parts: Parts, sources: Sources) -> dict[str, Evaluation]:
    found = {
        name: parts.make(f"evaluation {name}", lambda n=name: sources.evaluation(n))
        for name in POLICIES
    }
    return {name: value for name, value in found.items() if value is not None}


def _curves(parts: Parts, sources: Sources) -> dict[str, Curve]:
    found = {
        name: parts.make(
            f"curve {name}", lambda f=file: sources.curve(f, *figures.LEARNING_COLUMNS)
        )
        for name, file in LEARNERS.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _row(parts: Parts, name: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """One policy's line; where there is no evaluation, its label and nothing else."""
    if name not in evaluations:
        return {
            "name": name,
            "label": POLICIES[name][0],
            "meaning": POLICIES[name][1],
            "rate": None,
        }
    pair = None
    if name != REFERENCE and REFERENCE in evaluations:
        pair = parts.make(
            f"comparison {name}", lambda: tables.compare(evaluations[REFERENCE], evaluations[name])
        )
    return tables.policy_row(name, evaluations[name], pair)


def _pictures(
    parts: Parts,
    sources: Sources,
    evaluations: Mapping[str, Evaluation],
    curves: Mapping[str, Curve],
    render: video_strip.Render,
) -> dict[str, Figure | None]:
    found: dict[str, Figure | None] = {}
    if REFERENCE in evaluations and CANDIDATE in evaluations:
        both = evaluations[REFERENCE], evaluations[CANDIDATE]
        found["film"] = parts.make("film", lambda: video_strip.strip(*both, render=render))
        found["paths"] = parts.make("paths", lambda: figures.paths(*both))
    else:
        parts.problems |= dict.fromkeys(
            ("film", "paths"),
            "the evaluations of base and latent are both needed for this picture.",
        )
    if curves:
        found["learning"] = parts.make("learning", lambda: figures.learning(curves, evaluations))
        found["residuals"] = parts.make("residuals", lambda: figures.residuals(curves))
    else:
        parts.problems |= dict.fromkeys(
            ("learning", "residuals"), "there is no learning curve to draw."
        )
    for key, draw in (
        ("maps", latent_section.maps),
        ("sweep", latent_section.sweep),
        ("traces", latent_section.traces),
    ):
        found[key] = parts.make(key, lambda d=draw: d(sources))
    found["robot learning"] = parts.make("robot learning", lambda: robot_section.learning(sources))
    found["pretraining"] = parts.make(
        "pretraining",
        lambda: figures.pretraining(sources.curve("pretrain.csv", "step", "base_loss")),
    )
    return found


def _promotion(sources: Sources) -> dict[str, Any]:
    value = sources.document("promotion.json", "accept", "reasons")
    sides = [
        tables.flat(value[side])
        for side in ("candidate", "incumbent")
        if isinstance(value.get(side), dict)
    ]
    return {
        "accept": value["accept"] is True,
        "reasons": [str(reason) for reason in value["reasons"]],
        "sides": sides,
    }


def _data(sources: Sources) -> dict[str, Any]:
    value = sources.document(
        "data_report/summary.json",
        "episodes",
        "frames",
        "bad",
        "success_share",
        "by_quality",
        "findings",
    )
    cards = [
        (f"{int(value['episodes']):,}", "episodes used"),
        (f"{int(value['frames']):,}", "frames"),
        (tables.percent(float(value["success_share"])), "succeed"),
        (str(int(value["bad"])), "in quarantine"),
    ]
    findings = ", ".join(f"{code} ({number})" for code, number in value["findings"].items())
    qualities = ", ".join(
        f"{name}: {row['episodes']} episodes" for name, row in value["by_quality"].items()
    )
    return {"cards": cards, "findings": findings or "none", "qualities": qualities}


def _embedded(picture: Figure) -> dict[str, str]:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for data in (picture.light, picture.dark)
    )
    return {
        "title": picture.title,
        "caption": picture.caption,
        "light": light,
        "dark": "" if dark == light else dark,
    }


def _fill(document: Mapping[str, Any]) -> str:
    # Reasons and facts come from files that a stranger may have made: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zprl.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(document) + "\n"
