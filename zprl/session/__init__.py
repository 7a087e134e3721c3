"""A session with a robot: processes, state machine, recording, operator, learning."""
