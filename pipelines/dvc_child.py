"""Run ``dvc repro --single-item`` so that it does not outlive the process that started it.

``python -m pipelines.dvc_child STAGE PARENT``, with the parent's process id.  The kernel sends
SIGTERM when the parent dies, however it dies; the stage below asks for the same
(``pipelines.stages.stage``). So a killed orchestrator leaves no orphan, and the stage stops at its
next resume point.
"""

from __future__ import annotations

import os
import sys

from zprl.parent_death import die_with_parent


def main() -> int:
    """Run one stage of the graph through DVC's own command line."""
    stage = sys.argv[1]
    parent = int(sys.argv[2])
    die_with_parent(parent)
    from dvc.cli import main as dvc

    # Our stages ask for it themselves (pipelines/python); a project's own may be a script that
    # imports what lies beside it.
    os.environ.pop("PYTHONSAFEPATH", None)
    return int(dvc(["repro", "--single-item", stage]))


if __name__ == "__main__":
    sys.exit(main())
