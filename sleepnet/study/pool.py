"""Runs side by side, each in a process of its own; the results do not depend on how many there are at a time."""
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sleepnet import cli, trust
from sleepnet.errors import UsageError
from sleepnet.study.ledger import prepare
from sleepnet.study.runs import Run

Command = Callable[[Run, tuple[int, ...]], list[str]]

_GRACE = 60.0  # seconds a worker has to end by itself: a checkpoint may be on its way to the disk
_LOG_LINES = 12


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that ended without an outcome, and the last lines it printed.

    Attributes:
      run: which.
      status: that it, or its cause, ended with.
      tail: of the log of the run that ended.
      cause: the phase before it that ended so, for which it was never started; None: it ended itself.
    """

    run: Run
    status: int
    tail: str
    cause: Run | None = None


def worker_command(run: Run, cores: tuple[int, ...]) -> list[str]:
    """The command line of a run's worker."""
    return [sys.executable, "-m", "sleepnet.study.worker", f"--folder={run.folder}", f"--cores={','.join(map(str, cores))}", *trust.flags()]


def slots(jobs: int, cores_per_run: int) -> list[tuple[int, ...]]:
    """Cores of each slot. A run gets as many whatever `jobs` is, since XLA's sums depend on the number of its threads.

    Args:
      jobs: runs at a time; 0: as many as there are cores for, or 1 where JAX finds an accelerator.
      cores_per_run: of a run on CPU.
    """
    if jobs < 0 or cores_per_run < 1:
        raise UsageError(f"--jobs={jobs} must be at least 0 and --cores_per_run={cores_per_run} at least 1")
    if _accelerated():
        return [()] * (jobs or 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    groups = [tuple(cores[i:i + cores_per_run]) for i in range(0, len(cores) - cores_per_run + 1, cores_per_run)]
    if not groups:
        raise UsageError(f"--cores_per_run={cores_per_run}, but this process may use {len(cores)} cores")
    return [groups[i % len(groups)] for i in range(jobs or len(groups))]


def _accelerated() -> bool:
    """Whether JAX would use something other than the CPU; asked in another process, which lets go of it again.

    Raises:
      UsageError: JAX has no device, so that no run could start.
    """
    probe = "import jax; from sleepnet import cli; print(cli.device_fault() or jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    told = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()[-1:] or ["JAX can't be loaded"]
    if found.returncode or " " in told[0]:
        raise UsageError(told[0])
    return told[0] != "cpu"


def execute(
    runs: Sequence[Run], groups: Sequence[tuple[int, ...]], watch: Callable[[dict[str, str]], Any], command: Command | None = None
) -> list[Failure]:
    """Runs everything in the order given, one run a group at a time, each once what it starts from has finished, and returns those that failed.

    Args:
      runs: what is to be run; what a run starts from stands before it, or has finished.
      groups: cores of each slot.
      watch: called a few times a second with {run's name: waiting, running, finished or failed}.
      command: how a run is started; `worker_command` if None.

    Raises:
      KeyboardInterrupt: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1; the children have ended.
    """
    command = command or worker_command
    states = {run.name: "waiting" for run in runs}
    pending, free, children, failures = list(runs), list(groups), {}, []
    open_now = lambda run: run.after is None or states.get(run.after.name, "finished") == "finished"
    with cli.stops_interrupt():
        try:
            while pending or children:
                while free and (run := next(filter(open_now, pending), None)):
                    pending.remove(run)
                    cores = free.pop(0)
                    children[run.name] = (run, cores, _start(run, command(run, cores)))
                    states[run.name] = "running"
                for name, (run, cores, process) in list(children.items()):
                    if (status := process.poll()) is None:
                        continue
                    del children[name]
                    free.append(cores)
                    good = status == 0 and run.outcome.exists()
                    states[name] = "finished" if good else "failed"
                    if not good:
                        failures.append(Failure(run, status, _tail(run)))
                        lost = [other for other in pending if any(one.name == name for one in other.before)]
                        failures += [Failure(other, status, failures[-1].tail, run) for other in lost]
                        pending = [other for other in pending if other not in lost]
                        states |= {other.name: "failed" for other in lost}
                watch(states)
                if children:
                    time.sleep(0.2)
        finally:
            _end([process for _, _, process in children.values()])
    return failures


def _start(run: Run, command: list[str]) -> subprocess.Popen:
    prepare(run)
    with open(run.log, "ab") as log:
        # a session of its own: Ctrl-C reaches the study alone, which then ends its workers once
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _tail(run: Run) -> str:
    lines = run.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return "\n".join(lines[-_LOG_LINES:])


def _end(processes: list[subprocess.Popen]) -> None:
    """Asks, waits, then kills."""
    for process in processes:
        process.terminate()
    try:
        deadline = time.monotonic() + _GRACE
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.kill()
            process.wait()
