"""Simulated robots on this machine that speak the real robots' protocols.

They have physics behind them, and faults on request.
"""

from zprl.robot_sim.control import SimControl, SimState, TrackerFeed
from zprl.robot_sim.process import SimProcess
from zprl.robot_sim.sim_gap import SimGap

__all__ = ["SimControl", "SimGap", "SimProcess", "SimState", "TrackerFeed"]
