"""A folder has one writer: a lock that dies with the process that holds it."""
import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sleepnet.errors import UsageError

NAME = ".lock"
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)  # of some network file systems


@contextlib.contextmanager
def held(folder: Path, work: str, *, wait: bool = False) -> Iterator[None]:
    """Within it this process alone, of those that ask, writes to `folder`, which is made; who holds it stands in the file `.lock`, gone at the end.

    A file system without locks is told about on stderr, and nobody is kept out. One that is read-only needs none.

    Args:
      folder: what is written to.
      work: what this process is, for those who come second: "a training".
      wait: for the one who was first, instead of the error.

    Raises:
      UsageError: another process has it; tells which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = _locked(folder, wait)
    except OSError as error:
        if error.errno not in (*_NO_LOCKS, errno.EROFS):
            raise
        if error.errno != errno.EROFS:
            print(f"{folder}: this file system knows no locks, nothing keeps a second writer out", file=sys.stderr)
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(file, 0)
            os.write(file, f"{work}, pid {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()  # before another can have it
    finally:
        os.close(file)


def _locked(folder: Path, wait: bool) -> int:
    """The lock's file, open and locked."""
    while True:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _same(file, folder / NAME):
                return file
        except BlockingIOError:
            first = os.pread(file, 1000, 0).decode(errors="replace") or "another process"
            os.close(file)
            raise UsageError(f"{folder} is in use by {first}: wait for it or end it, or give another folder") from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the one before has removed it: it locks nothing any more


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
