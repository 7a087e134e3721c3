"""A suite's flow with small cells: what is done stays done, a failure stops only what stands on it, an interruption is continued."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.services

DRIVER = """
import json, sys
from pathlib import Path
from pipelines import bench
from zprl import cli, plugins

CELL = '''
import json, os, sys, time
from pathlib import Path
name, root = sys.argv[1], Path(sys.argv[2])
with open(root / "ran.txt", "a") as file:
    file.write(name + chr(10))
mode = json.loads((root / "modes.json").read_text()).get(name, "")
if mode == "bad":
    print("DataError: the demonstrations are broken"); sys.exit(3)
if mode == "slow":
    while not (root / "go").exists(): time.sleep(0.05)
print("worked in", Path.cwd().name)
'''
ROOT = Path.cwd()
plugins.load = lambda group, name: None


def commands(cell):
    return [[sys.executable, "-c", CELL, f"{cell.folder.name}-{cell.seed}", str(ROOT)]]


def outcome(cell):
    steps = 0 if cell.base is None else 400
    rate = 0.5 if cell.base is None else 0.9
    point = {"task": cell.task, "method": cell.method, "seed": cell.seed, "env_steps": steps, "success_rate": rate, "episodes": 20,
             "jerk_rms": 1.0, "wall_s": 1.0}
    return {"points": [point], "updates": 5, "updates_per_s": 1.0, "total_variation": 0.1}


bench.commands, bench.outcome = commands, outcome
sys.argv = ["zprl", "bench", *sys.argv[1:]]
cli.main()
"""
SUITE = """
title: Small
tasks: {toy/one: {preset: laptop/metaworld}}
methods: [zprl, dsrl]
seeds: [0, 1]
"""


@pytest.fixture
def bench(served: Project) -> Project:
    (served.path / "driver.py").write_text(DRIVER)
    (served.path / "small.yaml").write_text(SUITE)
    modes(served)
    return served


def modes(project: Project, **found: str) -> None:
    (project.path / "modes.json").write_text(json.dumps(found))


def run(project: Project, *arguments: str):
    return project.run(sys.executable, "driver.py", "small.yaml", "--results", "out", *arguments)


def ran(project: Project) -> list[str]:
    file = project.path / "ran.txt"
    return file.read_text().split() if file.exists() else []


def test_bases_first_nothing_twice_and_a_page(bench: Project) -> None:
    done = run(bench, "-j", "2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    order = ran(bench)
    assert sorted(order) == ["base-0", "base-1", "dsrl-0", "dsrl-1", "zprl-0", "zprl-1"]
    assert all(order.index(f"base-{seed}") < order.index(f"{method}-{seed}") for seed in (0, 1) for method in ("zprl", "dsrl"))
    assert "[6/6]" in done.stdout
    rows = (bench.path / "out/small.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert "toy/one,zprl,1,400,0.9,20,1.0,1.0" in rows
    page = (bench.path / "out/small.html").read_text()
    assert "Not finished" not in page
    assert "zprl bench small.yaml" in page
    assert (bench.path / "out/small.png").read_bytes().startswith(b"\x89PNG")
    assert (bench.path / "bench/small/toy-one/seed-0/zprl/log.txt").read_text() == "worked in zprl\n"

    (bench.path / "small.yaml").write_text(SUITE.replace("seeds: [0, 1]", "seeds: [0, 1]\nparams: {finetune_sim: {segments: 3}}"))
    listed = run(bench, "--list").stdout.splitlines()
    assert sorted(line.split()[0] for line in listed) == ["done", "done", "open", "open", "open", "open"], "other numbers, other runs"
    assert run(bench, "--method", "zprl", "--seed", "0").returncode == 0
    assert ran(bench) == [*order, "zprl-0"]
    (bench.path / "small.yaml").write_text(SUITE)
    assert run(bench).returncode == 0
    assert ran(bench) == [*order, "zprl-0"], "what was done with the old numbers was kept"


def test_a_failure_stops_only_what_stands_on_it(bench: Project) -> None:
    modes(bench, **{"base-1": "bad"})
    done = run(bench, "-j", "1")
    text = done.stdout + done.stderr
    assert done.returncode == 4, text[-3000:]
    assert "exit code 3 (bad data)" in text
    assert "without its base policy" in text
    assert "Traceback" not in text
    assert sorted(ran(bench)) == ["base-0", "base-1", "dsrl-0", "zprl-0"]
    assert "3 runs are missing" in (bench.path / "out/small.html").read_text()
    modes(bench)
    assert run(bench, "-j", "1").returncode == 0
    assert ran(bench)[4:] == ["base-1", "zprl-1", "dsrl-1"]


def test_an_interrupted_suite_stops_its_cells_and_goes_on(bench: Project) -> None:
    modes(bench, **{"zprl-0": "slow"})
    command = [sys.executable, "driver.py", "small.yaml", "--results", "out", "-j", "1"]
    import subprocess

    with open(bench.path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=bench.path, env=bench.environment(), stdout=log, stderr=log, start_new_session=True)
    bench.started.append(process)
    bench.wait_for(lambda: "zprl-0" in ran(bench))
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 5, (bench.path / "log").read_text()[-3000:]
    place = bench.path / "bench/small/toy-one/seed-0"
    assert not (place / "zprl/cell.json").exists()
    assert (place / "base/cell.json").exists()
    (bench.path / "go").touch()
    assert run(bench).returncode == 0
    assert ran(bench).count("base-0") == 1
    assert ran(bench).count("zprl-0") == 2


def test_a_part_of_a_suite_and_a_page_of_what_is_there(bench: Project) -> None:
    nothing = run(bench, "--page")
    assert nothing.returncode == 3
    assert "no run of 'small.yaml' is done" in nothing.stderr
    assert run(bench, "--method", "zprl", "--seed", "1").returncode == 0
    assert ran(bench) == ["base-1", "zprl-1"]
    assert Path(bench.path / "out/small.csv").exists()
