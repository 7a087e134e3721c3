"""Isaac Gym Preview 4, a lab's own copy, in a process of Python 3.8; see docs/isaac-gym.md."""
