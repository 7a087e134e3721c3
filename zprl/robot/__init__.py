"""Robots, their limits and their senses: drivers, safety filter, cameras, doubles."""
