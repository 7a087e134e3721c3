"""Runs a piece of work in a process of its own, and tells how it ended, how long it took and how much memory it came to need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS_SPACE = 6 * 2**30
"""Bytes that the process may map, so that a bomb that gets through takes no machine with it; torch alone maps two gigabytes."""
PATIENCE_S = 120.0

_CHILD = """
import importlib, json, resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from tests.security.{module} import WORK
prepare, work = WORK[sys.argv[1]]
ready = prepare() if prepare else None
def memory():
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, began = memory(), time.process_time()
try:
    work(Path(sys.argv[2]))
    kind, said = "", ""
except BaseException as error:
    kind, said = type(error).__name__, str(error)[:500]
print(json.dumps([kind, said, time.process_time() - began, memory() - before]))
"""


@dataclass(frozen=True)
class Ended:
    """How the work ended.

    Attributes:
        kind: Type of what it raised; empty for nothing.
        said: Its text.
        seconds: Processor time: the machine may be busy with other things.
        grown: Bytes by which the peak of its memory grew.
    """

    kind: str
    said: str
    seconds: float
    grown: int


def measured(module: str, work: str, path: Path) -> Ended:
    """Run ``WORK[work]`` of a module in this folder, a function of a path and what is to be done before the clock runs."""
    text = _CHILD.format(limit=ADDRESS_SPACE, module=module)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", text, work, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=variables, cwd=path.parent, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return Ended(*json.loads(done.stdout.splitlines()[-1]))
