"""Safety in software: the filter bounds what is sent, the monitor watches what is measured.

Neither is a safety-rated function: the robot's own limits and the hardware stop in a person's hand
stay in force.
"""

from zprl.robot.monitor import Monitor
from zprl.robot.safety_filter import Filtered, SafetyFilter

__all__ = ["Filtered", "Monitor", "SafetyFilter"]
