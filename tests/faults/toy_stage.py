"""A small real stage, run in forked children that are struck at their n-th durable operation.

``python -m tests.faults.toy_stage FOLDER PLAN`` where the plan is JSON: a list of scenarios, each a
list of the faults of its attempts.  A fault is ``[kind, n]`` with kind ``kill``, ``stop``,
``enospc``, ``eio`` or ``eio-for-good``.  Forks share the import of torch, so a scenario is cheap.
Prints JSON: per scenario the exit codes of all attempts, the digest of the output and what partial
names remain.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from pipelines.stages import stage as stages
from zprl import durable, errors, seeding

STEPS, EVERY = 6, 2
OUT = Path("artifacts/out")


def body(stage: stages.Stage) -> None:
    """A walk of random steps; resume points hold its place, the output its end."""
    last = stage.run_dir.latest()
    place, first = (last.tensors["walk"]["place"], last.step) if last else (torch.zeros(3), 0)
    for step in range(first, STEPS):
        place = place + torch.randn(
            3, generator=seeding.torch_generator(stage.params.run.seed, "walk", step)
        )
        if (step + 1) % EVERY == 0:
            stage.run_dir.save(step + 1, {"step": step + 1}, {"walk": {"place": place}})
            stage.stop_if_asked()

    def fill(folder: Path) -> None:
        durable.write_tensors(folder / "place.safetensors", {"place": place})
        durable.write_json(folder / "bundle.json", {"steps": STEPS})

    durable.write_dir(OUT, fill)


def strike(kind: str, n: int) -> None:
    """Make the n-th durable operation of this process fail."""
    count = 0

    def operation(name: str, path: Path) -> None:
        nonlocal count
        count += 1
        if kind == "count":
            Path("COUNT").write_text(str(count))
        elif count < n or (count > n and kind != "eio-for-good"):
            return
        elif kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            number = errno.ENOSPC if kind == "enospc" else errno.EIO
            raise OSError(number, os.strerror(number), str(path))

    durable.operation = operation


def attempt(fault: list | None, seed: int) -> int:
    """Run the stage in a forked child; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Path("params.yaml").write_text(f"run: {{seed: {seed}}}\n")
            if fault:
                strike(*fault)
            stages.execute("toy", body, sections=("run",), inputs=())
            code = 0
        except errors.ZprlError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def scenario(folder: Path, faults: list, seed: int) -> dict:
    """Run the attempts, then one without a fault, and look at what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    codes = [attempt(fault, seed) for fault in [*faults, None]]
    return {
        "codes": codes,
        "digest": durable.digest(OUT) if OUT.exists() else None,
        "partial": [str(p) for p in [*Path("runs").rglob("*.partial"), *OUT.rglob("*.partial")]],
        "count": int(Path("COUNT").read_text()) if Path("COUNT").exists() else None,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["ZPRL_TRACKING"] = "off"
    sys.stdout.flush()
    root, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    results = [scenario(root / "scenario", item["faults"], item.get("seed", 0)) for item in plan]
    print("RESULT " + json.dumps(results))
