"""JAX's persistent compilation cache in a run's folder: a run that goes on compiles nothing twice.

What lies there is native code, which JAX loads unseen. A folder is used only where nobody but its user can have put something into it.
"""
import contextlib
import grp
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from sleepnet import paths


@contextlib.contextmanager
def cached(where: str, workdir: Path) -> Iterator[None]:
    """Within it, what takes JAX's `jax_persistent_cache_min_compile_time_secs` or longer to compile is kept on disk and found there again.

    A folder that `refusal` speaks against is told of on stderr, and neither read nor written.

    Args:
      where: `workdir`: in `workdir`/compiled, unless JAX has been told of a folder by other means (JAX_COMPILATION_CACHE_DIR); `off`: as
        JAX has been told; any other: this folder. A new one is made that nobody else may enter.
      workdir: the run's folder.
    """
    told = jax.config.jax_compilation_cache_dir
    if where == "off" or (where == "workdir" and told):
        yield
        return
    folder = workdir / "compiled" if where == "workdir" else paths.plain(where, "compile_cache")
    if why := _made_private(folder):
        print(f"warning: what is compiled is neither read from {folder} nor kept there, since {why}; compile_cache=off says no more of it", file=sys.stderr)
        yield
        return
    _point_at(str(folder.resolve()))  # what has been looked at, wherever a link may point to by and by
    try:
        yield
    finally:
        _point_at(told)


def refusal(folder: Path) -> str:
    """Why what lies in `folder` may have been put there by somebody else, and the fix; "" if it can't.

    It must be this user's, with everything in it, and no link may lead out of it; the folder around it this user's or root's. Nobody else may write any of
    them, but that other users may have folders of their own beside it, as in /tmp.
    """
    folder = folder.resolve()
    if not folder.exists():
        return ""
    around = folder.parent.stat()
    if around.st_uid not in (os.getuid(), 0):
        return f"{folder.parent} belongs to another user: compile_cache=FOLDER keeps it in one of your own"
    if _others_write(around) and not around.st_mode & stat.S_ISVTX:
        return f"others may write {folder.parent}: {shlex.join(['chmod', 'go-w', str(folder.parent)])} takes that away"
    return _within(folder, folder)


def _within(path: Path, folder: Path) -> str:
    try:
        found = path.lstat()
    except FileNotFoundError:  # another process has just put it in its place
        return ""
    if stat.S_ISLNK(found.st_mode) or not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return f"{path} is neither a file nor a folder: {shlex.join(['rm', '-r', str(folder)])} makes room for a new one"
    if found.st_uid != os.getuid():
        return f"{path} belongs to another user: {shlex.join(['rm', '-r', str(folder)])} makes room for a new one"
    if _others_write(found):
        return f"others may write {path}: if nobody has, {shlex.join(['chmod', '-R', 'go-w', str(folder)])} takes that away"
    return next(filter(None, (_within(each, folder) for each in path.iterdir())), "") if stat.S_ISDIR(found.st_mode) else ""


def _others_write(found: os.stat_result) -> bool:
    return bool(found.st_mode & stat.S_IWOTH) or bool(found.st_mode & stat.S_IWGRP and not _alone(found.st_gid))


def _alone(group: int) -> bool:
    """Whether a group is what many systems give each user for themselves, with a umask that lets it write; root's is not: services are in it."""
    try:
        mine, this = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return mine.pw_uid != 0 and (this.gr_gid, this.gr_name) == (mine.pw_gid, mine.pw_name) and set(this.gr_mem) <= {mine.pw_name}


def _made_private(folder: Path) -> str:
    """Makes the folder if it is not there, for this user alone; `refusal`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return f"{folder} is no folder: {shlex.join(['rm', str(folder)])} makes room for one"
    return refusal(folder)


def _point_at(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX looks at the setting once, at its first compilation
