"""The control loop of the process ``driver``, one concept a module."""
