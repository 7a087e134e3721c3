"""The messages between a session's processes: topics and contents.  It imports no torch.

A message is a JSON object; :mod:`zprl.session.bus` carries it.  Topics are listed in
:class:`Topic`.
"""

from __future__ import annotations

import enum

SIM_WEIGHTS_VERSION = -1
"""Version of the weights that left simulation."""


class Topic(enum.StrEnum):
    """The subject of a message."""

    PLAN = "plan"
    """From the supervisor: where the session is, and what each process has to do."""
    INPUT = "input"
    """A press of the operator (:class:`zprl.session.inputs.OperatorInput`)."""
    BEAT = "beat"
    """A process is alive."""
    EVENT = "event"
    """Something happened to the robot, an episode or a recording."""
    STATE = "state"
    """From the driver: the robot's state at a control step."""
    TWIST = "twist"
    """State of the SpaceMouse."""
    CHUNK_REQUEST = "wish"
    """From the driver: the observations from which the next chunk is made."""
    CHUNK = "chunk"
    """From the actor: the actions of one decision."""
    FINAL = "final"
    """From the actor: embedding and anchor of an episode's last observation."""
    FRAME = "frame"
    """From the driver: the row of one control step."""
    FRAME_FINAL = "frame_final"
    """From the driver: an episode's last observation."""
    WEIGHTS = "weights"
    """From the learner: a version of the weights is on the disk."""
    LEARNING = "learning"
    """From the learner: a row of the learning curve."""
    COMMITTED = "committed"
    """From the recorder: an episode is on the disk."""
    LABELLED = "labelled"
    """From the recorder: a label is on the disk."""
    LOST = "lost"
    """From the recorder: there is no such episode to commit."""
