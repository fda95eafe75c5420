"""Names → classes. What registers in a package is found by itself: one file, or one folder, adds an entry."""
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Generic, TypeVar

_Class = TypeVar("_Class", bound=type)


def modules(package: str, folder: Path) -> dict[str, ModuleType]:
    """Name → module of every file and folder of a package, but for those that begin with an underscore, imported."""
    names = [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


class Registry(Generic[_Class]):
    """The classes of a package by their `name`.

    Args:
      kind: what an entry is called, in the singular.
      package: whose files and folders, but for those that begin with an underscore, are imported once a name is asked for; its folder is that of `file`.
      file: a file of the package.
    """

    def __init__(self, kind: str, package: str, file: str):
        self.kind, self.package, self.folder, self._known = kind, package, Path(file).parent, {}

    def register(self, cls: _Class) -> _Class:
        """Class decorator: makes a class known under `cls.name`; raises ValueError where another has that name."""
        if cls.name in self._known:
            raise ValueError(f"two {self.kind}s are called {cls.name!r}")
        self._known[cls.name] = cls
        return cls

    @functools.cached_property
    def all(self) -> Mapping[str, _Class]:
        """Name → class, of all: the package's files have been imported."""
        modules(self.package, self.folder)
        return MappingProxyType(self._known)

    def names(self) -> tuple[str, ...]:
        """The names of all, sorted."""
        return tuple(sorted(self.all))
