"""What robomimic's files of each era say of themselves, believed with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.factories import make_episode, write_demo_file
from tests.fixed_reader import Fixed
from zprl.data.episode import Episode
from zprl.data.findings import Finding
from zprl.data.readers.env_args import EnvArgs, env_args
from zprl.data.readers.plausibility import doubt
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import find_sources
from zprl.errors import ConfigError

OSC = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05] * 3 + [0.5] * 3,
    "control_delta": True,
}
"""robosuite up to 1.4."""
ARM = {
    **{key: value for key, value in OSC.items() if key != "control_delta"},
    "input_type": "delta",
    "gripper": {"type": "GRIP"},
}
"""Of a composite controller, robosuite 1.5."""
BOUNDS = (-1.0, 1.0)


def said(**more: Any) -> dict[str, Any]:
    return {
        "env_name": "Lift",
        "type": 1,
        "env_kwargs": {"control_freq": 20, "controller_configs": OSC},
    } | more


def composite(**parts: Any) -> dict[str, Any]:
    return said(
        env_version="1.5.1",
        env_kwargs={
            "control_freq": 20,
            "controller_configs": {"type": "BASIC", "body_parts": parts},
        },
    )


def read(tmp_path: Path, value: Any, **attributes: Any) -> EnvArgs:
    with h5py.File(tmp_path / "args.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = value if isinstance(value, str) else json.dumps(value)
        data.attrs.update(attributes)
        return env_args(data)


ERAS = {
    "v0.1": (said(), EnvArgs("Lift", "robosuite", None, 20.0, ("OSC_POSE",), True, BOUNDS)),
    "v0.2": (
        said(env_version="1.2.0"),
        EnvArgs("Lift", "robosuite", "1.2.0", 20.0, ("OSC_POSE",), True, BOUNDS),
    ),
    "absolute": (
        said(
            env_version="1.4.1",
            env_kwargs={"control_freq": 20, "controller_configs": OSC | {"control_delta": False}},
        ),
        EnvArgs("Lift", "robosuite", "1.4.1", 20.0, ("OSC_POSE",), False, None),
    ),
    "two robots": (
        said(env_kwargs={"controller_configs": [OSC, OSC]}),
        EnvArgs("Lift", "robosuite", None, None, ("OSC_POSE", "OSC_POSE"), True, BOUNDS),
    ),
    "v1.5": (
        composite(right=ARM),
        EnvArgs("Lift", "robosuite", "1.5.1", 20.0, ("OSC_POSE",), True, BOUNDS),
    ),
    "v1.5, arms": (
        composite(
            arms={"right": ARM, "left": ARM},
            torso={"type": "JOINT_POSITION", "input_type": "absolute"},
        ),
        EnvArgs("Lift", "robosuite", "1.5.1", 20.0, ("OSC_POSE", "OSC_POSE"), True, BOUNDS),
    ),
    "v1.5, absolute": (
        composite(right=ARM | {"input_type": "absolute"}),
        EnvArgs("Lift", "robosuite", "1.5.1", 20.0, ("OSC_POSE",), False, None),
    ),
    "gym": ({"env_name": "Door", "type": 2, "env_kwargs": {}}, EnvArgs("Door")),
}


@pytest.mark.parametrize("era", ERAS)
def test_eras(tmp_path: Path, era: str) -> None:
    value, expected = ERAS[era]
    assert read(tmp_path, value) == expected


def test_version_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, said(), env_version="1.4.0").version == "1.4.0"
    assert (
        read(tmp_path, said(), repository_version="1.3.1").version == "1.3.1"
    )  # robosuite's own recordings


NONSENSE = {
    "no json": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "deep controllers": json.dumps(
        said(env_kwargs={"controller_configs": json.loads('{"a":' * 50 + "1" + "}" * 50)})
    ),
    "huge numbers": '{"type": 1, "env_kwargs": {"control_freq": 1e999, "controller_configs": '
    '{"type": "OSC_POSE", "control_delta": true, '
    f'"input_min": -{"9" * 400}, "input_max": NaN}}}}}}',
    "wrong types": json.dumps(
        said(
            env_name=[1],
            env_version={},
            env_kwargs={"control_freq": "20", "controller_configs": [1, None, "x"]},
        )
    ),
    "tiny steps": '{"sim_args": {"dt": 1e-320, "decimation": 1e-300}}',
    "true": json.dumps({"type": True, "env_kwargs": {"control_freq": True}}),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_says_nothing(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, NONSENSE[kind])
    assert (found.name, found.version, found.rate_hz, found.bounds) in (
        (None, None, None, None),
        ("Lift", None, None, None),
    )


def test_text_is_short_and_printable(tmp_path: Path) -> None:
    found = read(tmp_path, said(env_name="\x1b[31m" + "x" * 10_000))
    assert found.name is not None
    assert found.name.isprintable()
    assert len(found.name) == 100


def recorded(path: Path, value: Any, actions: np.ndarray | None = None) -> Path:
    """A good file whose env_args are ``value``; ``actions`` (40, A) become demo_0's."""
    write_demo_file(path, 1)
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps(value)
        if actions is not None:
            del file["data/demo_0/actions"]
            file["data/demo_0/actions"] = actions.astype(np.float32)
    return path


