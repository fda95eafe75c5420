"""Names of tasks → tasks. What registers a class in this package is found by itself: one file, or one folder, adds a task."""
import dataclasses
import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any, TypeVar

from sleepnet import scalars
from sleepnet.errors import UsageError, nearest
from sleepnet.tasks.base import Task

_TASKS: dict[str, type[Task]] = {}
_Class = TypeVar("_Class", bound=type[Task])


def register(cls: _Class) -> _Class:
    """Class decorator: makes a task known under `cls.name`."""
    if cls.name in _TASKS:
        raise ValueError(f"two tasks are called {cls.name!r}")
    _TASKS[cls.name] = cls
    return cls


@functools.cache
def _load() -> None:
    """Imports every file and folder of the package, so that every task has registered."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__package__}.{module.name}")


def names() -> tuple[str, ...]:
    """Returns the names of all tasks, sorted."""
    _load()
    return tuple(sorted(_TASKS))


def task_class(name: str) -> type[Task]:
    """Returns a task's class; raises UsageError for an unknown name."""
    if name not in names():
        raise UsageError(f"unknown task {name!r}{nearest(str(name), names())}")
    return _TASKS[name]


def get(name: str, **arguments: Any) -> Task:
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
