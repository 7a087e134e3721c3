"""Sensors beside the robot: cameras and pose trackers."""
