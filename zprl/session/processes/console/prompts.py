"""Texts by which the page asks the operator for the next step, or says what is going on."""

from __future__ import annotations

from zprl.robot.task import RealTask
from zprl.session.events import CONFIRM_CELL, State
from zprl.session.messages import Plan


def prompt(plan: Plan, task: RealTask, *, fault: str, label_episode: int | None) -> str:
    """Return the text for the present state.

    Args:
        plan: The supervisor's newest plan.
        task: The session's task.
        fault: Reason of the last stop, where it is known.
        label_episode: Episode that a label pressed now is about.
    """
    match plan.state:
        case State.ESTOP:
            return "E-stop pressed. Make the scene safe, then clear the stop."
        case State.FAULT if plan.reason == CONFIRM_CELL:
            return f"{CONFIRM_CELL}, then clear the stop."
        case State.FAULT:
            # Some faults end by themselves.
            stopped = f"Stopped: {fault or plan.reason}."
            return f"{stopped} If it stays so, make the scene safe, then clear the stop."
        case State.HOMING:
            return "Keep clear: the arm moves to its home pose."
        case State.PAUSED:
            return "Press Resume to go on."
        case State.COMMIT:
            return "Wait: the episode is being saved."
        case State.DONE:
            return "All episodes of the plan are done."
        case State.AWAIT_RESET:
            return _reset(plan, task)
        case State.AWAIT_LABEL:
            return f"Label episode {label_episode}: success or failure. {task.label.rule}"
        case State.IDLE:
            # Other prompts of the plan belong to states that are past.
            for_learner = plan.prompt.startswith("waiting")
            return plan.prompt if for_learner else "Wait: the session is getting ready."
        case _:
            return task.label.rule


def _reset(plan: Plan, task: RealTask) -> str:
    text = task.reset
    if plan.reset is not None and plan.reset.evaluation:
        text += f" Start position {plan.reset.start_number}."
    if plan.behind:
        text += " Then wait for the learner."
    return text
