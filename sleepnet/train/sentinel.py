"""A child that speaks for a process which JAX aborts: a client that loses the coordination service is ended from C++, before any Python can tell why.

The child holds a pipe to its parent. If the pipe breaks without a word, and nobody listens at the coordinator's address any more, it says on the
parent's stderr who is gone.
"""
import contextlib
import subprocess
import sys

_CODE = """
import os, socket, sys
address, message = sys.argv[1:]
if not sys.stdin.buffer.read():
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        print("error: " + message, file=sys.stderr, flush=True)
"""


class Sentinel:
    """Says `message` once this process is gone without having dismissed it and nobody answers at `address` (host:port)."""

    def __init__(self, address: str, message: str):
        # isolated and without site packages it starts in milliseconds; a session of its own spares it the terminal's Ctrl-C
        command = [sys.executable, "-I", "-S", "-c", _CODE, address, message]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        """Sends the child home; what comes then is no accident."""
        if not self._child.stdin.closed:
            with contextlib.suppress(OSError):  # somebody has killed it
                self._child.stdin.write(b".")
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=10)
