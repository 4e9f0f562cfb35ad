"""What Numba needs: handles to arrays, kernels by model, sorting."""
