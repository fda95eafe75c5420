"""The benchmarks: pure functions (seed, split, index) → example, in numpy alone.

`get("depo", nodes=10, hops=4)` returns a task; `names()` lists them; `python -m sleepnet.tasks describe depo` explains one.
"""
from sleepnet.tasks.registry import get, names

__all__ = ["get", "names"]
