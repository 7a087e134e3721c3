"""``python -m pipelines.child <stage>``: ``dvc repro --single-item`` that does not outlive the process that started it.

The kernel sends SIGTERM when the parent dies, however it dies; the stage below asks for the same (``pipelines.stage``).
So a killed orchestrator leaves no orphan, and the stage stops at its next resume point.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def main() -> int:
    """Run one stage of the graph through DVC's own command line."""
    stage, parent = sys.argv[1], int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before we asked
        return 5
    from dvc.cli import main as dvc

    # Our stages ask for it themselves (pipelines/python); a project's own may be a script that imports what lies beside it.
    os.environ.pop("PYTHONSAFEPATH", None)
    return int(dvc(["repro", "--single-item", stage]))


if __name__ == "__main__":
    sys.exit(main())
