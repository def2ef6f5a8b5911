"""Integer-only inference: what a device runs, in NumPy, exported from PyTorch and equal to it in every code."""
