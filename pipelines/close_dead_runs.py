"""Prefect runs that a killed process left "Running" are closed at the next start; Prefect itself never does (measured)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from zprl.tracking.mlflow_tracker import is_orphan, owner_tags

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def claim(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Label a flow run with the process that works on it."""
    client.update_flow_run_labels(flow_run_id, owner_tags())


def close_dead_flow_runs(client: SyncPrefectClient, *, but: UUID | None = None) -> int:
    """Mark flow runs, and their task runs, as Crashed whose process on this host is dead; returns how many."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        )
    )
    state = Crashed(message="its process died; found and closed by the next run")
    closed = 0
    for run in client.read_flow_runs(flow_run_filter=running):
        if run.id == but or not is_orphan(
            {name: str(value) for name, value in (run.labels or {}).items()}
        ):
            continue
        for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]})):
            if task.state is not None and not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        client.set_flow_run_state(run.id, state, force=True)
        closed += 1
    return closed
