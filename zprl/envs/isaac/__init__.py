"""Isaac Lab 3.0 in this process: PhysX or Newton without Kit, on a CPU or a CUDA device, or Isaac Sim; assets are authored here."""
