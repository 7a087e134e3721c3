"""Broken files: one mutation of a good file per defect; each yields its code and its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.factories import ENV_ARGS, make_episode, make_episodes, write_demo_file
from zprl.data.episode import Episode
from zprl.data.findings import CODES, Finding
from zprl.data.ingest import Ingested, read_all
from zprl.data.readers.robomimic import RobomimicReader
from zprl.data.sources import find_sources
from zprl.data.validation import ValidationLimits
from zprl.data.writers.robomimic import RobomimicWriter

LIMITS = ValidationLimits(min_length=16)


def check(folder: Path, **reader: object) -> Ingested:
    return read_all(find_sources(folder, reader="robomimic", **reader), limits=LIMITS)


def loud(result: Ingested) -> list[Finding]:
    """Findings that are more than information."""
    return [finding for finding in result.findings if finding.severity != "note"]


def test_good_files_raise_no_alarm(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 20)
    write_demo_file(tmp_path / "sub" / "b.hdf5", 5, seed=50)
    result = check(tmp_path)
    assert loud(result) == []
    assert len(result.good) == 25
    assert result.quarantine == ()


# -- defects of the file: the mutation gets the open file ------------------------------------------


def _replace(file: h5py.File, path: str, **new: object) -> h5py.Dataset:
    del file[path]
    return file.create_dataset(path, **new)


def _external_link(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.ExternalLink("other.hdf5", "/secret")


def _soft_link(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.SoftLink("/data/demo_0/actions")


def _linked_demo(file: h5py.File) -> None:
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.ExternalLink("other.hdf5", "/data/demo_0")


def _external_storage(file: h5py.File) -> None:
    _replace(
        file, "data/demo_1/actions", shape=(41, 10), dtype="f4", external=[("raw.bin", 0, 41 * 40)]
    )


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((41, 10), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", shape=(41, 10))
    del file["data/demo_1/actions"]
    file.create_virtual_dataset("data/demo_1/actions", layout)


def _unknown_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((41, 10))
    plist.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, ())  # lz4, a plug-in HDF5 would have to load
    group = file["data/demo_1"]
    del group["actions"]
    h5py.h5d.create(
        group.id, b"actions", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((41, 10)), plist
    )


def _huge(file: h5py.File) -> None:
    _replace(file, "data/demo_1/actions", shape=(10**9, 1000), dtype="f4", chunks=(1000, 100))
    file["data/demo_1"].attrs["num_samples"] = 10**9


def _bomb(file: h5py.File) -> None:  # within the limit, but hardly anything is stored
    _replace(file, "data/demo_1/actions", shape=(10**7, 10), dtype="f4", chunks=(1000, 10))
    file["data/demo_1"].attrs["num_samples"] = 10**7


def _huge_chunk(file: h5py.File) -> None:
    _replace(
        file,
        "data/demo_1/actions",
        shape=(41, 10),
        dtype="f4",
        chunks=(10**8, 10),
        maxshape=(None, 10),
    )


def _bad_demo_name(file: h5py.File) -> None:
    file.move("data/demo_1", "data/demo\x1b[31m")


def _long_key(file: h5py.File) -> None:
    file.move("data/demo_1/obs/object", "data/demo_1/obs/" + "o" * 200)


def _objects(file: h5py.File) -> None:
    dataset = _replace(file, "data/demo_1/actions", shape=(41, 10), dtype=h5py.string_dtype())
    dataset[0, 0] = "import os"


def _references(file: h5py.File) -> None:
    _replace(file, "data/demo_1/actions", shape=(41, 10), dtype=h5py.ref_dtype)


def _object_attribute(file: h5py.File) -> None:
    file["data/demo_1"].attrs["num_samples"] = file["data/demo_0"].ref


def _nan(file: h5py.File) -> None:
    file["data/demo_1/obs/object"][7, 2] = np.nan


def _overflow(file: h5py.File) -> None:
    values = file["data/demo_1/actions"][()].astype("f8")
    values[3, 0] = 1e300
    _replace(file, "data/demo_1/actions", data=values)


FILE_ZOO: dict[str, tuple[str, str, Callable[[h5py.File], None]]] = {
    "no group data": ("D02", "group /data is missing", lambda f: f.move("data", "date")),
    "no demos": (
        "D02",
        "holds no demos",
        lambda f: [f.__delitem__(f"data/demo_{i}") for i in range(3)],
    ),
    "no actions": ("D02", "actions is missing", lambda f: f.__delitem__("data/demo_1/actions")),
    "no num_samples": (
        "D02",
        "num_samples is missing",
        lambda f: f["data/demo_1"].attrs.__delitem__("num_samples"),
    ),
    "no obs": ("D02", "obs is missing", lambda f: f.__delitem__("data/demo_1/obs")),
    "no env_args": ("D02", "env_args", lambda f: f["data"].attrs.__delitem__("env_args")),
    "obs shorter": (
        "D03",
        "has 40 frames, num_samples says 41",
        lambda f: _replace(f, "data/demo_1/obs/object", data=np.zeros((40, 10), "f4")),
    ),
    "num_samples wrong": (
        "D03",
        "has 41 frames, num_samples says 99",
        lambda f: f["data/demo_1"].attrs.__setitem__("num_samples", 99),
    ),
    "rewards longer": (
        "D03",
        "rewards has 50 frames",
        lambda f: _replace(f, "data/demo_1/rewards", data=np.zeros(50, "f4")),
    ),
    "total wrong": (
        "D03",
        "says 1 frames, the demos have 123",
        lambda f: f["data"].attrs.__setitem__("total", 1),
    ),
    "nan": ("D04", "obs/object has 1 values that are not finite", _nan),
    "overflow": ("D04", "actions has 1 values", _overflow),
    "actions of rank 3": (
        "D05",
        "actions is float32 (41, 2, 5)",
        lambda f: _replace(f, "data/demo_1/actions", data=np.zeros((41, 2, 5), "f4")),
    ),
    "complex actions": (
        "D05",
        "complex64",
        lambda f: _replace(f, "data/demo_1/actions", data=np.zeros((41, 10), "c8")),
    ),
    "empty dataspace": (
        "D05",
        "None",
        lambda f: _replace(f, "data/demo_1/actions", data=h5py.Empty("f4")),
    ),
    "demo is a dataset": (
        "D05",
        "not a group",
        lambda f: _replace(f, "data/demo_1", data=np.zeros(3)),
    ),
    "success in words": (
        "D05",
        "success is 'False'",
        lambda f: f["data/demo_1"].attrs.__setitem__("success", "False"),
    ),
    "nested obs": ("D05", "is not a dataset", lambda f: f.create_group("data/demo_1/obs/deeper")),
    "external link": ("D16", "is an external link", _external_link),
    "soft link": ("D16", "is a soft link", _soft_link),
    "demo is a link": ("D16", "is an external link", _linked_demo),
    "external storage": ("D16", "in another file", _external_storage),
    "virtual dataset": ("D16", "in another file", _virtual),
    "unknown filter": ("D16", "unknown filter 32004", _unknown_filter),
    "four terabytes": ("D17", "declares 4000000000000 bytes", _huge),
    "bomb": ("D17", "declares 400000000 bytes", _bomb),
    "huge chunk": ("D17", "in chunks of 4000000000", _huge_chunk),
    "demo name": ("D18", r"'demo\x1b[31m'", _bad_demo_name),
    "long key": ("D18", "is not safe", _long_key),
    "objects": ("D19", "holds objects", _objects),
    "references": ("D19", "holds objects", _references),
    "attribute": ("D19", "attribute num_samples", _object_attribute),
    "version": ("D20", "format version 7", lambda f: f["data"].attrs.__setitem__("zprl_format", 7)),
}


@pytest.mark.parametrize("kind", FILE_ZOO)
def test_broken_file(tmp_path: Path, kind: str) -> None:
    code, message, mutate = FILE_ZOO[kind]
    path = write_demo_file(tmp_path / "a.hdf5", 3)
    with h5py.File(path, "a") as file:
        mutate(file)
    result = check(tmp_path)
    found = loud(result)
    assert [finding.code for finding in found] == [code], [str(finding) for finding in found]
    assert message in found[0].message
    assert found[0].file == path.as_posix()
    assert found[0].remedy
    if found[0].episode is not None:
        assert found[0].episode == "a/demo_1"
        assert [episode.name for episode in result.good] == ["a/demo_0", "a/demo_2"]
        assert result.quarantine == ("a/demo_1",)


@pytest.mark.parametrize(
    "content", [b"", b"not hdf5 at all", None], ids=["empty", "text", "truncated"]
)
def test_not_hdf5(tmp_path: Path, content: bytes | None) -> None:
    path = write_demo_file(tmp_path / "a.hdf5", 3)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    result = check(tmp_path)
    assert [f.code for f in loud(result)] == ["D01"]
    assert f"({path.stat().st_size} bytes)" in loud(result)[0].message
    assert result.quarantine == (path.as_posix(),)
    assert result.bad_fraction == 1.0


def test_missing_key_names_the_nearest(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 1)
    (finding,) = loud(check(tmp_path, obs_keys=("robot0_eef_position",)))
    assert finding.code == "D22"
    assert finding.remedy == "did you mean 'robot0_eef_pos'?"


def test_images_are_ignored_unless_asked_for(tmp_path: Path) -> None:
    path = write_demo_file(tmp_path / "a.hdf5", 1)
    images = np.arange(40 * 8 * 8 * 3, dtype=np.uint8).reshape(40, 8, 8, 3)
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/agentview_image"] = images
        file["data/demo_0/obs/depth"] = np.zeros((40, 8, 8, 1), np.float32)
        file["data/demo_0/obs/short_image"] = np.zeros((39, 8, 8, 3), np.uint8)
    assert loud(check(tmp_path)) == []
    assert loud(check(tmp_path, obs_keys=("robot0_eef_pos", "agentview_image"))) == []
    (episode,) = RobomimicReader(obs_keys=("robot0_eef_pos", "agentview_image")).read(path)
    assert isinstance(episode, Episode)
    np.testing.assert_array_equal(episode.obs["agentview_image"], images)
    for key, code in (("depth", "D05"), ("short_image", "D03")):
        assert [f.code for f in loud(check(tmp_path, obs_keys=("robot0_eef_pos", key)))] == [code]


def test_unsafe_file_name(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a\x07.hdf5", 1)
    (finding,) = loud(check(tmp_path))
    assert finding.code == "D18"
    assert r"a\x07.hdf5" in finding.file


# -- defects of meaning: the mutation gets an episode ----------------------------------------------


def _with(episode: Episode, key: str, change: Callable[[np.ndarray], None]) -> Episode:
    value = (episode.actions if key == "actions" else episode.obs[key]).copy()
    change(value)
    return (
        replace(episode, actions=value)
        if key == "actions"
        else replace(episode, obs={**episode.obs, key: value})
    )


def _scale(value: np.ndarray) -> None:
    value[5] *= 1.5


def _flip(value: np.ndarray) -> None:
    value[20:] *= -1


def _not_a_rotation(value: np.ndarray) -> None:
    value[9, 3:9] = 0.1


def _skew(value: np.ndarray) -> None:
    value[9, 6:9] = value[9, 3:6]


def _jump(value: np.ndarray) -> None:
    value[12:, 0] += 0.3


def _freeze(episode: Episode) -> Episode:
    for key in episode.obs:
        episode = _with(episode, key, lambda value: value.__setitem__(slice(4, 15), value[4]))
    return episode


MEANING_ZOO: dict[str, tuple[str, str, int | None, Callable[[Episode], Episode]]] = {
    "quaternion norm": ("D08", "has norm 1.500", 5, lambda e: _with(e, "robot0_eef_quat", _scale)),
    "quaternion sign": (
        "D08",
        "flips its sign 1 times",
        20,
        lambda e: _with(e, "robot0_eef_quat", _flip),
    ),
    "6-D rotation length": (
        "D08",
        "not two orthonormal columns",
        9,
        lambda e: _with(e, "actions", _not_a_rotation),
    ),
    "6-D rotation skew": (
        "D08",
        "not two orthonormal columns",
        9,
        lambda e: _with(e, "actions", _skew),
    ),
    "frozen": ("D10", "the same for 11 frames", 4, _freeze),
    "jump": ("D11", "jumps by 0.3", 12, lambda e: _with(e, "robot0_eef_pos", _jump)),
    "too short": ("D12", "10 frames, at least 16 are needed", None, lambda _: make_episode(1, 10)),
    "duplicate": (
        "D13",
        "the same content as a/demo_0",
        None,
        lambda _: replace(make_episode(0, 40), quality="worse"),
    ),
    "other robot": (
        "D05",
        "actions 7 differ from",
        None,
        lambda e: replace(e, actions=e.actions[:, :7]),
    ),
}


@pytest.mark.parametrize("kind", MEANING_ZOO)
def test_broken_episode(tmp_path: Path, kind: str) -> None:
    code, message, frame, mutate = MEANING_ZOO[kind]
    episodes = make_episodes(3)
    with RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
        for episode in (episodes[0], mutate(episodes[1]), episodes[2]):
            writer.write(episode)
    (finding,) = loud(check(tmp_path))
    assert (finding.code, finding.episode, finding.frame) == (code, "a/demo_1", frame)
    assert message in finding.message


def test_same_name_in_two_folders(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "x" / "a.hdf5", 2)
    write_demo_file(tmp_path / "y" / "a.hdf5", 1, seed=9)
    (finding,) = loud(check(tmp_path))
    assert (finding.code, finding.episode) == ("D18", "a/demo_0")


def test_an_object_at_rest_is_not_a_frozen_robot(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 3)
    assert loud(check(tmp_path, obs_keys=("object", "robot0_gripper_command"))) == []


def test_no_success_at_all(tmp_path: Path) -> None:
    with RobomimicWriter(tmp_path / "a.hdf5", ENV_ARGS) as writer:
        for seed in range(3):
            writer.write(make_episode(seed, success=False))
    (finding,) = loud(check(tmp_path))
    assert (finding.code, finding.episode, finding.severity) == ("D21", None, "error")


def test_constant_dimensions_are_noted(tmp_path: Path) -> None:
    write_demo_file(tmp_path / "a.hdf5", 3)
    notes = {finding.message for finding in check(tmp_path).findings if finding.code == "D14"}
    assert notes == {
        "actions never changes in dimensions [5, 8]",
        "obs/object never changes in dimensions [3, 4, 5, 6]",
    }


# -- doubts: what the actions are does not look like what is declared ------------------------------

CONTROLLER = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True}
DOUBT_ZOO: dict[str, tuple[str, str, int | None, dict, Callable[[np.ndarray], None]]] = {
    "delta beyond its bounds": (
        "D06",
        "the worst is 1.500 in dimension 0",
        9,
        {},
        lambda a: a.__setitem__((9, 0), 1.5),
    ),
    "deltas that are poses": (
        "D07",
        "they look absolute",
        0,
        {},
        lambda a: a.__setitem__((slice(None), 0), 3.0),
    ),
    "poses that are deltas": (
        "D07",
        "they look like deltas",
        None,
        {"control_delta": False},
        lambda a: a.__isub__(a.mean(0)),
    ),
}


@pytest.mark.parametrize("kind", DOUBT_ZOO)
def test_doubtful_actions(tmp_path: Path, kind: str) -> None:
    code, message, frame, declared, mutate = DOUBT_ZOO[kind]
    path = write_demo_file(tmp_path / "a.hdf5", 3)
    kwargs = {"control_freq": 20, "controller_configs": CONTROLLER | declared}
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "type": 1, "env_kwargs": kwargs}
        )
        for demo in file["data"].values():
            actions = demo["actions"][:, :7]  # position, rotation vector, gripper
            if demo.name.endswith("demo_1"):
                mutate(actions)
            del demo["actions"]
            demo["actions"] = actions
    result = check(tmp_path)
    (finding,) = loud(result)
    assert (finding.code, finding.severity, finding.episode, finding.frame) == (
        code,
        "warning",
        "a/demo_1",
        frame,
    )
    assert message in finding.message
    assert len(result.good) == 3


def test_different_simulator_versions(tmp_path: Path) -> None:
    for name, seed, version in (("a", 0, "1.4.1"), ("b", 10, "1.5.1"), ("c", 20, "1.4.1")):
        with RobomimicWriter(
            tmp_path / f"{name}.hdf5", {"env_name": "Lift", "type": 1, "env_version": version}
        ) as writer:
            writer.write(make_episode(seed))
    (finding,) = loud(check(tmp_path))
    assert (finding.code, finding.severity, finding.episode) == ("D15", "warning", None)
    assert finding.message.startswith("recordings of different versions of robosuite: 1.4.1 (")
    assert finding.message.endswith("b.hdf5)")
    (tmp_path / "b.hdf5").unlink()
    assert loud(check(tmp_path)) == []


def test_every_code_has_an_animal() -> None:
    shown = {code for code, *_ in FILE_ZOO.values()} | {code for code, *_ in MEANING_ZOO.values()}
    shown |= {code for code, *_ in DOUBT_ZOO.values()} | {"D15"}
    shown |= {
        "D09",
        "D30",
    }  # of formats with timestamps and labels: test_lerobot_reader.py, test_demo_reader.py
    assert shown | {"D01", "D14", "D21", "D22", "D23", "D24"} == set(CODES)
