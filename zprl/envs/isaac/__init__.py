"""Isaac Lab 3.0 in this process, with assets that are authored here.

PhysX or Newton run without Kit, on a CPU or a CUDA device; Isaac Sim runs with it.
"""
