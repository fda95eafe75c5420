"""Files that are whole or not there."""
import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sleepnet import paths
from sleepnet.errors import UsageError

# what takes no more, and what helps
FULL = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some of your quota", errno.EFBIG: "raise the limit (ulimit -f)"}


@contextlib.contextmanager
def named(what: str | Path) -> Iterator[None]:
    """Gives an OSError that tells no file, as that of a full disk does, this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(what)
        raise


def full(error: BaseException) -> int:
    """The errno of a disk, a quota or a file that takes no more, where a library tells of it in an error of its own; 0 of any other error."""
    return next((number for number in FULL if os.strerror(number) in str(error)), 0)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside `path`, to the disk, then renames: a reader, or a run killed here, never sees half a file, and what fails leaves nothing behind."""
    path = Path(os.path.realpath(paths.plain(path, "file")))  # a symbolic link goes on pointing where it did
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # a device or a pipe can't be renamed to; a folder says that it is one
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # what a person knows of, and a full disk does not say
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8, by `write_bytes`."""
    write_bytes(path, text.encode())


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises OSError or ValueError where there is none."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} where a JSON object should be")
    return found


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UsageError: there is none, or it is damaged; `fix` says what to do then.
    """
    try:
        return json_object(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read ({error}); {fix}") from error


def json_lines(text: str, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The whole lines of `text` that are JSON objects with these keys, as they stand and read: not what a kill has cut or a disk has spoilt."""
    for line in text.splitlines(keepends=True):
        try:
            found = json.loads(line) if line.endswith("\n") else None
        except ValueError:
            continue
        if isinstance(found, dict) and found.keys() >= set(keys):
            yield line, found


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, by `write_bytes`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
