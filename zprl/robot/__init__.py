"""Robots, their limits and their sensors: drivers, safety filter, cameras."""
