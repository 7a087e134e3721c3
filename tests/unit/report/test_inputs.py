from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zprl.errors import DataError
from zprl.report.inputs import Parts, Sources, read_curve


def test_curve_columns_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("step,loss\n1,0.5\n2,\n")
    curve = read_curve(path, "step", "loss")
    np.testing.assert_array_equal(curve["step"], [1, 2])
    np.testing.assert_array_equal(curve["loss"], [0.5, np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("", "has no rows"),
        ("step,loss\n", "has no rows"),
        ("step\n1\n", "lacks the columns loss"),
        ("step,loss\n1,high\n", "not a number"),
        ("step,loss\n1\n", "ends early"),
        ("step,loss\n1,2,3\n", "not a number"),
    ],
)
def test_broken_curves(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "c.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_curve(path, "step", "loss")


def test_curve_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"step\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a CSV file"):
        read_curve(tmp_path / "c.csv", "step")


@pytest.mark.parametrize("text", ["[]", '{"accept": true}'])
def test_documents_that_lack_something(tmp_path: Path, text: str) -> None:
    (tmp_path / "promotion.json").write_text(text)
    with pytest.raises(DataError, match="lacks"):
        Sources(tmp_path, tmp_path).document("promotion.json", "accept", "reasons")


def test_parts_note_what_failed() -> None:
    parts = Parts()

    def expected() -> int:
        raise DataError("the file is torn", remedy="make it again")

    assert parts.make("good", lambda: 3) == 3
    assert parts.make("torn", expected) is None
    assert parts.make("bug", lambda: 1 / 0) is None
    assert parts.problems == {
        "torn": "the file is torn - make it again",
        "bug": "this part could not be made: ZeroDivisionError: division by zero",
    }
