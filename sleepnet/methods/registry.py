"""Names of methods → methods. A module of this package that registers a class is found by itself: one file adds a method; so does `--config.method.name=my_methods:MINE`."""
import dataclasses
from typing import Any

from sleepnet import scalars, trust
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError, nearest
from sleepnet.methods.base import Method
from sleepnet.registry import Registry

_METHODS: Registry[type[Method]] = Registry("method", __package__, __file__)
register, names = _METHODS.register, _METHODS.names


def method_class(name: str) -> type[Method]:
    """Returns a method's class, by its name or from "module:NAME".

    Raises:
      UsageError: there is none; its line names `method.name`.
    """
    if ":" in name:
        found = trust.find("method.name", name)
        if not (isinstance(found, type) and issubclass(found, Method) and dataclasses.is_dataclass(found)):
            raise UsageError(f"method.name={name!r} is no subclass of sleepnet.methods.base.Method that is a dataclass")
        if found.__abstractmethods__:
            raise UsageError(f"method.name={name!r} lacks {', '.join(sorted(found.__abstractmethods__))}, which every method has: see sleepnet.methods.base.Method")
        return found
    if name not in names():
        raise UsageError(f"method.name={name!r} is unknown{nearest(name, names())}; a method of your own is 'module:NAME', a sleepnet.methods.base.Method")
    return _METHODS.all[name]


def get(name: str, **arguments: Any) -> Method:
    """Returns the method `name` with these arguments.

    Raises:
      UsageError: an unknown method or argument, a value of another type than the argument's default, or one that the method refuses.
    """
    cls = method_class(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in scalars.python(arguments).items():
        if key not in fields:
            raise UsageError(f"method {name!r} has no argument {key!r}{nearest(key, fields)}")
        values[key] = _converted(f"method.arguments.{key}", value, fields[key].type)
    return cls(**values)


def _converted(key: str, value: Any, kind: Any) -> Any:
    """The value as the argument's type, where that is a plain one."""
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(value, list):
        value = tuple(value)
    if kind in (int, float, bool, str) and type(value) is not kind:
        raise UsageError(f"{key}={value!r} must be a {kind.__name__}")
    return value


def of(config: RunConfig) -> Method:
    """The method that `config.method` names; raises UsageError as `get`."""
    return get(config.method.name, **config.method.arguments)
