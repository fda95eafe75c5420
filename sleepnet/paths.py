"""A person's path made ours, or refused by name before anything is read or written."""
import os
import re
from pathlib import Path

from sleepnet.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # a Path has made one slash of two
_GLOB = re.compile(r"[*?\[\\]")  # Orbax looks for its own files with the whole path as a pattern


def plain(given: str | os.PathLike, name: str = "path") -> Path:
    """`given` as an absolute path without `~` and `..`; symbolic links stay, but for those that a `..` follows.

    Args:
      given: as a person wrote it, relative to the working directory.
      name: of the flag, key or argument, for the refusal.

    Raises:
      UsageError: it is empty, a URL, or says ~USER where there is no such user.
    """
    text = os.fspath(given)
    if not text or "\0" in text:
        raise UsageError(f"{name}={text!r} is no path: give the name of a file or folder")
    if _URL.match(text):
        raise UsageError(f"{name}={text} is a URL, which would become a folder of that name here: give the path of a mounted folder")
    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise UsageError(f"{name}={text}: there is no such user; write ./{text} for a folder that is called so")
    parts = (Path.cwd() / home).parts
    out = Path(parts[0])
    for part in parts[1:]:
        out = out.resolve().parent if part == ".." else out / part
    return out


def given(text: str | None, name: str) -> Path | None:
    """`plain` of what a flag says, None where nothing was given."""
    return plain(text, name) if text else None


def readable(folder: Path, name: str = "path") -> Path:
    """Returns `folder`, as `plain` made it; raises UsageError where Orbax would write checkpoints that it can't find again."""
    if found := _GLOB.search(str(folder)):
        raise UsageError(f"{name}={folder}: Orbax finds no checkpoints where a path has a {found[0]} in it; rename that folder, or give a symbolic link to it")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name}={str(folder)!r}: Orbax takes UTF-8 alone; rename that folder, or give a symbolic link to it") from error
    return folder


def shown(path: Path) -> str:
    """A path for a reader: from the working directory on if it lies there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
