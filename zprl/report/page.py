"""The page: its parts, figures and template.  Equal artifacts give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zprl import durable
from zprl.evaluation.result import Evaluation
from zprl.report import figures, latent_section, robot_section, tables, video_strip
from zprl.report.inputs import CANDIDATE, LEARNERS, POLICIES, REFERENCE, Curve, Parts, Sources
from zprl.report.page_template import embedded, fill
from zprl.report.style import DARK, LIGHT, PageFigure

HTML = "report.html"
TEMPLATE = "page.html.j2"
STRIP = video_strip.NAME
DATA_KEYS = ("episodes", "frames", "bad", "success_share", "by_quality", "findings")


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
    """Make the page of the available results.

    Args:
        sources: Results of the earlier stages.
        title: Heading.
        render: Draws a frame of the video strip.
    """
    parts = Parts()
    evaluations = _evaluations(parts, sources)
    curves = _curves(parts, sources)
    headline = parts.make("headline", lambda: tables.headline(evaluations))
    rows = [_row(parts, name, evaluations) for name in POLICIES]
    images = {
        key: image
        for key, image in _images(parts, sources, evaluations, curves, render).items()
        if image is not None
    }
    document = {
        "title": title,
        "headline": headline,
        "policies": rows,
        "images": {key: embedded(image) for key, image in images.items()},
        "promotion": parts.make("promotion", lambda: _promotion(sources)),
        "transfer": parts.make(
            "transfer", lambda: tables.transfer(sources.document("transfer/drop.json", "engines"))
        ),
        "robot": parts.make("robot", lambda: robot_section.part(sources)),
        "data": parts.make("data", lambda: _data(sources)),
        "provenance": {
            name: parts.make(f"bundle {name}", partial(tables.provenance, path))
            for name, path in sources.bundles().items()
        },
        "reference": REFERENCE,
        "candidate": CANDIDATE,
        "themes": {"light": LIGHT, "dark": DARK},
        "problems": parts.problems,
    }
    files = {f"{image.name}.png": image.light for image in images.values()}
    return Page(fill("zprl.report", TEMPLATE, document), files, parts.problems)


def _evaluations(parts: Parts, sources: Sources) -> dict[str, Evaluation]:
    made = {
        name: parts.make(f"evaluation {name}", partial(sources.evaluation, name))
        for name in POLICIES
    }
    return {name: evaluation for name, evaluation in made.items() if evaluation is not None}


def _curves(parts: Parts, sources: Sources) -> dict[str, Curve]:
    made = {
        name: parts.make(f"curve {name}", partial(sources.curve, file, *figures.LEARNING_COLUMNS))
        for name, file in LEARNERS.items()
    }
    return {name: curve for name, curve in made.items() if curve is not None}


def _row(parts: Parts, name: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return one policy's line; without an evaluation, its label and nothing else."""
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


def _images(
    parts: Parts,
    sources: Sources,
    evaluations: Mapping[str, Evaluation],
    curves: Mapping[str, Curve],
    render: video_strip.Render,
) -> dict[str, PageFigure | None]:
    """Draw all figures, by part; ``None`` where one could not be made."""
    images: dict[str, PageFigure | None] = {}
    if REFERENCE in evaluations and CANDIDATE in evaluations:
        both = evaluations[REFERENCE], evaluations[CANDIDATE]
        images[STRIP] = parts.make(STRIP, lambda: video_strip.strip(*both, render=render))
        images["paths"] = parts.make("paths", lambda: figures.paths(*both))
    else:
        problem = "the evaluations of base and finetune_sim are both needed for this image."
        parts.problems |= dict.fromkeys((STRIP, "paths"), problem)

    if curves:
        images["learning"] = parts.make("learning", lambda: figures.learning(curves, evaluations))
        images["residuals"] = parts.make("residuals", lambda: figures.residuals(curves))
    else:
        problem = "there is no learning curve to draw."
        parts.problems |= dict.fromkeys(("learning", "residuals"), problem)

    drawn_of_sources = {
        "maps": latent_section.maps,
        "sweep": latent_section.sweep,
        "traces": latent_section.traces,
        "robot learning": robot_section.learning,
        "pretraining": _pretraining,
    }
    for key, draw in drawn_of_sources.items():
        images[key] = parts.make(key, partial(draw, sources))
    return images


def _pretraining(sources: Sources) -> PageFigure:
    return figures.pretraining(sources.curve("pretrain.csv", "step", "base_loss"))


def _promotion(sources: Sources) -> dict[str, Any]:
    """Return the gate's decision, with the facts of both sides."""
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
    """Return the counts of the data report."""
    value = sources.document("data_report/summary.json", *DATA_KEYS)
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
