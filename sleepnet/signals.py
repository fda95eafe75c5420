"""The signals by which a process is asked to stop: SIGTERM; SIGHUP, when its terminal closes; SIGUSR1, before its time under Slurm is up."""
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextlib.contextmanager
def handled(act: Callable[..., None], stops: tuple[signal.Signals, ...] = STOPS) -> Iterator[None]:
    """Within it each of these signals calls `act` (number, frame); behind it they do what they did before.

    One that is ignored, as `nohup` has SIGHUP ignored, stays so. Outside the main thread nothing changes: Python handles signals there alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {stop: signal.getsignal(stop) for stop in stops}
    heard = {stop: was for stop, was in before.items() if was != signal.SIG_IGN}
    for stop in heard:
        signal.signal(stop, act)
    try:
        yield
    finally:
        for stop, was in heard.items():
            signal.signal(stop, was)
