"""The page: numbers in words, tables and pictures, in one file that needs nothing else.  Equal artifacts give equal bytes."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from zprl import durable
from zprl.report import figures, film
from zprl.report.material import POLICIES, STAGES, Material
from zprl.report.style import THEMES

PAGE = "report.html"
LEARNED = ("task", "seed", "env_steps", "chunk_steps", "updates")
NOTHING = "n/a"
FILM = "film-"


def write(path: Path | str, material: Material, *, title: str) -> None:
    """Replace the folder ``path`` with ``report.html`` and the figures as PNG files."""
    pictures = _pictures(material)
    page = page_of(material, title=title, pictures=pictures)

    def fill(folder: Path) -> None:
        durable.write_text(folder / PAGE, page)
        for name, versions in pictures.items():
            for theme, data in versions["png"].items():
                durable.write_bytes(folder / f"{name}{'' if theme == 'light' else '-' + theme}.png", data)

    durable.write_dir(path, fill)


def _pictures(material: Material) -> dict[str, dict[str, Any]]:
    """Name to caption and PNG per theme; what cannot be drawn is left out here and named on the page."""
    found: dict[str, dict[str, Any]] = {}
    for kind in figures.KINDS.values():
        drawn = {theme.name: figures.draw(kind, material, theme) for theme in THEMES}
        if None not in drawn.values():
            found[kind.name] = {"caption": kind.caption, "png": drawn}
    for strip in film.strips(material):
        found[f"{FILM}{strip.episode:03d}"] = {"caption": strip.caption, "png": {theme.name: film.draw(strip, theme) for theme in THEMES}}
    return found


def page_of(material: Material, *, title: str, pictures: dict[str, dict[str, Any]]) -> str:
    """The page as text."""
    embedded = {
        name: {"caption": value["caption"], **{theme: _data_uri(data, photo=name.startswith(FILM)) for theme, data in value["png"].items()}}
        for name, value in pictures.items()
    }
    # Titles, reasons and names may come from strangers' files: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zprl.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_number, percent=_percent)
    return environment.get_template("report.html.j2").render(
        title=title,
        figures=embedded,
        films=[name for name in embedded if name.startswith(FILM)],
        rows=_rows(material),
        verdict=_verdict(material),
        cards=_cards(material),
        promotion=material.promotion,
        data=material.data,
        problems=material.problems,
        provenance=_provenance(material),
    )


def _rows(material: Material) -> list[dict[str, Any]]:
    """The table: one row per policy, missing ones included."""
    rows = []
    for policy, name in POLICIES.items():
        evaluation = material.evaluations.get(policy)
        row: dict[str, Any] = {"policy": policy, "name": name, "stage": STAGES[policy], "numbers": None, "paired": None}
        if evaluation is not None:
            row["numbers"] = evaluation.summary()
            row["paired"] = material.paired("base", policy) if policy != "base" else None
        rows.append(row)
    return rows


def _verdict(material: Material) -> str | None:
    """The page's first sentence."""
    base, latent = material.evaluations.get("base"), material.evaluations.get("latent")
    if base is None or latent is None:
        return None
    before, after = base.summary(), latent.summary()
    steps = _training_steps(material)
    cost = f" after {steps:,} environment steps in simulation" if steps else ""
    change = after["success_rate"] - before["success_rate"]
    verb = "raised" if change > 0 else "lowered" if change < 0 else "left"
    if not change:
        return f"Steering the latent left success at {before['success_rate']:.1%}{cost}."
    text = f"Steering the latent {verb} success from {before['success_rate']:.1%} to {after['success_rate']:.1%}{cost}"
    paired = material.paired("base", "latent")
    if paired is None:
        return f"{text}."
    won_lost = f"{paired.only_second} episodes won and {paired.only_first} lost out of {latent.episodes}"
    return f"{text}: {won_lost} (p {_p_value(paired.p_value)})."


def _cards(material: Material) -> list[dict[str, str]]:
    cards = []
    for policy in ("base", "latent"):
        evaluation = material.evaluations.get(policy)
        if evaluation is not None:
            n = evaluation.summary()
            interval = f"{n['ci_low']:.1%} to {n['ci_high']:.1%}, {n['episodes']} episodes"
            cards.append({"value": f"{n['success_rate']:.1%}", "label": f"{POLICIES[policy]}: success", "note": interval, "kind": policy})
    base, latent = material.evaluations.get("base"), material.evaluations.get("latent")
    if base is not None and latent is not None:
        before, after = base.summary(), latent.summary()
        seconds = [n["episode_length"] / e.control_hz for n, e in ((before, base), (after, latent))]
        cards.append({"value": f"{seconds[1]:.2f} s", "label": "Episode length", "note": f"base {seconds[0]:.2f} s", "kind": ""})
        if before["jerk_rms"] and after["jerk_rms"] is not None:
            ratio = after["jerk_rms"] / before["jerk_rms"]
            note = f"{after['jerk_rms']:.1f} against {before['jerk_rms']:.1f} m/s³"
            cards.append({"value": f"{ratio:.2f}x", "label": "Jerk, relative to base", "note": note, "kind": ""})
    steps = _training_steps(material)
    if steps:
        cards.append({"value": f"{steps:,}", "label": "Environment steps", "note": "of RL in simulation", "kind": ""})
    if material.promotion is not None:
        accepted = material.promotion.get("accept") is True
        value = "Passed" if accepted else "Refused"
        cards.append({"value": value, "label": "Gate", "note": "see below", "kind": "good" if accepted else "bad"})
    return cards


def _training_steps(material: Material) -> int | None:
    bundle = material.bundles.get("latent")
    steps = bundle.document.get("provenance", {}).get("env_steps") if bundle else None
    return steps if isinstance(steps, int) else None


def _provenance(material: Material) -> list[tuple[str, str]]:
    """What the results were made of; nothing in it depends on when or where."""
    rows: list[tuple[str, str]] = []
    versions: dict[str, str] = {}
    for policy, bundle in material.bundles.items():
        rows.append((f"Bundle: {POLICIES[policy]} (SHA-256)", bundle.digest))
        facts = bundle.document.get("provenance", {})
        rows += [(f"{POLICIES[policy]}: input {path}", str(digest)) for path, digest in sorted(facts.get("inputs", {}).items())]
        learned = [f"{key.replace('_', ' ')} {facts[key]}" for key in LEARNED if key in facts]
        if learned:
            rows.append((f"{POLICIES[policy]}: learned with", ", ".join(learned)))
        versions |= {str(k): str(v) for k, v in facts.get("versions", {}).items()}
    for policy, evaluation in material.evaluations.items():
        rows.append((f"{POLICIES[policy]}: evaluated in", f"{evaluation.task}, {evaluation.episodes} episodes, seed {evaluation.seed}"))
    if versions:
        rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))))
    return rows


def _data_uri(data: bytes, *, photo: bool) -> str:
    """The picture inside the page; rendered scenes as JPEG, a third of their PNG."""
    kind = "png"
    if photo:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "jpeg", quality=90, subsampling=0)
        kind, data = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _number(value: float | None, digits: int = 2, unit: float = 1.0) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value * unit:,.{digits}f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1%}"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.4f}"
