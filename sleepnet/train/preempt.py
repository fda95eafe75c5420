"""SIGTERM while a run trains: the step in hand ends, a checkpoint is saved, the process leaves; the same command goes on later."""
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was told to stop; its checkpoint of `step` is saved."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"preempted at step {step} of {steps}; the same command goes on from there")
        self.step = step


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
    """Yields `told(step)`, asked before each step: whether to stop now, because SIGTERM has come.

    A second SIGTERM does what it did before; outside the main thread nothing is watched. Of several processes one SIGTERM is for all: JAX's
    service, which takes the signal itself, names a step that none has passed, and all stop there.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    came = threading.Event()
    told = lambda step: came.is_set()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def tell(*_):
        came.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
