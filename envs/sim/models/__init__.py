"""The sub-models, one file a physical concern: parameters, closed forms and kernels, without the engine."""
