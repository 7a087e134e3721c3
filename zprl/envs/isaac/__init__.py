"""Isaac Lab 3.0 without Kit: real PhysX (OvPhysX) in this process, on a CPU or a CUDA device, with assets authored here."""
