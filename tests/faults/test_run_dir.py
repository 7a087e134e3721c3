"""Resume folders: one writer, damaged generations passed over, keys that mean something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zprl import durable
from zprl.errors import DataError, EnvironmentProblem
from zprl.run_dir import RunDir

HOLD = (
    "import sys, time\nfrom zprl.run_dir import RunDir\n"
    "with RunDir(sys.argv[1], 's', {'k': 1}):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def save(run_dir: RunDir, step: int) -> None:
    run_dir.save(step, {"step": step}, {"net": {"w": torch.full((2,), float(step))}})


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(EnvironmentProblem, match=f"pid {holder.pid}"),
            RunDir(tmp_path, "s", {"k": 1}),
        ):
            pass
        with RunDir(tmp_path, "s", {"k": 2}):  # another key is another folder
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with RunDir(tmp_path, "s", {"k": 1}):
        pass


def test_the_newest_generation_that_verifies_is_used(tmp_path: Path) -> None:
    with RunDir(tmp_path, "s", {}) as run_dir:
        assert run_dir.latest() is None
        for step in (1, 2, 3):
            save(run_dir, step)
        assert sorted(p.name for p in run_dir.path.glob("gen-*")) == [
            "gen-00000002",
            "gen-00000003",
        ]
        (run_dir.path / "gen-00000003/net.safetensors").write_bytes(b"torn")
        found = run_dir.latest()
        assert found is not None
        assert (found.step, found.state, found.tensors["net"]["w"].tolist()) == (
            2,
            {"step": 2},
            [2.0, 2.0],
        )
        (run_dir.path / "gen-00000002/COMMIT").unlink()
        assert run_dir.latest() is None


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    with RunDir(tmp_path, "s", {}) as run_dir:
        (run_dir.path / "gen-00000001.99.partial").mkdir()
        (run_dir.path / "NOTES.json.99.partial").touch()
    with RunDir(tmp_path, "s", {}) as run_dir:
        assert list(run_dir.path.glob("*.partial")) == []


def test_notes_merge(tmp_path: Path) -> None:
    with RunDir(tmp_path, "s", {}) as run_dir:
        run_dir.note(a=1)
        run_dir.note(b=2)
        assert run_dir.notes() == {"a": 1, "b": 2}


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        durable.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert durable.read_json(tmp_path / "a.json") == {"x": 1}


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.json"):
        durable.read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"a\.safetensors"):
        durable.read_tensors(tmp_path / "a.safetensors")


def test_digest_knows_names_and_contents_only(tmp_path: Path) -> None:
    for folder, mode in (("one", 0o600), ("two", 0o644)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f").write_text("x")
        (tmp_path / folder / "f").chmod(mode)
    assert durable.digest(tmp_path / "one") == durable.digest(tmp_path / "two")
    (tmp_path / "two/f").rename(tmp_path / "two/g")
    assert durable.digest(tmp_path / "one") != durable.digest(tmp_path / "two")
