"""What Orbax's own threads say of a save or a read that failed: to the run at once, and not as tracebacks beside its one line."""
import logging
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging as absl_logging

_TOLD = ("async_checkpointer.py", "checkpoint_manager.py", "checkpoint.py", "future.py")  # what these files of Orbax log as errors is raised as well


class Listener:
    """Calls `failed(error)`, in Orbax's thread, as soon as a save in the background has failed; until `stop`, or until nobody holds it any more.

    Orbax itself raises the error at the next save, and in a run of several processes waits for the others before, who wait for this one. Whose
    save it was the log does not say: every listener is told.
    """

    def __init__(self, failed: Callable[[BaseException], None]):
        self.failed = failed
        _listeners.add(self)
        absl_logging.get_absl_logger().addFilter(_for_the_terminal)  # once, however often it is added
        expect_late_answers()

    def stop(self) -> None:
        """Listens no more."""
        _listeners.discard(self)


def expect_late_answers() -> None:
    """Of a read or save that failed, what tensorstore answers later finds nobody who waits for it; from now on nothing is printed of that."""
    if not _hooks:
        _hooks.append(sys.unraisablehook)
        sys.unraisablehook = _but_late_answers


_hooks: list[Any] = []


def _but_late_answers(what: Any) -> None:
    if not (what.exc_type is RuntimeError and str(what.exc_value) == "Event loop is closed"):
        _hooks[0](what)


_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


def _for_the_terminal(record: logging.LogRecord) -> bool:
    path = Path(record.pathname)
    if not _listeners or record.levelno < logging.ERROR or "orbax" not in path.parts or path.name not in _TOLD:
        return True
    if record.exc_info and record.threadName == "async_save":
        for listener in tuple(_listeners):
            listener.failed(record.exc_info[1])
    return False
