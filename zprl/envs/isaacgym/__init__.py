"""Isaac Gym Preview 4, a lab's own copy, behind :class:`zprl.envs.base.VectorEnv`: in a process of Python 3.8; see docs/isaac-gym.md."""
