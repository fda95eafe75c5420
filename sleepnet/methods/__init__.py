"""Toward what a model learns: one file a method. `names()` lists them, `get(name, **arguments)` makes one, `of(config)` a run's own."""
from sleepnet.methods.registry import get, names, of, register

__all__ = ["get", "names", "of", "register"]
