"""The virtualization model: NumPy and Numba, knows nothing of reinforcement learning."""
