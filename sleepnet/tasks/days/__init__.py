"""A stream of days, the task: `task.py` asks, `layout.py` has the arguments and places, `arrays.py` draws many examples at once, `known.py` solves what is to be known."""
from sleepnet.tasks.days.task import Days

__all__ = ["Days"]
