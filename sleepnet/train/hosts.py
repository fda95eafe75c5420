"""Several processes that train one model: how they meet, what they must agree on, what happens when one of them is gone.

Everything here does nothing in a run of one process. The processes talk through JAX's own coordination service.
"""
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name

from sleepnet import origin
from sleepnet.errors import UsageError
from sleepnet.train.preempt import Preempted
from sleepnet.train.sentinel import Sentinel

HEARTBEAT = 20  # seconds without a sign of life after which a process is taken for dead
_PERIOD = 1.0  # seconds between two looks at the others
_PATIENCE = 120_000  # milliseconds that the others may take to start, claim the workdir and so on
_AGAIN = "what is saved stays: run the same command in all of them to go on from the newest checkpoint, or to begin where there is none yet"
_ENVIRONMENT = {"coordinator": "JAX_COORDINATOR_ADDRESS", "process_id": "JAX_PROCESS_ID", "process_count": "JAX_NUM_PROCESSES"}


def connect(coordinator: str | None, process_id: int | None, process_count: int | None) -> None:
    """Joins the other processes, before JAX has looked for its devices; of one process alone nothing is asked.

    Args:
      coordinator: host:port of process 0; "auto": JAX finds out all three (TPU pods, Slurm and others); None: $JAX_COORDINATOR_ADDRESS.
      process_id: 0 … process_count − 1; None: $JAX_PROCESS_ID.
      process_count: None: $JAX_NUM_PROCESSES.

    Raises:
      UsageError: some of the three are missing or can't be.
    """
    given = {"coordinator": coordinator, "process_id": process_id, "process_count": process_count}
    found = {key: os.environ.get(name) if given[key] is None else given[key] for key, name in _ENVIRONMENT.items()}
    if not any(value is not None for value in found.values()):
        return
    jax.config.update("jax_enable_recoverability", True)  # a death is for `watch` to tell, in words; JAX would abort
    timeouts = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": HEARTBEAT}
    if found["coordinator"] == "auto":
        jax.distributed.initialize(**timeouts)
        return _introduce()
    for key, value in found.items():
        if value is None:
            raise UsageError(f"--{key} is missing (or ${_ENVIRONMENT[key]}): all three of --coordinator=HOST:PORT, --process_id, --process_count, or --coordinator=auto")
    try:
        number, count = int(found["process_id"]), int(found["process_count"])
    except ValueError as error:
        raise UsageError(f"process_id={found['process_id']!r} and process_count={found['process_count']!r} must be whole numbers") from error
    if not 0 <= number < count:
        raise UsageError(f"--process_id={number} must lie in 0 … {count - 1}: --process_count={count}")
    if not found["coordinator"].rpartition(":")[2].isdigit():
        raise UsageError(f"--coordinator={found['coordinator']} must be HOST:PORT of process 0")
    try:
        jax.distributed.initialize(found["coordinator"], count, number, initialization_timeout=_PATIENCE // 1000, **timeouts)
    except RuntimeError as error:
        raise UsageError(f"--coordinator={found['coordinator']}: process {number} of {count} can't join ({str(error).splitlines()[0]})") from error
    _introduce()


def _introduce() -> None:
    _tell(f"sleepnet/host/{distributed.global_state.process_id}", f"{socket.gethostname()}, pid {os.getpid()}")


def primary() -> bool:
    """Whether this is the process that writes logs: process 0, or the only one."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are others."""
    return jax.process_count() > 1


def _name(number: int) -> str:
    return f"process {number} of {jax.process_count()} ({_told(f'sleepnet/host/{number}')})"


def _tell(key: str, value: str) -> None:
    distributed.global_state.client.key_value_set(key, value)


def _told(key: str) -> str:
    return distributed.global_state.client.blocking_key_value_get(key, _PATIENCE)


def agree(card: Mapping[str, Any]) -> None:
    """Sees that all processes are about to train the same run with the same versions.

    Args:
      card: of this process, see `sleepnet.origin.card`.

    Raises:
      UsageError: in every process; names the first process that differs from process 0, and in what.
    """
    if not several():
        return
    _tell(f"sleepnet/card/{jax.process_index()}", json.dumps(card, sort_keys=True))
    first = _told("sleepnet/card/0")
    for number in range(1, jax.process_count()):
        other = _told(f"sleepnet/card/{number}")
        if other != first:
            there, here = origin.flat(json.loads(first)), origin.flat(json.loads(other))
            key = next(key for key in sorted(there.keys() | here.keys(), reverse=True) if there.get(key) != here.get(key))
            what = f"{key} is {there.get(key)!r} in process 0 and {here.get(key)!r} there"
            raise UsageError(f"{_name(number)} runs something else than process 0: {what}; start all with the same command, config file and packages")


def share(workdir: Path) -> None:
    """Sees that all processes see the same folder; makes it.

    Raises:
      UsageError: in every process; names those that do not see what process 0 wrote.
    """
    if not several():
        return
    token = workdir / ".shared.part"
    if primary():
        made = not workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        token.write_text(secrets.token_hex(16), encoding="utf-8")
        _tell("sleepnet/token", token.read_text(encoding="utf-8"))
    wanted, until, seen = _told("sleepnet/token"), time.monotonic() + 10, False
    while not seen and time.monotonic() < until:  # a network file system may take its time
        seen = token.exists() and token.read_text(encoding="utf-8") == wanted
        time.sleep(0 if seen else 0.2)
    _tell(f"sleepnet/saw/{jax.process_index()}", str(seen))
    blind = [number for number in range(jax.process_count()) if _told(f"sleepnet/saw/{number}") != "True"]
    if primary():
        token.unlink()
        if blind and made:
            workdir.rmdir()
    if blind:
        raise UsageError(f"--workdir={workdir} is not shared: {', '.join(map(_name, blind))} can't see what process 0 wrote there; give a folder that all hosts see")


def first(action: Callable[[], None], name: str) -> None:
    """Runs `action` in process 0 while the others wait; its UsageError is raised in all of them."""
    error = None
    if primary():
        try:
            action()
        except UsageError as raised:
            error = raised
    if several():
        if primary():
            _tell(f"sleepnet/first/{name}", str(error or ""))
        elif said := _told(f"sleepnet/first/{name}"):
            error = UsageError(said)
    if error:
        raise error


def wait(name: str) -> None:
    """Returns once all processes are here; each name once."""
    if several():
        distributed.global_state.client.wait_at_barrier(f"sleepnet/{name}", _PATIENCE)


def _leave() -> None:
    """Ends the service once the others have left it: JAX aborts a process that loses it."""
    if several():
        time.sleep(2 * _PERIOD if primary() else 0)
        jax.distributed.shutdown()


def fail(message: str) -> None:
    """Tells the others why this process ends, and ends it: the ordinary way out would wait for them."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    try:
        _tell(f"sleepnet/failed/{jax.process_index()}", message)
        time.sleep(2 * _PERIOD if primary() else 0)  # the service ends with process 0
    finally:
        os._exit(2)


class Watch:
    """Ends this process, with a line that names the one at fault, when another has failed or died; a context manager."""

    def __enter__(self) -> "Watch":
        self.over, self.sentinel = threading.Event(), None
        if several():
            if not primary():
                self.sentinel = Sentinel(distributed.global_state.coordinator_address, f"{_name(0)}, the coordinator, has died; {_AGAIN}")
            for target in (self._failures, self._deaths):
                threading.Thread(target=self._watching, args=(target,), daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if several() and isinstance(error, Exception) and not isinstance(error, (UsageError, FloatingPointError, OSError, Preempted)):
            self._await_blame(error)
        if kind is None or issubclass(kind, Preempted):
            wait("over")
            self._dismiss()
            _leave()
        self._dismiss()  # what this process has to say of its own end is enough

    def _dismiss(self) -> None:
        self.over.set()
        if self.sentinel:
            self.sentinel.dismiss()

    def _await_blame(self, error: Exception) -> None:
        """What fails here is most often another's death: the heartbeats know in `HEARTBEAT` seconds whose; if nobody's, the error is this process's own."""
        time.sleep(2 * HEARTBEAT)
        traceback.print_exception(error)
        fail(f"{type(error).__name__}: {error}")

    def _end(self, message: str) -> None:
        if not self.over.is_set():
            print(f"error: {message}; {_AGAIN}", file=sys.stderr, flush=True)
            self._dismiss()
            os._exit(2)

    def _watching(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # or nobody would notice a death any more, and all wait for ever
            self._end(f"this process can't watch the others any more ({type(error).__name__}: {error})")

    def _failures(self) -> None:
        """What others have told of themselves."""
        while not self.over.wait(_PERIOD):
            try:
                told = distributed.global_state.client.key_value_dir_get("sleepnet/failed/")
            except Exception:  # the service is gone: `_deaths` will tell
                continue
            for key, message in told:
                number = int(key.rsplit("/", 1)[1])
                if number != jax.process_index():
                    self._end(f"{_name(number)} has ended: {message}")

    def _deaths(self) -> None:
        """What JAX's heartbeats tell of others."""
        everyone = list(range(jax.process_count()))
        names = [_name(number) for number in everyone]
        while not self.over.wait(_PERIOD):
            try:
                alive = distributed.global_state.client.get_live_nodes(everyone)
            except Exception as error:
                self._end(f"{names[0]}, the coordinator, has died ({str(error).splitlines()[0][:120]})")
                continue
            if dead := [names[number] for number in everyone if number not in alive]:
                self._end(f"{', '.join(dead)} {'have' if len(dead) > 1 else 'has'} died")
