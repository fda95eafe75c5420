"""Config files as flags: run with what lies beside them, changed key by key, and refused in a line that names the file or the key."""
import ast
import contextlib
import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections.config_flags import config_flags

from sleepnet.errors import UsageError, nearest


def value(text: str) -> Any:
    """A value as Python writes it, true and false in any case; anything else is a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@contextlib.contextmanager
def beside(file: str | os.PathLike) -> Iterator[None]:
    """Within it what lies in the folder of `file` can be imported, as it can by a script that is run."""
    folder = os.path.dirname(os.path.abspath(file))
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it may have been taken away within
            sys.path.remove(folder)


@contextlib.contextmanager
def _blaming(path: str, file: str) -> Iterator[None]:
    """Errors within are of the config file: a UsageError says so, with the line."""
    try:
        yield
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = [error.lineno]
        told = (str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines() or [""])[0]
        what = told if isinstance(error, UsageError) else f"{type(error).__name__}: {told}".rstrip(": ")
        raise UsageError(f"{path}{f', line {lines[-1]}' if lines else ''}: {what}") from error


def namespace(file: str) -> dict[str, Any]:
    """What a config file defines.

    Raises:
      UsageError: it can't be run; tells the line and why.
    """
    with _blaming(file, file), beside(file):
        return runpy.run_path(file, run_name="config")


def load(path: str) -> Any:
    """What `get_config()` of a config file returns; of FILE:ARGUMENT, `get_config("ARGUMENT")`.

    Raises:
      UsageError: as `namespace`, and a file without get_config, or one that returns no config.
    """
    file, colon, argument = path.partition(":")
    defined = namespace(file)
    if not callable(defined.get("get_config")):
        raise UsageError(f"{file} defines no get_config(): a config file needs one that returns a config, made of sleepnet.config.default()")
    with _blaming(path, file), beside(file):
        config = defined["get_config"](*([argument] if colon else []))
    if not hasattr(config, "items"):
        given = "nothing: it lacks a `return config`" if config is None else f"a {type(config).__name__}, not a config made of sleepnet.config.default()"
        raise UsageError(f"{path}: get_config() returns {given}")
    return config


class _Loader(flags.ArgumentParser):
    """`load`, in the place of ml_collections' own; the config is locked against keys that it lacks."""

    def parse(self, argument: str) -> Any:
        config = load(argument)
        if hasattr(config, "lock"):
            config.lock()
        return config

    def flag_type(self) -> str:
        return "config object"


def parse(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Sets the flags and returns argv without them.

    Raises:
      UsageError: a missing or a bad config file, or an unknown key of it.
      flags.Error: a flag that is unknown or has a bad value.
    """
    configs = dict(_config_files(argv, flag_values))
    for name, path in configs.items():
        if path is not None and not os.path.isfile(path.split(":", 1)[0]):
            raise UsageError(f"--{name}={path}: there is no such file")
        flag_values[name].parser = _Loader()
    for name, key in _overrides(argv, configs):
        if configs[name] is None:
            raise UsageError(f"--{name}.{key} changes a config file: give --{name}=FILE before it")
    rest, arguments = _without_arguments(argv, configs)
    try:
        with _argv(rest):
            rest = flag_values(rest)
    except (KeyError, AttributeError) as error:
        _name_unknown_key(argv, configs, error)
        raise
    except flags.IllegalFlagValueError as error:
        if isinstance(error.__context__, UsageError):
            raise error.__context__ from None
        raise
    for name, key, text in arguments:
        _set_argument(flag_values[name].value, name, key, text)
    return rest


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    """ml_collections looks for its overrides in sys.argv, whatever it is asked to parse."""
    told, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = told


def _config_files(argv: list[str], flag_values: flags.FlagValues) -> Iterator[tuple[str, str | None]]:
    """(flag, path given or None) for every flag that takes a config file."""
    for name in flag_values:
        if config_flags.is_config_flag(flag_values[name]):
            path = None
            for argument, following in zip(argv, [*argv[1:], None]):
                if re.fullmatch(f"--?{name}", argument):
                    path = following
                elif match := re.match(f"--?{name}=(.*)", argument):
                    path = match[1]
            yield name, path


def _overrides(argv: list[str], configs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(flag, dotted key) for every `--config.key=value`."""
    for argument in argv[1:]:
        for name in configs:
            if match := re.match(rf"--?(?:no)?{name}\.([^=]+)", argument):
                yield name, match[1]


def _without_arguments(argv: list[str], configs: Iterable[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """argv without the overrides of an `arguments` section, such as --config.task.arguments.window=16, and these as (flag, dotted key, value in words).

    Such a section is the task's: it may lack any of what the task takes, and hold it in another form, a number for a range.
    """
    rest, found, given = [], [], list(argv)
    named = "|".join(map(re.escape, configs))
    while given:
        word = given.pop(0)
        if not named or not (match := re.fullmatch(rf"--?(no)?({named})\.((?:[^=]+\.)?arguments\.[^.=]+)(?:=(.*))?", word, re.DOTALL)):
            rest.append(word)
            continue
        no, name, key, text = match.groups()
        if text is None:
            text = "false" if no else given.pop(0) if given and not re.match("--?[a-zA-Z]", given[0]) else "true"
        found.append((name, key, text))
    return rest, found


def _set_argument(config: Any, name: str, key: str, text: str) -> None:
    """Sets one key of a section that may lack it; a number or a word stays of its kind where the file has one."""
    *sections, last = key.split(".")
    place = config
    for section in sections:
        place = place.get(section) if hasattr(place, "items") else None
    if not hasattr(place, "items"):
        raise UsageError(_unknown(name, key, config))
    old, new = place.get(last), value(text)
    if isinstance(old, str):
        new = text
    elif isinstance(old, bool) and new in (0, 1):
        new = bool(new)
    elif isinstance(old, float) and type(new) is int:
        new = float(new)
    with place.unlocked(), place.ignore_type():
        place[last] = new


def _name_unknown_key(argv: list[str], configs: Mapping[str, str | None], cause: Exception) -> None:
    """Raises a UsageError if an override names a key that its config lacks; ml_collections says which, but not where."""
    for name, key in _overrides(_without_arguments(argv, configs)[0], configs):
        config = load(configs[name])
        if key not in set(_keys(config, "")):
            raise UsageError(_unknown(name, key, config)) from cause


def _unknown(name: str, key: str, config: Mapping[str, Any]) -> str:
    return f"unknown flag --{name}.{key}{nearest(f'--{name}.{key}', (f'--{name}.{other}' for other in _keys(config, '')))}"


def _keys(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted keys of a config and of its sections."""
    for key, each in config.items():
        yield f"{prefix}{key}"
        if hasattr(each, "items"):
            yield from _keys(each, f"{prefix}{key}.")
