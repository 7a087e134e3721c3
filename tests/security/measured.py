"""Runs a reader over files in a process of its own, and tells how each ended, how long it took and how much memory it came to need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS_SPACE = 6 * 2**30
"""Bytes that the process may map, so that a bomb that goes off takes no machine with it; torch
alone maps two gigabytes."""
PATIENCE_S = 300.0

_CHILD = """
import contextlib, gc, json, resource, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from tests.security.{module} import READERS
read = READERS[sys.argv[1]]()
status, again = Path("/proc/self/status"), Path("/proc/self/clear_refs")
def memory(name):
    return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(name)))
paths = sorted(Path(sys.argv[2]).iterdir())
for path in (paths[0], paths[-1]):
    with contextlib.suppress(BaseException):
        read(path)  # what is imported on first use is no bomb's doing
for path in paths:
    gc.collect()
    again.write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    try:
        read(path)
        kind, said = "", ""
    except BaseException as error:
        kind, said = type(error).__name__, ascii(error)[:300]
    print(json.dumps([path.stem, kind, said, time.process_time() - began, memory("VmHWM") - before]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How the reading of a file ended.

    Attributes:
        kind: Type of what it raised; empty for nothing.
        said: Its text.
        seconds: Processor time: the machine may be busy with other things.
        grown: Bytes that it needed at its peak.
    """

    kind: str
    said: str
    seconds: float
    grown: int


def measured(module: str, reader: str, folder: Path) -> dict[str, Ended]:
    """Read every file (or folder) in ``folder`` with ``READERS[reader]()`` of a module beside this one; by the files' stems."""
    text = _CHILD.format(limit=ADDRESS_SPACE, module=module)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", text, reader, str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=variables,
        cwd=folder.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Ended(*row) for name, *row in map(json.loads, done.stdout.splitlines())}
