"""Worlds in MuJoCo: single worlds of the benchmarks, stepped side by side behind the contract."""

import ctypes.util
import os
import sys

# MuJoCo reads the variable when it is first imported.  EGL renders without a screen, on a GPU or on
# the CPU; without EGL, what MuJoCo chooses itself needs one, and only worlds that are asked for
# images will complain.
if sys.platform == "linux" and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")
