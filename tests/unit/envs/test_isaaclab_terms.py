"""The file that says what an Isaac Lab task's terms mean: what is refused, and with which words.  No simulator is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from zprl.envs.isaac.isaaclab_terms import BUILT_IN, IsaacLabTerms, RewardAbove
from zprl.errors import ConfigError
from zprl.strict_yaml import MAX_BYTES

GOOD = "observations: {state: [a, b]}\naction_dim: 2\ncontrol_hz: 50\nsuccess: done\n"


def _load(path: Path, text: str | bytes) -> IsaacLabTerms:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return IsaacLabTerms.load("Some-Task", str(path))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    made = _load(tmp_path / "a.yaml", GOOD + "hold: [0.5, 1]\n")
    assert made.observations == {"state": ("a", "b")}
    assert (made.action_dim, made.control_hz, made.success, made.group, made.reward) == (
        2,
        50.0,
        "done",
        "policy",
        "success",
    )
    assert made.hold == (0.5, 1.0)
    reward = "{reward: lifted, above: 0.5, params: {minimal_height: 0.1}}"
    other = _load(tmp_path / "b.yaml", GOOD.replace("success: done", f"success: {reward}"))
    assert other.success == RewardAbove(reward="lifted", above=0.5, params={"minimal_height": 0.1})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD + "actoin: 1\n", "actoin"),
        (GOOD.replace("action_dim: 2", "action_dim: 0"), "action_dim"),
        (GOOD.replace("{state: [a, b]}", "{}"), "observations"),
        (GOOD + "hold: [1]\n", "hold has 1 numbers, action_dim is 2"),
        (GOOD + "hold: [.nan\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        ("- 1\n", "dictionary|IsaacLabTerms"),
        (b"#" * (MAX_BYTES + 1), "longer than"),
    ],
    ids=[
        "unknown-key",
        "no-action",
        "no-observation",
        "hold-too-short",
        "no-yaml",
        "no-text",
        "a-list",
        "too-large",
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        _load(tmp_path / "terms.yaml", text)
    assert "terms.yaml" in caught.value.message
    assert caught.value.remedy


def test_a_task_without_a_file_is_told_where_to_look() -> None:
    with pytest.raises(
        ConfigError, match="nothing says what the terms of Some-Task mean"
    ) as caught:
        IsaacLabTerms.load("Some-Task", None)
    assert str(BUILT_IN) in str(caught.value.remedy)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        IsaacLabTerms.load("Some-Task", "nowhere.yaml")


@pytest.mark.parametrize("path", sorted(BUILT_IN.glob("*.yaml")), ids=lambda path: path.stem)
def test_built_in_files_are_found_by_the_task_id(path: Path) -> None:
    assert (
        IsaacLabTerms.load(path.stem, None)
        == IsaacLabTerms.load("mine:" + path.stem, None)
        == IsaacLabTerms.load("x", str(path))
    )
