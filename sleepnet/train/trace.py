"""A profile of some steps, for TensorBoard, Perfetto or XProf."""
import sys
from collections.abc import Callable
from pathlib import Path

import jax


class Trace:
    """Traces the steps of `profile` (as in `RunConfig.profile`) into a folder.

    Args:
      profile: "start:stop", steps counted from 0; "": nothing is traced.
      folder: where JAX writes plugins/profile/…, or None in a process that leaves this to another.
    """

    def __init__(self, profile: str, folder: Path | None):
        self.start, self.stop = map(int, profile.split(":")) if profile and folder else (0, 0)
        self.folder, self.running = folder, False

    def before(self, step: int) -> None:
        """Begins with the first step of the span; a run that goes on in the middle of it traces what is left."""
        if not self.running and self.start <= step < self.stop:
            self.running = self._tried(jax.profiler.start_trace, str(self.folder))

    def after(self, step: int, numbers: object) -> None:
        """Ends once the last step's `numbers` are computed."""
        if self.running and step + 1 >= self.stop:
            jax.block_until_ready(numbers)
            self.close()

    def close(self) -> None:
        """Writes what was traced so far."""
        if self.running:
            self.running = False
            self._tried(jax.profiler.stop_trace)

    def _tried(self, action: Callable, *arguments: str) -> bool:
        """Whether it succeeded; a profile is no reason for a run to end."""
        try:
            action(*arguments)
            return True
        except (RuntimeError, OSError) as error:
            self.stop = 0
            print(f"{self.folder} can't be written to ({str(error).splitlines()[0]}): the run goes on without a profile", file=sys.stderr)
            return False
