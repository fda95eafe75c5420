"""A run's `tensorboard/`: an extra beside metrics.jsonl, written by the run's own thread, so that nothing waits for one that has died."""
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

_FLUSH = 10.0  # seconds between two that wait for the disk


class Board:
    """Scalars for TensorBoard; what can't be written is told once, and the run goes on without.

    Args:
      folder: where to, made if it is missing.
      purge: from this step on TensorBoard hides what earlier legs of the run have written; None: nothing.
    """

    def __init__(self, folder: Path, purge: int | None):
        self.folder, self.writer, self.flushed = folder, None, time.monotonic()
        try:
            folder.mkdir(exist_ok=True)
            self.writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")  # two legs can begin within a second
            if purge is not None:
                self.writer.write_event(Event(step=purge, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            self._give_up(error)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Scalars by their tags."""
        if not self.writer:
            return
        try:
            scalars = [scalar for tag, value in values.items() for scalar in summary.scalar(tag, value).value]
            self.writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=scalars)))
            if time.monotonic() - self.flushed > _FLUSH:
                self.writer.flush()
                self.flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Lets go of the file."""
        try:
            if self.writer:
                self.writer.close()
        except OSError as error:
            self._give_up(error)
        self.writer = None

    def _give_up(self, error: OSError) -> None:
        print(f"{self.folder} can't be written to ({error.strerror or error}): the run goes on without it, metrics.jsonl has everything", file=sys.stderr)
        with contextlib.suppress(OSError):
            if self.writer:
                self.writer.close()
        self.writer = None