def test_facts_and_rate(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.hdf5", said(env_version="1.4.1"))
    with h5py.File(path, "a") as file:
        file["data/demo_0/actions_abs"] = np.ones((40, 10), np.float32)
    assert RobomimicReader().facts(path) == {
        "format": "robomimic",
        "environment": "Lift",
        "simulator": "robosuite",
        "simulator version": "1.4.1",
        "rate": "20 Hz",
        "controller": "OSC_POSE, actions are deltas",
        "other actions": "actions_abs are recorded too; ingest.actions chooses",
    }
    (episode,) = RobomimicReader().read(path)
    assert isinstance(episode, Episode)
    assert episode.rate_hz == 20
    np.testing.assert_array_equal(episode.actions, make_episode(0, 40).actions)
    (source,) = find_sources(tmp_path, actions="actions_abs")
    (episode,) = source.reader.read(path)
    assert isinstance(episode, Episode)
    assert (episode.actions == 1).all()
    (source,) = find_sources(tmp_path, actions="actions_other")
    (item,) = source.reader.read(path)
    assert isinstance(item, Finding)
    assert item.code == "D02"
    assert "actions_other is missing" in item.message


def test_masks_of_v01_do_no_harm(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.hdf5", said())
    with h5py.File(path, "a") as file:
        for name in ("train", "valid"):
            file.require_group("mask").create_dataset(name, data=np.array([b"demo_0"]))
    (episode,) = RobomimicReader().read(path)
    assert isinstance(episode, Episode)


def test_other_actions_are_not_asked_of_readers_that_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demo_file(tmp_path / "a.hdf5", 1)

    class One(Fixed):
        name, suffixes = "one", (".hdf5",)

        def __init__(self, *, obs_keys: object = None) -> None:
            super().__init__([])

    monkeypatch.setattr("zprl.data.sources.plugins.load", lambda group, name: One)
    assert len(find_sources(tmp_path, reader="one")) == 1
    with pytest.raises(ConfigError, match=r"reader one of .* knows one kind of actions"):
        find_sources(tmp_path, reader="one", actions="actions_abs")


# -- doubts: (declared, actions, dataset) to code --------------------------------------------------

DELTA = EnvArgs(controllers=("OSC_POSE",), delta=True, bounds=BOUNDS)
POSE = EnvArgs(controllers=("OSC_POSE",), delta=False)
SMALL = np.random.default_rng(0).uniform(-1, 1, (400, 7))
REAL = np.tile([0.4, 0.0, 0.9, 3.1, 0.1, 0.0, 1.0], (400, 1))
"""Absolute, of a tool that points down."""


def with_value(actions: np.ndarray, frames: slice, value: float) -> np.ndarray:
    actions = actions.copy()
    actions[frames, 2] = value
    return actions


@pytest.mark.parametrize(
    ("declared", "actions", "key", "code"),
    [
        (DELTA, SMALL, "actions", None),
        (DELTA, with_value(SMALL, slice(5, 6), 1.0005), "actions", None),
        (DELTA, with_value(SMALL, slice(5, 6), 1.5), "actions", "D06"),
        (DELTA, with_value(SMALL, slice(0, 200), -1.5), "actions", "D06"),  # half of the frames
        (DELTA, with_value(SMALL, slice(0, 201), -1.5), "actions", "D07"),  # most
        (DELTA, REAL, "actions", "D07"),
        (DELTA, REAL, "actions_abs", None),
        (DELTA, SMALL, "actions_abs", "D07"),
        (POSE, REAL, "actions", None),
        (POSE, SMALL, "actions", "D07"),
        (POSE, SMALL + 0.5, "actions", None),
        (POSE, with_value(SMALL, slice(5, 6), 1.5), "actions", None),
        (EnvArgs(), REAL, "actions", None),
        (EnvArgs(), SMALL, "actions", None),
        (DELTA, SMALL[:0], "actions", None),
        (DELTA, np.full((4, 7), np.nan), "actions", None),
    ],
)
def test_doubts(declared: EnvArgs, actions: np.ndarray, key: str, code: str | None) -> None:
    found = doubt(actions, declared, key)
    assert (found and found[0]) == code


def test_evidence() -> None:
    found = doubt(with_value(SMALL, slice(7, 9), -1.5), DELTA, "actions")
    assert found is not None
    assert (
        found[1] == "actions leave the declared bounds [-1, 1] in 2 of 400 frames, "
        "the worst is -1.500 in dimension 2"
    )
    assert found[3] == 7
