"""Documents that say two things at once: a key given twice, keys that are equal once read, numbers that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zprl import durable, strict_yaml
from zprl.errors import ConfigError, DataError, ZprlError
from zprl.robot.limits import Limits
from zprl.session import bus
from zprl.tracking.file_tracker import TrackedReplay


@pytest.mark.parametrize(
    "keys",
    [
        ("1", "0x1"),
        ("1", "1.0"),
        ("1", "0b1"),
        ("yes", "true"),
        ("on", "yes"),
        ("~", "null"),
        ("2026-01-01", "2026-1-1"),
        ("1", "one"),
    ],
)
def test_keys_that_yaml_reads_as_something_else_than_text(keys: tuple[str, str]) -> None:
    for aliases in (False, True):
        with pytest.raises(ConfigError, match="quote it"):
            strict_yaml.parse(
                "\n".join(f"{key}: {at}" for at, key in enumerate(keys)), "it", aliases=aliases
            )


def test_quoted_keys_are_text_and_still_given_once() -> None:
    assert strict_yaml.parse("'1': a\n\"0x1\": b\n'yes': c\ntrue_: d\n", "it") == {
        "1": "a",
        "0x1": "b",
        "yes": "c",
        "true_": "d",
    }
    with pytest.raises(ConfigError, match="given twice"):
        strict_yaml.parse("'1': a\n\"1\": b\n", "it")
    merged = "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n"
    assert strict_yaml.parse(merged, "it", aliases=True)["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    "text", ['a: "' + "€" * 40 + '"', '["' + "€" * 40 + '"]'], ids=["yaml", "json"]
)
def test_limits_count_bytes_whatever_the_letters(text: str) -> None:
    parse = strict_yaml.parse if text.startswith("a") else durable.parse_json
    assert parse(text, "it", limit=len(text.encode()) + 200)
    for given in (text, text.encode()):
        with pytest.raises(ZprlError, match="longer than 100 bytes"):
            parse(given, "it", limit=100)


TWICE = ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "\\u0061": 2}]}']
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]


@pytest.mark.parametrize("text", [*TWICE, *(f'{{"a": [{word}]}}' for word in NO_NUMBERS)])
def test_json_that_says_two_things_or_no_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "it.json"
    path.write_text(text)
    readers = (
        lambda: durable.parse_json(text, "it"),
        lambda: durable.parse_json(text.encode(), "it"),
        lambda: durable.read_json(path),
        lambda: bus.decode(
            [b"state", f'{{"from": "driver", "arrays": [], "body": {text}}}'.encode()]
        ),
    )
    for reader in readers:
        with pytest.raises(DataError, match=r"given twice|not a finite number"):
            reader()


@pytest.mark.parametrize("word", NO_NUMBERS)
def test_others_may_write_nan_but_no_key_twice(word: str) -> None:
    assert abs(durable.parse_json(word, "it", allow_nan=True)) != 1.0
    with pytest.raises(DataError, match="given twice"):
        durable.parse_json(TWICE[0], "it", allow_nan=True)


def test_a_measurement_that_is_nan_still_reaches_the_tracker(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []

    class Tracker:
        def log(self, step: int, **values: float) -> None:
            told.append(values)

    path = tmp_path / "track.jsonl"
    path.write_text(json.dumps({"points": [["loss", float("nan"), 3, 0.0]]}) + "\n")
    assert TrackedReplay(path, Tracker()).forward() == 1
    assert [set(values) for values in told] == [{"loss"}]


def test_limits_of_a_robot_say_each_thing_once(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("arms:\n  yes: {}\n  true: {}\n")
    with pytest.raises(ConfigError, match="quote it"):
        Limits.load(path)
