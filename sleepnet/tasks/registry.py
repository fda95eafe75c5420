"""Names of tasks → tasks. What registers a class in this package is found by itself: one file, or one folder, adds a task."""
import dataclasses
from typing import Any

from sleepnet import scalars
from sleepnet.errors import UsageError, nearest
from sleepnet.registry import Registry
from sleepnet.tasks.source import Source

_TASKS: Registry[type[Source]] = Registry("task", __package__, __file__)
register, names = _TASKS.register, _TASKS.names


def task_class(name: str) -> type[Source]:
    """Returns a task's class; raises UsageError for an unknown name."""
    if name not in names():
        raise UsageError(f"unknown task {name!r}{nearest(str(name), names())}")
    return _TASKS.all[name]


def get(name: str, **arguments: Any) -> Source:
    """Returns the task `name` with these arguments (lists and tuples are the same, and so are numpy's numbers and Python's).

    Raises:
      UsageError: for an unknown task, an unknown argument or an impossible value, naming the nearest name or the fix.
    """
    cls = task_class(name)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in arguments:
        if key not in known:
            raise UsageError(f"task {name!r} has no argument {key!r}{nearest(key, known)}")
    return cls(**scalars.python(arguments))
