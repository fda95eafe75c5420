"""Helpers of a run of several processes that die: nobody waits for them, and no run fails for them."""
import os
import signal
import threading

from sleepnet.train import hosts
from sleepnet.train.sentinel import Sentinel


def test_a_sentinel_that_was_killed_can_be_dismissed():
    sentinel = Sentinel("127.0.0.1:1", "process 0 has died")
    os.kill(sentinel._child.pid, signal.SIGKILL)
    sentinel._child.wait()
    sentinel.dismiss()
    sentinel.dismiss()


def test_a_watch_that_fails_ends_its_process_with_a_line(monkeypatch, capsys):
    """Else a death would go unnoticed, and all the others would wait."""
    ended, watch = [], hosts.Watch()
    watch.over, watch.sentinel = threading.Event(), None
    monkeypatch.setattr(hosts.os, "_exit", ended.append)

    def look():
        raise ConnectionError("the service is gone")

    watch._watching(look)
    said = capsys.readouterr().err
    assert ended == [2] and said.startswith("error: this process can't watch the others any more (ConnectionError: the service is gone); ") and said.count("\n") == 1
    watch._watching(look)
    assert ended == [2] and capsys.readouterr().err == "", "it was over"
