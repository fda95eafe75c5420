"""Forgetting on purpose: `unlearn.py` and `revert.py` are methods, `spectrum.py` has MAST's scores."""
from sleepnet.methods.forgetting import revert, unlearn

__all__ = ["revert", "unlearn"]
