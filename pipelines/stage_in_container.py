"""Run a stage inside an image, with neither Prefect, DVC nor MLflow.

It is started as ``python -m pipelines.stage_in_container MODULE [ARGUMENTS]``.  No kernel tells a
process in a container that the one outside has died; its standard input does, which then ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

from pipelines import container


def _stop_with_input() -> None:
    """Ask the stage to stop at its next resume point when the process outside is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the stage as if by ``python -m``."""
    os.environ.pop(container.VARIABLE, None)  # here it runs
    threading.Thread(target=_stop_with_input, daemon=True).start()
    module = sys.argv[1]
    sys.argv[:] = sys.argv[1:]

    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        # A stage's own way to end.  Another exception is shown, and ends the process with 1, by
        # Kit too.
        code = end.code if isinstance(end.code, int) else int(end.code is not None)

    sys.stdout.flush()
    sys.stderr.flush()
    # Kit, where it runs, would end the process with 0 while the interpreter shuts down.
    os._exit(code)


if __name__ == "__main__":
    main()
