"""The phone book, the task: `task.py` asks, `layout.py` has the arguments and places, `arrays.py` draws many examples at once, `known.py` solves it."""
from sleepnet.tasks.phonebook.task import Phonebook

__all__ = ["Phonebook"]
