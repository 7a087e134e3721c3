"""Close Prefect runs that a killed process left "Running"; Prefect itself never does (measured).

The next run does it, and so do ``zprl ui``, a worker that starts, and ``zprl run`` where all is up
to date: the concurrency limit of a deployment counts a dead run, and cancels the next one.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipelines import environment
from zprl import logs
from zprl.tracking.mlflow_tracker import is_orphan, owner_tags

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)


def claim(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Label a flow run with the process that works on it."""
    client.update_flow_run_labels(flow_run_id, {**owner_tags()})


def close_dead_flow_runs(client: SyncPrefectClient, *, but: UUID | None = None) -> int:
    """Mark flow runs whose process on this host is dead, and their task runs, as Crashed.

    Args:
        client: Client of the server.
        but: This flow run is left alone.

    Returns:
        How many flow runs it closed.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Crashed

    running = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        )
    )
    state: State[Any] = Crashed(message="its process died; closed by the next run")
    closed = 0
    for run in client.read_flow_runs(flow_run_filter=running):
        labels = {name: str(value) for name, value in (run.labels or {}).items()}
        if run.id == but or not is_orphan(labels):
            continue

        for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]})):
            if task.state is not None and not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        client.set_flow_run_state(run.id, state, force=True)
        closed += 1
    return closed


def close_on_server() -> None:
    """Close dead flow runs on the server in ``PREFECT_API_URL``; do nothing where it is not set.

    No command depends on it, so a server that does not answer is only reported.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return

    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            closed = close_dead_flow_runs(client)
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        log.warning("flow runs of killed processes were not looked for: %s", error)
        return
    if closed:
        log.warning("closed %d flow run(s) of killed processes", closed)


def main() -> int:
    """Close dead flow runs on this folder's server, in a process of its own: Prefect is large."""
    environment.prepare()
    logs.configure()
    close_on_server()
    return 0


if __name__ == "__main__":
    sys.exit(main())
