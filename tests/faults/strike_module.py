"""Run a stage's module with SIGKILL at its n-th durable operation: ``python -m tests.faults.strike_module N MODULE [ARGS...]``.

``N`` of 0 kills nothing and writes the number of operations to the file COUNT.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from zprl import durable

if __name__ == "__main__":
    strike, module = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    seen = 0

    def operation(name: str, path: Path) -> None:
        global seen
        seen += 1
        if strike == 0:
            Path("COUNT").write_text(str(seen))
        elif seen == strike:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.operation = operation
    runpy.run_module(module, run_name="__main__", alter_sys=True)
