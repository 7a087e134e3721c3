"""The doctor sees what is missing and says how to get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zprl import doctor


def states(checks) -> dict[str, str]:
    return {check.name: check.state for check in checks}


@pytest.mark.parametrize(
    ("package", "version", "state"),
    [
        ("fastapi", "0.150.0", "ok"),
        ("fastapi", "0.151.0", "missing"),
        ("sqlalchemy", "2.0.99", "ok"),
        ("sqlalchemy", "2.1.0b1", "missing"),
    ],
)
def test_caps_that_break_silently(
    package: str, version: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == package else "0.0.1")
    assert states(doctor.check_packages())[package] == state


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert states(doctor.check_packages()) == dict.fromkeys(doctor.PINNED, "missing")


def test_the_world_is_needed_only_by_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(doctor, "_params_value", lambda *_: "isaac/lift-cube")
    assert states(doctor.check_world()) == {"isaac": "missing"}
    monkeypatch.setattr(doctor, "_params_value", lambda *_: "own/task")
    assert states(doctor.check_world()) == {"isaac": "warning"}


def test_assets_that_the_task_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    from zprl.envs.isaac import launch

    found = {"name": "isaac/reach", "assets": "nvidia", "physics": "ovphysx"}
    monkeypatch.setattr(doctor, "_version", lambda _: "1")
    monkeypatch.setattr(doctor, "_params_value", lambda _, key, __: found[key])
    for root, state in ((tmp_path, "missing"), (launch.authored(), "ok")):
        monkeypatch.setenv("ISAACSIM_ASSET_ROOT", str(root))
        assert [(check.name, check.state) for check in doctor.check_world()] == [
            ("isaac", "ok"),
            ("assets", state),
        ]


def test_isaac_sim_where_the_task_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"name": "isaac/reach", "assets": "authored", "physics": "isaacsim"}
    monkeypatch.setattr(doctor, "_version", lambda _: "1")
    monkeypatch.setattr(doctor, "_params_value", lambda _, key, __: found[key])
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for image, state in (("", "missing"), ("lab/kit", "ok")):
        monkeypatch.setenv("ZPRL_CONTAINER", image)
        assert [(check.name, check.state) for check in doctor.check_world()] == [
            ("isaac", "ok"),
            ("isaacsim", state),
        ]


def test_project_without_and_with_data(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("run: {seed: 1}\n")
    assert states(doctor.check_project(tmp_path)) == {"params.yaml": "ok", "dvc project": "missing"}
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    remote = near\n['remote \"near\"']\n    url = /somewhere\n"
    )
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data.dvc").write_text("outs: []\n")
    found = {check.name: check for check in doctor.check_project(tmp_path)}
    assert found["dvc remote"].text == "near (/somewhere)"
    dvc = Path(sys.executable).with_name("dvc")
    assert found["demos"].remedy == f"run `{dvc} pull data.dvc`, or `make run`"
    (tmp_path / "data/demos").mkdir(parents=True)
    (tmp_path / "data/demos/a.hdf5").touch()
    assert states(doctor.check_project(tmp_path))["demos"] == "ok"


def test_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert states(doctor.check_services()) == {"mlflow store": "ok", "prefect": "ok"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert states(doctor.check_services()) == {"mlflow store": "missing", "prefect": "missing"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    texts = [check.text for check in doctor.check_services()]
    assert "secret" not in " ".join(texts)


def test_too_little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9})())
    assert states(doctor.check_disk()) == {"disk": "missing"}


def test_everything_not_ok_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(check.remedy for check in doctor.examine() if check.state != "ok")
