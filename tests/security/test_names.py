"""Names that strangers give become no path outside the folder they are meant for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines import add_demos
from zprl import config, safe_names
from zprl.bench import suite
from zprl.envs.isaac.isaaclab_terms import IsaacLabTerms
from zprl.errors import ConfigError
from zprl.robot.task import BUILT_IN, RealTask
from zprl.run_dir import RunDir

HOSTILE = [
    "../../x",
    "/etc/x",
    "..",
    ".",
    "",
    ".hidden",
    "-rf",
    "a/b",
    "a\\b",
    "a\nb",
    "a\n",
    "a\x1b[31m",
    "a\0b",
    "a b",
    "\u202eexe.x",
    "\ud800",
    "x" * 101,
    "~root",
    "$(id)",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_one_function_refuses_them_all(tmp_path: Path, name: str) -> None:
    assert not safe_names.plain(name)
    with pytest.raises(ConfigError, match="cannot be the name") as caught:
        safe_names.inside(tmp_path, "good", name)
    assert caught.value.message.isprintable()
    assert safe_names.plain(safe_names.made_plain(name))


@given(st.text(max_size=120))
def test_what_is_plain_stays_inside_and_what_is_made_plain_is_plain(text: str) -> None:
    assert safe_names.plain(safe_names.made_plain(text))
    if safe_names.plain(text):
        assert safe_names.inside(Path("/tmp/folder"), text).parent == Path("/tmp/folder")
        assert safe_names.made_plain(text) == text


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/etc")
    with pytest.raises(ConfigError, match="outside"):
        safe_names.inside(tmp_path / "folder", "link", "x")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(method: str, task: str = "toy/reach") -> suite.Suite:
        entry = {
            "label": "x",
            "preset": "method/zprl",
            "space": "latent",
            "source": "x",
            "tuning": "x",
        }
        whole = {
            "title": "x",
            "tasks": {task: {"preset": "smoke"}},
            "methods": [{method: entry}],
            "seeds": [0],
        }
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(whole))
        return suite.load(str(tmp_path / "suite.yaml"))

    return write


@pytest.mark.parametrize("name", [*HOSTILE, "base", "base-x"], ids=ascii)
def test_methods_of_suites(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(suite.plugins, "load", lambda *_: None)
    assert all(
        cell.folder.is_relative_to(tmp_path)
        for cell in suite.cells(written("plain-1.0_x"), tmp_path / "bench")
    )
    with pytest.raises(ConfigError):  # some are no YAML, the others no names
        suite.cells(written(name), tmp_path / "bench")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_tasks_of_suites(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(suite.plugins, "load", lambda *_: None)
    try:
        found = suite.cells(written("zprl-x", task=name), tmp_path / "bench")
    except ConfigError:
        return
    assert all(
        cell.folder.resolve().is_relative_to(tmp_path / "bench") for cell in found
    )  # a slash becomes a dash
    assert all(part.isprintable() for cell in found for part in cell.folder.parts)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name], ids=ascii)
def test_names_of_recordings(tmp_path: Path, name: str) -> None:
    (tmp_path / "in.hdf5").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be a name"):
        add_demos._target(tmp_path / "in.hdf5", tmp_path / "data", name)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_models_of_the_registry(name: str) -> None:
    with pytest.raises(ConfigError, match="model_name"):
        config.parse({"promote": {"model_name": name}})


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_limits_beside_a_task_and_cameras_in_it(tmp_path: Path, name: str) -> None:
    found = yaml.safe_load((BUILT_IN / "lift_cube.yaml").read_text())
    for change in (
        {"limits": name},
        {"sensors": {name: {"kind": "robot_sim_tracker"}}},
        {"name": name},
    ):
        (tmp_path / "task.yaml").write_text(yaml.safe_dump({**found, **change}))
        with pytest.raises(ConfigError):
            RealTask.load(tmp_path / "task.yaml")


@pytest.mark.parametrize("name", ["../../../presets/paper", "/etc/x", "a\nb", "a\0b", "x" * 200])
def test_built_in_terms(name: str) -> None:
    with pytest.raises(ConfigError):
        IsaacLabTerms.load(name, None)


def test_files_of_a_resume_point(tmp_path: Path) -> None:
    from zprl import durable

    (tmp_path / "secret.safetensors").write_bytes(b"x")
    with RunDir(tmp_path, "stage", {}) as run_dir:
        run_dir.save(1, {}, {})
        folder = run_dir.path / "gen-00000001"
        sums = durable.read_json(folder / "COMMIT")
        assert run_dir.latest() is not None
        durable.write_json(
            folder / "COMMIT",
            sums | {"../../../secret.safetensors": durable.digest(tmp_path / "secret.safetensors")},
        )
        assert run_dir.latest() is None
