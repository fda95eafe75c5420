"""SIGTERM while a run trains: the step in hand ends, a checkpoint is saved, the process leaves; the same command goes on later."""
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Preempted(Exception):
    """The run was told to stop; its checkpoint of `step` is saved."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"preempted at step {step} of {steps}; the same command goes on from there")
        self.step = step


@contextlib.contextmanager
def watch() -> Iterator[Callable[[], bool]]:
    """Yields `told()`: whether SIGTERM has come since. A second one does what it did before; outside the main thread nothing is watched."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def tell(*_):
        came.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
