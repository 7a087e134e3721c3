"""Worlds in MuJoCo: single worlds of the benchmarks, stepped side by side behind :class:`zprl.envs.base.VectorEnv`."""
