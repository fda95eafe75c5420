"""Depo, the task: `task.py` asks, `layout.py` has the arguments and places, `arrays.py` draws many examples at once."""
from sleepnet.tasks.depo.task import Depo

__all__ = ["Depo"]
