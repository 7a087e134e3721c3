from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.stages import report, stage
from tests.unit.report import made
from zprl.report import page, style

ROOT = Path(__file__).parents[3]


def test_inputs_are_those_of_the_graph() -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]["deps"]
    assert {path.as_posix() for path in report.INPUTS} == {
        dep for dep in deps if dep.startswith(("artifacts/", "plots/"))
    }


def test_stage_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    monkeypatch.setattr(report, "draw_scene", made.flat_render)
    monkeypatch.setattr(style, "_png", lambda size, draw, theme: b"drawn")
    made.all_results(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "artifacts" / "promotion.json").unlink()
    inputs = [path for path in report.INPUTS if path.exists()]
    assert len(inputs) == len(report.INPUTS) - 1
    stage.execute("report", report.report, sections=("report",), inputs=inputs)
    written = (tmp_path / "artifacts" / "report" / page.HTML).read_text()
    assert (
        "Lift cube with a Franka, in Isaac" in written
        and "promotion.json does not exist" in written
    )
    assert (tmp_path / "artifacts" / "report" / "video.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "missing on the page: promotion:" in said and "9 figures, missing parts: 1" in said


def test_a_real_image_of_the_scene() -> None:
    pose = [0.5, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0]
    image = report.draw_scene({"cube": pose, "panda_hand": [0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0]})
    assert image.shape == (240, 320, 3) and image.dtype == "uint8" and image.std() > 5
