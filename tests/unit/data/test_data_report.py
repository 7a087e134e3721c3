"""The page: complete, self-contained, the same bytes again, and deaf to hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.factories import make_episode, make_episodes, read_json
from zprl import durable
from zprl.data.findings import Finding
from zprl.data.ingest import Ingested
from zprl.data.inspection import dataset_plots, report

EVIL = "<script>alert(1)</script>"


def result(*findings: Finding) -> Ingested:
    return Ingested(("data/a.hdf5",), tuple(make_episodes(5)), findings, ())


def test_files_and_bytes(tmp_path: Path) -> None:
    note = Finding("D14", "note", "", "never changes", "fixed")
    for name in ("one", "two"):
        report.write(tmp_path / name, result(note), make_episodes(5))
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "findings.json",
        "report.html",
        "summary.json",
    ]
    assert durable.digest(tmp_path / "one") == durable.digest(tmp_path / "two")
    assert read_json(tmp_path / "one" / "findings.json") == {
        "findings": [note.as_json()],
        "quarantine": [],
    }
    page = (tmp_path / "one" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page), "the page must load nothing"


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    finding = Finding("D18", "error", EVIL, EVIL, EVIL, EVIL)
    report.write(tmp_path / "r", replace(result(finding), files=(EVIL,)), [])
    page = (tmp_path / "r" / "report.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;" in page


def test_report_of_nothing(tmp_path: Path) -> None:
    summary = report.write(tmp_path / "r", Ingested((), (), (), ()), [])
    assert summary["episodes"] == 0
    assert "<img" not in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize("keys", [("robot0_gripper_qpos",), ("object",), ("robot0_eef_pos",)])
def test_plots_need_only_what_is_there(keys: tuple[str, ...]) -> None:
    episode = make_episode()
    plots = dataset_plots.draw([replace(episode, obs={key: episode.obs[key] for key in keys})])
    assert len(plots) == (2 if keys == ("robot0_gripper_qpos",) else 3)
    for plot in plots:
        assert plot.png.startswith(b"\x89PNG")
        assert b"tEXt" not in plot.png, "no version or date inside"
