"""Summary of a pipeline run for people: rows of success and a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.stage_process import StageResult
from zprl import durable, strict_yaml

POLICIES = {"base": "base", "sim": "latent residual", "action_residual": "action residual"}
COLUMNS = (
    "success_rate",
    "ci_low",
    "ci_high",
    "episodes",
    "episode_length",
    "jerk_rms",
    "env_steps",
    "wall_s",
)


def data_digest(path: Path | str = "data.dvc") -> str | None:
    """Return the hash by which DVC knows the demonstrations; ``None`` where it knows none."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        return str(strict_yaml.load(path)["outs"][0]["md5"])
    except (LookupError, TypeError):
        return None


def success_rows(folder: Path | str = "metrics") -> list[dict[str, Any]]:
    """Return one row per judged policy, from ``metrics/*.json``.

    Policies that are not judged yet are left out.
    """
    rows = []
    for name in POLICIES:
        file = Path(folder) / f"{name}.json"
        if file.exists():
            values = durable.read_json(file)
            numbers = {column: values[column] for column in COLUMNS if column in values}
            rows.append({"policy": name, **numbers})
    return rows


def mlflow_link(run_id: str | None, uri: str) -> str:
    """Return the address of the run's page.

    It is on the tracking server, or on the one that ``zprl ui`` opens.
    """
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    return f"{base}/#/search-runs" if run_id is None else f"{base}/#/runs/{run_id}"


def markdown(
    results: Sequence[StageResult], rows: Sequence[dict[str, Any]], run_id: str | None
) -> str:
    """Return the page that Prefect shows."""
    from zprl.tracking.mlflow_tracker import tracking_uri

    lines = ["| stage | | seconds |", "|---|---|---|"]
    lines += [
        f"| {r.stage} | {'up to date' if r.skipped else 'ran'} | {r.seconds:.1f} |" for r in results
    ]
    if rows:
        lines += ["", "| policy | success | 95 % interval | episodes |", "|---|---|---|---|"]
        lines += [_policy_line(row) for row in rows]
    link = mlflow_link(run_id, tracking_uri())
    lines += ["", f"[This run in MLflow]({link}) (open the servers with `zprl ui`)"]
    if Path("artifacts/report").exists():
        lines.append("The report is `artifacts/report/`, and attached to the MLflow run.")
    return "\n".join(lines)


def _policy_line(row: dict[str, Any]) -> str:
    rate, low, high = (
        float(row.get(key, math.nan)) for key in ("success_rate", "ci_low", "ci_high")
    )
    episodes = row.get("episodes", "?")
    return f"| {POLICIES[row['policy']]} | {rate:.3f} | {low:.3f} to {high:.3f} | {episodes} |"
