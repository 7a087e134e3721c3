"""The folder ``data_report``: one self-contained page, the findings and the counts.

Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from zprl import durable
from zprl.data.episode import Episode
from zprl.data.findings import CODES
from zprl.data.ingest import Ingested, summarise
from zprl.data.inspection import dataset_plots

SHOWN = 100
"""Findings and sources listed on the page; findings.json has all findings."""
SHOWN_FILES = 10
SEVERITIES = ("error", "warning", "note")

TEMPLATE = "report.html.j2"


def write(path: Path | str, result: Ingested, used: Sequence[Episode]) -> dict[str, Any]:
    """Replace the folder ``path`` and return the summary.

    It holds ``report.html``, ``findings.json`` and ``summary.json``.
    """
    summary = summarise(result, used)
    page = _page(result, used, summary)
    findings = {
        "findings": [finding.as_json() for finding in result.findings],
        "quarantine": list(result.quarantine),
    }

    def fill(folder: Path) -> None:
        durable.write_text(folder / "report.html", page)
        durable.write_json(folder / "findings.json", findings)
        durable.write_json(folder / "summary.json", summary)

    durable.write_dir(path, fill)
    return summary


def _page(result: Ingested, used: Sequence[Episode], summary: dict[str, Any]) -> str:
    images = [
        {"title": plot.title, "caption": plot.caption, "data": base64.b64encode(plot.png).decode()}
        for plot in dataset_plots.draw(used)
    ]
    # Names and messages come from foreign files: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zprl.data.inspection", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    files = result.files
    return environment.get_template(TEMPLATE).render(
        summary=summary,
        files=files if len(files) <= SHOWN_FILES else [*files[:SHOWN_FILES], "..."],
        findings=sorted(result.findings, key=lambda finding: SEVERITIES.index(finding.severity)),
        codes=CODES,
        facts={file: facts for file, facts in list(result.facts.items())[:SHOWN] if facts},
        images=images,
        shown=SHOWN,
    )
