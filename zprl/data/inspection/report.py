"""Folder ``data_report``: one self-contained page, the findings and the counts.  Equal input gives equal bytes."""

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
"""Findings listed on the page; findings.json has all."""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Demonstrations</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; }
 h1 { margin-bottom: .2rem } h2 { margin-top: 2.2rem } .lead { color: #55616f; margin-top: 0 }
 .cards { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none }
 .cards li { background: #f1f4f8; border-radius: .6rem; padding: .6rem 1.1rem; min-width: 6.5rem }
 .cards b { display: block; font-size: 1.5rem } table { border-collapse: collapse; width: 100% }
 th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #dde3ea; vertical-align: top }
 td.number { text-align: right; font-variant-numeric: tabular-nums }
 .error { color: #b3261e } .warning { color: #8a5a00 } .note { color: #55616f } img { max-width: 100% }
 figure { margin: 1rem 0 } figcaption { color: #55616f }
</style></head><body>
<h1>Demonstrations</h1>
<p class="lead">{{ summary.files }} file{{ "" if summary.files == 1 else "s" }}: {{ files | join(", ") }}</p>
<ul class="cards">
 <li><b>{{ summary.episodes }}</b>episodes used</li><li><b>{{ summary.frames }}</b>frames</li>
 <li><b>{{ "%.0f%%" | format(100 * summary.success_share) }}</b>success</li>
 <li><b>{{ summary.length_min }}&ndash;{{ summary.length_max }}</b>frames per episode</li>
 <li><b class="{{ 'error' if summary.bad else '' }}">{{ summary.bad }}</b>in quarantine</li>
</ul>
{% if summary.by_quality %}<h2>By quality</h2>
<table><tr><th>quality</th><th>episodes</th><th>frames</th><th>success</th></tr>
{% for quality, row in summary.by_quality.items() %}<tr><td>{{ quality }}</td><td class="number">{{ row.episodes }}</td>
<td class="number">{{ row.frames }}</td><td class="number">{{ "%.0f%%" | format(100 * row.success_share) }}</td></tr>
{% endfor %}</table>{% endif %}
{% if facts %}<h2>Sources</h2>
<table><tr><th>source</th><th>what it says of itself, and what was converted</th></tr>
{% for file, said in facts.items() %}<tr><td>{{ file }}</td><td>
{% for name, text in said.items() %}{{ name }}: {{ text }}<br>{% endfor %}</td></tr>
{% endfor %}</table>{% endif %}
<h2>Findings</h2>
{% if findings %}<table><tr><th>code</th><th>where</th><th>what</th><th>remedy</th></tr>
{% for finding in findings[:shown] %}<tr><td class="{{ finding.severity }}" title="{{ codes[finding.code] }}">{{ finding.code }}
{{ finding.severity }}</td><td>{{ finding.where }}</td><td>{{ finding.message }}</td><td>{{ finding.remedy }}</td></tr>
{% endfor %}</table>{% if findings | length > shown %}<p>{{ findings | length - shown }} more stand in findings.json.</p>{% endif %}
{% else %}<p>None: every episode passed every check.</p>{% endif %}
{% if pictures %}<h2>Pictures</h2>{% endif %}
{% for picture in pictures %}<figure><img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}</body></html>
"""


def write(path: Path | str, result: Ingested, used: Sequence[Episode]) -> dict[str, Any]:
    """Replace the folder ``path`` with ``report.html``, ``findings.json`` and ``summary.json``; returns the summary."""
    summary = summarise(result, used)
    pictures = [
        {"title": plot.title, "caption": plot.caption, "data": base64.b64encode(plot.png).decode()}
        for plot in dataset_plots.draw(used)
    ]
    # Names and messages come from strangers' files: everything is escaped.
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE
    )
    order = {"error": 0, "warning": 1, "note": 2}
    page = template.render(
        summary=summary,
        files=result.files if len(result.files) <= 10 else [*result.files[:10], "..."],
        findings=sorted(result.findings, key=lambda finding: order[finding.severity]),
        codes=CODES,
        facts={file: said for file, said in list(result.facts.items())[:SHOWN] if said},
        pictures=pictures,
        shown=SHOWN,
    )

    def fill(folder: Path) -> None:
        durable.write_text(folder / "report.html", page)
        durable.write_json(
            folder / "findings.json",
            {
                "findings": [finding.as_json() for finding in result.findings],
                "quarantine": list(result.quarantine),
            },
        )
        durable.write_json(folder / "summary.json", summary)

    durable.write_dir(path, fill)
    return summary
