"""Products in a group, the task: `task.py` asks, `arrays.py` draws many examples at once, `elements.py` has the groups' elements and their tables."""
from sleepnet.tasks.group.task import Group

__all__ = ["Group"]
