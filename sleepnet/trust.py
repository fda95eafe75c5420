"""Whose code may run: a module that a configuration names as "module:NAME" is imported only where the person named it, never because a file did.

A person names a module by a config file, a flag or code that builds a configuration, and by --trust (`allow`). What is built from a saved file is built
within `reading`, where a name counts for nothing; `find` imports what has been named and refuses the rest.
"""
import contextlib
import importlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sleepnet.errors import UsageError

_NAMED: set[str] = set()  # modules, since the process began
_SOURCE: ContextVar[str] = ContextVar("source", default="")  # the saved file that is being read; "": none, the person speaks
# ASCII alone: what is refused is printed to be copied, into a shell, by someone who reads it
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PLACE = re.compile(rf"({_MODULE.pattern}):[A-Za-z_]\w*", re.ASCII)
HELP = "modules, such as my_rules, whose code a saved configuration may ask for, comma-separated; one that this command's own config file or flags name needs no such word"


def allow(*modules: str) -> None:
    """Lets configurations of any origin name these modules from now on, as --trust does; a package does not stand for the modules in it.

    Raises:
      UsageError: not a module's name.
    """
    for module in modules:
        if not _MODULE.fullmatch(module):
            raise UsageError(f"--trust={module} must be names of modules, such as --trust=my_rules,lab.rules")
    _NAMED.update(modules)


def listed(modules: str) -> tuple[str, ...]:
    """The names in what --trust was given, where that is not split yet."""
    return tuple(filter(None, modules.split(",")))


def allowed() -> tuple[str, ...]:
    """The modules that have been named."""
    return tuple(sorted(_NAMED))


def flags() -> list[str]:
    """What another process is told that is to trust what this one does: --trust=…, or nothing."""
    return [f"--trust={','.join(allowed())}"] if _NAMED else []


@contextlib.contextmanager
def reading(source: str | Path = "") -> Iterator[None]:
    """Within it configurations are built from a saved file, `source`; of several, one in another, the inner one is told where it is known.

    Raises:
      UsageError: one that is raised within, behind the name of the file: a saved configuration is refused where it is damaged or newer than this package.
    """
    token = _SOURCE.set(str(source) or _SOURCE.get() or "a saved configuration")
    try:
        yield
    except UsageError as error:
        if not str(source) or str(error).startswith(str(source)):
            raise
        raise UsageError(f"{source}: {error}; if a newer version of sleepnet wrote it, use that one") from error
    finally:
        _SOURCE.reset(token)


def named(*values: Any) -> None:
    """Takes note of the modules in values that a person gave, those of the form "module:NAME"; within `reading` of none."""
    if not _SOURCE.get():
        _NAMED.update(place[1] for value in values if isinstance(value, str) and (place := _PLACE.fullmatch(value)))


def find(key: str, where: str) -> Any:
    """What is at "module:NAME", which a configuration says under `key`.

    Raises:
      UsageError: it is not of that form, nobody has named the module, or there is no such module or name in it; the line has the key and the fix.
    """
    if not (place := _PLACE.fullmatch(where)):
        raise UsageError(f"{key}={where!r} must be a known name, or 'module:NAME'")
    module, name = place[1], where.partition(":")[2]
    if module not in _NAMED:
        raise UsageError(
            f"{_SOURCE.get() or 'this configuration'} asks for code of the module {module} ({key}={where!r}): if you know and trust it, add --trust={module} "
            f"(in Python, sleepnet.trust.allow({module!r}))"
        )
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that the module itself needs
            raise
        raise UsageError(f"{key}={where!r}: no module {error.name}; run where it can be imported: from its folder, or with that in PYTHONPATH") from None
    if not hasattr(found, name):
        raise UsageError(f"{key}={where!r}: the module {module} has no {name!r}")
    return getattr(found, name)
