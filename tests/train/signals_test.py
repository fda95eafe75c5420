"""What asks a process to stop: each signal is heard while a run trains or a command works, and does what it did before and behind that."""
import os
import signal

import jax
import pytest

from sleepnet import cli, signals
from sleepnet.train import preempt

each = pytest.mark.parametrize("stop", ["SIGTERM", "SIGHUP", "SIGUSR1"])


@pytest.fixture(autouse=True)
def heard():
    """Signals that do no harm where nobody handles them: what came is written down."""
    came = []
    before = {stop: signal.signal(stop, lambda number, _: came.append(number)) for stop in signals.STOPS}
    yield came
    for stop, was in before.items():
        signal.signal(stop, was)


def handlers():
    return [signal.getsignal(stop) for stop in signals.STOPS]


@each
def test_a_run_is_told_to_stop_once_and_a_second_does_what_it_did_before(stop, heard):
    number, before = getattr(signal, stop), handlers()
    with preempt.watch() as told:
        assert not told(0)
        os.kill(os.getpid(), number)
        assert told(1) and heard == [] and handlers() == before
        os.kill(os.getpid(), number)
        assert heard == [number]
    with preempt.watch() as told:
        assert not told(0) and handlers() != before
    assert handlers() == before


@pytest.mark.parametrize("within", [preempt.watch, cli.stops_interrupt])
def test_what_is_ignored_stays_ignored(within):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    with within():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@each
def test_a_command_is_interrupted(stop):
    before = handlers()
    with pytest.raises(KeyboardInterrupt), cli.stops_interrupt():
        os.kill(os.getpid(), getattr(signal, stop))
    assert handlers() == before


@pytest.mark.parametrize("stop", ["SIGHUP", "SIGUSR1"])
def test_of_several_processes_each_signal_becomes_the_one_that_jax_waits_for(stop, heard, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with preempt.watch():
        os.kill(os.getpid(), getattr(signal, stop))
    assert heard == [signal.SIGTERM]
