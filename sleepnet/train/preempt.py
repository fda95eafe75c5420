"""A run that trains is asked to stop: the step in hand ends, a checkpoint is saved, the process leaves; the same command goes on later."""
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from sleepnet import signals


class Preempted(Exception):
    """The run was told to stop; its checkpoint of `step` is saved."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"preempted at step {step} of {steps}; the same command goes on from there")
        self.step = step


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], bool]]:
    """Yields `told(step)`, asked before each step: whether to stop now, because SIGTERM, SIGHUP or SIGUSR1 has come.

    A second one does what it did before; outside the main thread nothing is watched. Of several processes one signal is for all: JAX's
    service, which takes SIGTERM itself, names a step that none has passed, and all stop there.
    """
    if jax.process_count() > 1:
        with signals.handled(lambda *_: os.kill(os.getpid(), signal.SIGTERM), tuple(stop for stop in signals.STOPS if stop != signal.SIGTERM)):
            yield multihost_utils.reached_preemption_sync_point
        return
    came = threading.Event()
    with contextlib.ExitStack() as watching:

        def tell(*_):
            came.set()
            watching.close()

        watching.enter_context(signals.handled(tell))
        yield lambda step: came.is_set()
