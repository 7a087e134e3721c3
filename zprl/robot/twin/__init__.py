"""Doubles: robots on this machine that speak the real robots' protocols, with physics behind them and faults on request."""

from zprl.robot.twin.control import TrackerFeed, TwinControl, TwinState
from zprl.robot.twin.gap import Gap
from zprl.robot.twin.process import TwinProcess

__all__ = ["Gap", "TrackerFeed", "TwinControl", "TwinProcess", "TwinState"]
