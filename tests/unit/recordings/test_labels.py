"""The file of labels: idempotent, correctable, and honest about damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zprl.errors import DataError
from zprl.recordings.labels import LabelFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    labels = LabelFile(tmp_path / "labels.jsonl", write=True)
    labels.append(1, "success", source="keyboard", nonce="a")
    labels.append(2, "failure", source="console", nonce="b")
    labels.append(1, "failure", source="keyboard", nonce="c")
    labels.append(3, "discard", source="pedal", nonce="d")
    labels.close()
    return tmp_path / "labels.jsonl"


def test_the_order_is_kept_and_a_correction_supersedes(path: Path) -> None:
    labels = LabelFile(path)
    assert [
        (line.seq, line.episode, line.label, line.supersedes) for line in labels.in_order()
    ] == [
        (1, 1, "success", None),
        (2, 2, "failure", None),
        (3, 1, "failure", 1),
        (4, 3, "discard", None),
    ]
    assert labels.current() == {1: "failure", 2: "failure", 3: "discard"}


def test_a_later_correction_supersedes_the_one_before(path: Path) -> None:
    labels = LabelFile(path, write=True)
    assert labels.append(1, "success", source="console", nonce="e").supersedes == 3
    assert LabelFile(path).current()[1] == "success"


def test_the_same_nonce_twice_is_one_input(path: Path) -> None:
    labels = LabelFile(path, write=True)
    before = path.read_bytes()
    again = labels.append(9, "success", source="console", nonce="b")
    assert (again.seq, again.episode, again.label) == (2, 2, "failure")
    assert path.read_bytes() == before
    assert labels.of_nonce("b") == again
    assert labels.of_nonce("z") is None


def test_a_line_is_one_json_object(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"seq", "episode", "label", "source", "nonce", "supersedes", "check"} == set(lines[0])
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]


def test_a_reader_sees_lines_as_they_come(path: Path) -> None:
    reader, writer = LabelFile(path), LabelFile(path, write=True)
    writer.append(4, "success", source="console", nonce="e")
    assert reader.in_order()[-1].episode == 4
    assert len(reader.in_order()) == 5


@pytest.mark.parametrize(
    ("label", "nonce"), [("great", "e"), ("success", ""), ("success", "x" * 201)]
)
def test_what_is_no_label_is_refused(path: Path, label: str, nonce: str) -> None:
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a label"):
        LabelFile(path, write=True).append(5, label, source="console", nonce=nonce)
    assert path.read_bytes() == before


def test_a_missing_file_of_labels_is_empty_and_a_reader_does_not_make_it(tmp_path: Path) -> None:
    labels = LabelFile(tmp_path / "labels.jsonl")
    assert (labels.in_order(), labels.torn, (tmp_path / "labels.jsonl").exists()) == (
        [],
        False,
        False,
    )
    with pytest.raises(RuntimeError):
        labels.append(1, "success", source="x", nonce="a")


def test_a_torn_last_line_is_cut_off_by_the_writer_and_by_nobody_else(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rindex(b'{"check"')
    path.write_bytes(whole[: last + 40])
    reader = LabelFile(path)
    assert (len(reader.in_order()), reader.torn) == (3, True)
    assert path.read_bytes() == whole[: last + 40]
    writer = LabelFile(path, write=True)
    assert path.read_bytes() == whole[:last]
    writer.append(3, "discard", source="pedal", nonce="d")
    assert path.read_bytes() == whole  # as if nothing had happened


def test_a_last_line_that_lacks_only_its_end_is_kept(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(LabelFile(path, write=True).in_order()) == 4
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_damaged_line_is_named(path: Path, number: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = (
        lines[number - 1]
        .replace("failure", "success")
        .replace("pedal", "nobody")
        .replace('"keyboard"', '"k"')
    )
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=rf"line {number} is damaged"):
        LabelFile(path)


def test_a_lost_and_a_moved_line_are_noticed(path: Path) -> None:
    first, second, third, fourth = path.read_text().splitlines(keepends=True)
    for lines, number in (
        ((first, third, fourth), 2),
        ((second, first), 1),
        ((first, first), 2),
        ((first, "\n", second), 2),
    ):
        path.write_text("".join(lines))
        with pytest.raises(DataError, match=rf"line {number} is damaged"):
            LabelFile(path)
