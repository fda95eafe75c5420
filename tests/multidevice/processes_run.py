"""`python -m sleepnet.train` for `processes_test.py`, with batches that come as slowly as $SECONDS_A_BATCH says, so that a test can step in."""
import os
import time

from sleepnet import cli, data
from sleepnet.train import __main__ as command

real = data.BatchSource.__getitem__


def slow(self, index):
    time.sleep(float(os.environ.get("SECONDS_A_BATCH", "0")))
    return real(self, index)


if __name__ == "__main__":
    data.BatchSource.__getitem__ = slow
    cli.run(command.main, command.FLAGS)
