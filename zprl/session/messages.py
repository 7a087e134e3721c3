"""The contents of the messages between a session's processes.  It imports no torch."""

from __future__ import annotations

SIM_WEIGHTS_VERSION = -1
"""The version of the weights that left simulation."""
