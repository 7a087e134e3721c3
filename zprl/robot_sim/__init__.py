"""Doubles: robots on this machine that speak the real robots' protocols, with physics behind them and faults on request."""

from zprl.robot_sim.control import TrackerFeed, TwinControl, TwinState
from zprl.robot_sim.process import TwinProcess
from zprl.robot_sim.sim_gap import Gap

__all__ = ["Gap", "TrackerFeed", "TwinControl", "TwinProcess", "TwinState"]
