"""The virtualization model: NumPy and Numba, knows nothing of reinforcement learning."""

from .fresh import drop_stale_kernels

drop_stale_kernels()
