"""What a pipeline run came to, for people: rows of success and a page of Markdown."""

from __future__ import annotations

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
    """Hash by which DVC knows the demonstrations."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        return str(strict_yaml.load(path)["outs"][0]["md5"])
    except (LookupError, TypeError):
        return None


def success_rows(folder: Path | str = "metrics") -> list[dict[str, Any]]:
    """One row per judged policy, from ``metrics/*.json``; policies not judged yet are left out."""
    rows = []
    for name in POLICIES:
        file = Path(folder) / f"{name}.json"
        if file.exists():
            values = durable.read_json(file)
            rows.append(
                {
                    "policy": name,
                    **{column: values[column] for column in COLUMNS if column in values},
                }
            )
    return rows


def mlflow_link(run_id: str | None, uri: str) -> str:
    """Where a person sees the run: the tracking server, or the one that ``zprl ui`` opens."""
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    return f"{base}/#/search-runs" if run_id is None else f"{base}/#/runs/{run_id}"


def markdown(
    results: Sequence[StageResult], rows: Sequence[dict[str, Any]], run_id: str | None
) -> str:
    """The page shown in Prefect."""
    from zprl.tracking.mlflow_tracker import tracking_uri

    lines = ["| stage | | seconds |", "|---|---|---|"]
    lines += [
        f"| {r.stage} | {'up to date' if r.skipped else 'ran'} | {r.seconds:.1f} |" for r in results
    ]
    if rows:
        lines += ["", "| policy | success | 95 % interval | episodes |", "|---|---|---|---|"]
        lines += [
            f"| {POLICIES[r['policy']]} | {r.get('success_rate', float('nan')):.3f} | "
            f"{r.get('ci_low', float('nan')):.3f} to {r.get('ci_high', float('nan')):.3f} | {r.get('episodes', '?')} |"
            for r in rows
        ]
    lines += [
        "",
        f"[This run in MLflow]({mlflow_link(run_id, tracking_uri())}) (open the servers with `zprl ui`)",
    ]
    if Path("artifacts/report").exists():
        lines.append("The report is `artifacts/report/`, and attached to the MLflow run.")
    return "\n".join(lines)
