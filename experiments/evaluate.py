"""Run one policy on one scenario from Python: the public face of ``experiments.run.cell``."""

from .run.cell import evaluate

__all__ = ["evaluate"]
