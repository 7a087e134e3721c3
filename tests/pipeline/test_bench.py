"""A suite's flow with small cells: what is done stays done, a failure stops only what stands on it, an interruption is continued."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project
from zprl import durable
from zprl.bench import results

pytestmark = pytest.mark.services

DRIVER = """
import json, os, sys, time
from pathlib import Path
from pipelines import bench, bench_cell as cells
from zprl import cli, durable, plugins
from zprl.bench import results

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
if "TOY_SLOW" in os.environ and not name.startswith("base"):
    time.sleep(6)
if name.startswith("base"):
    Path("artifacts/base").mkdir(parents=True, exist_ok=True)
    Path("artifacts/base/policy.safetensors").write_text(name + mode)
    Path("artifacts/episodes").mkdir(exist_ok=True)
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/base.json").write_text("{}")
print("worked in", Path.cwd().name)
'''
ROOT = Path.cwd()
plugins.load = lambda group, name: None


def commands(cell):
    return [[sys.executable, "-c", CELL, f"{cell.folder.name}-{cell.seed}", str(ROOT)]]


def outcome(cell):
    steps = 0 if cell.base is None else 400
    rate = 0.5 if cell.base is None else 0.9
    who = (cell.task, cell.method, cell.seed)
    facts = results.RunFacts(*who, 5, 1.0, 0.1, 2.0, None)
    policy = durable.digest((cell.base or cell).folder / cells.POLICY)
    made = (None, policy) if cell.base is None else (policy, None)
    return results.FinishedRun(cell.key, *made, facts, (results.Point(*who, steps, rate, 20, 1.0, 1.0),))


def run(cell, *rest, run=bench.run, **more):
    run(cell, *rest, **more)
    if "TOY_SLOW" in os.environ and not cell.base:
        time.sleep(2)  # a base is written down some time before its task is known to have ended


cells.commands, cells.outcome, bench.run = commands, outcome, run
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
    assert all(
        order.index(f"base-{seed}") < order.index(f"{method}-{seed}")
        for seed in (0, 1)
        for method in ("zprl", "dsrl")
    )
    assert "[6/6]" in done.stdout
    rows = (bench.path / "out/small.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert "toy/one,zprl,1,400,0.9,20,1.0,1.0" in rows
    page = (bench.path / "out/small.html").read_text()
    assert "Not finished" not in page
    assert "zprl bench small.yaml" in page
    assert (bench.path / "out/small.png").read_bytes().startswith(b"\x89PNG")
    assert (
        bench.path / "bench/small/toy-one/seed-0/zprl/log.txt"
    ).read_text() == "worked in zprl\n"

    (bench.path / "small.yaml").write_text(
        SUITE.replace(
            "seeds: [0, 1]", "seeds: [0, 1]\nparams: {finetune_sim: {budget: {segments: 3}}}"
        )
    )
    listed = run(bench, "--list").stdout.splitlines()
    assert sorted(line.split()[0] for line in listed) == [
        "done",
        "done",
        "open",
        "open",
        "open",
        "open",
    ], "other numbers, other runs"
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
        process = subprocess.Popen(
            command,
            cwd=bench.path,
            env=bench.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    bench.started.append(process)
    bench.wait_for(lambda: "zprl-0" in ran(bench))
    process.send_signal(
        signal.SIGTERM
    )  # what a machine that shuts down sends; the flow's own tests send both
    assert process.wait(120) == 5, (bench.path / "log").read_text()[-3000:]
    place = bench.path / "bench/small/toy-one/seed-0"
    assert not (place / "zprl/cell.json").exists()
    assert (place / "base/cell.json").exists()
    (bench.path / "go").touch()
    assert run(bench).returncode == 0
    assert ran(bench).count("base-0") == 1
    assert ran(bench).count("zprl-0") == 2


@pytest.mark.exhaustive
def test_a_part_of_a_suite_and_a_page_of_what_is_there(bench: Project) -> None:
    nothing = run(bench, "--page")
    assert nothing.returncode == 3
    assert "no run of 'small.yaml' is done" in nothing.stderr
    assert run(bench, "--method", "zprl", "--seed", "1").returncode == 0
    assert ran(bench) == ["base-1", "zprl-1"]
    assert Path(bench.path / "out/small.csv").exists()


@pytest.mark.exhaustive
def test_another_machine_goes_on_with_what_was_published(bench: Project) -> None:
    assert run(bench, "--method", "zprl").returncode == 0
    published = json.loads((bench.path / "out/small.runs.json").read_text())
    assert [(entry["facts"]["method"], entry["facts"]["seed"]) for entry in published] == [
        ("base", 0),
        ("base", 1),
        ("zprl", 0),
        ("zprl", 1),
    ]
    before = (bench.path / "out/small.csv").read_text()

    (bench.path / "bench").rename(bench.path / "elsewhere")
    (bench.path / "ran.txt").unlink()
    listed = run(bench, "--list").stdout.splitlines()
    assert sorted(line.split()[0] for line in listed) == ["done"] * 4 + ["open"] * 2
    assert run(bench, "--page").returncode == 0
    assert (bench.path / "out/small.csv").read_text() == before
    assert ran(bench) == []
    ours = "[{ours: {label: Ours, preset: method/zprl, space: latent, source: us, tuning: none}}]"
    (bench.path / "other.yaml").write_text(SUITE.replace("[zprl, dsrl]", ours))
    listed = bench.run(
        sys.executable, "driver.py", "other.yaml", "--results", "out", "--list"
    ).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["done"] * 4, (
        "the same numbers under another name"
    )

    assert run(bench, "--seed", "1").returncode == 0
    assert ran(bench) == ["base-1", "dsrl-1"], (
        "a policy that is to be improved is made again, what was learnt on it is not"
    )

    (bench.path / "bench").rename(bench.path / "elsewhere-too")
    modes(bench, **{"base-0": "otherwise"})
    assert run(bench, "--seed", "0", "-j", "1").returncode == 0
    assert ran(bench)[2:] == ["base-0", "zprl-0", "dsrl-0"], (
        "on another policy everything is learnt anew"
    )
    written = results.read_runs(bench.path / "out/small.runs.json")
    assert len(written) == 6, "a part of the suite leaves what was published of the rest"


def test_frozen_policies_travel(bench: Project) -> None:
    bench.env["TOY_SLOW"] = "yes"
    assert run(bench, "-j", "2", "--method", "zprl", "--seed", "0").returncode == 0
    del bench.env["TOY_SLOW"]
    assert run(bench, "--policies").returncode == 0
    (bench.path / "bench").rename(bench.path / "elsewhere")
    modes(bench, **{"base-0": "otherwise"})
    assert run(bench, "--seed", "0").returncode == 0
    assert ran(bench) == ["base-0", "zprl-0", "dsrl-0"], (
        "neither the policy nor what was learnt on it is made again"
    )


def test_one_process_a_suite(bench: Project) -> None:
    place = bench.path / "bench/small"
    place.mkdir(parents=True)
    lease = durable.lease(place / "LEASE")
    try:
        done = run(bench)
    finally:
        os.close(lease)
    assert done.returncode == 4
    assert "already works in" in done.stderr
    assert ran(bench) == []


def test_a_broken_file_of_runs_is_named(bench: Project) -> None:
    (bench.path / "out").mkdir()
    (bench.path / "out/small.runs.json").write_text('[{"key": "x"}]')
    done = run(bench, "--list")
    assert done.returncode == 3
    assert "small.runs.json cannot be read" in done.stderr
