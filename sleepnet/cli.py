"""What every command line does around its `main`: flags, help, output to whatever takes it, and errors as one line."""
import ast
import argparse
import contextlib
import errno
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from absl import flags, logging

from sleepnet import config_files, files, signals, trust
from sleepnet.errors import UsageError, nearest

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141  # exit codes: ours for a request that can't be met, the shell's for signals
_TRUST = "trust"
_HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")
_PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_FIXES = {
    **{number: f"{fix} or write elsewhere" for number, fix in files.FULL.items()},
    errno.EACCES: "change its permissions or give another path",
    errno.EROFS: "write elsewhere",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of that path is a file: give another path",
    errno.EISDIR: "give a file's path",
    errno.EEXIST: "a file, or a link to nothing, is in its place: move it away or give another path",
}


def run(main: Callable[[list[str]], int | None], flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Parses `sys.argv`, calls `main(argv)` and exits the process; the counterpart of `absl.app.run`.

    `--help` shows the docstring of `main`'s module and the flags defined there, and exits with 0. A UsageError, an OSError, a
    bad flag or an unknown `--config.key` becomes one line `error: …` on stderr and exit code 2; an interrupt exits with
    130. Every other exception is a bug and keeps its traceback.

    Args:
      main: gets [program]; what it returns is the exit code, None for 0.
      flag_values: where the flags are defined. A command with its own `flags.FlagValues()` shares no names with others.
    """
    logging.set_verbosity(logging.ERROR)  # to the end of the process

    def action() -> int | None:
        own = _own_flags(main, flag_values)
        if any(argument in _HELP for argument in sys.argv[1:]):
            print(_help(main, own))
            return 0
        rest = _parse(sys.argv, flag_values, [flag.name for flag in own])
        trust.allow(*(flag_values[_TRUST].value if _TRUST in flag_values else ()))
        return main(rest)

    sys.exit(guarded(action))


def guarded(action: Callable[[], int | None], prefix: str = "error: ") -> int:
    """Runs a command and returns its exit code; the part of `run` that does not parse flags.

    What standard output and error are makes no difference to what the command does: closed, they take everything, and so does a standard
    error that nobody reads any more; what their encoding lacks is written as an escape (\\u2264).

    Args:
      action: the command; what it returns is the exit code, None for 0.
      prefix: of the line that an error becomes.
    """
    _open_streams()
    heard, sys.stderr, told = sys.stderr, _Aside(sys.stderr), logging.get_verbosity()
    try:
        logging.set_verbosity(logging.ERROR)  # what libraries remark upon is not for a person
        code = action()
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except (UsageError, flags.Error) as error:
        code = _fail(str(error), prefix)
    except OSError as error:
        if _let_go(sys.stdout):
            error.filename = error.filename or "standard output"
        code = _fail(_explain(error), prefix)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except Exception:
        if not (fault := device_fault()):
            raise
        code = _fail(fault, prefix)
    finally:
        logging.set_verbosity(told)
        sys.stderr = heard
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)
    return code or 0


def _open_streams() -> None:
    """Makes the standard streams take any text, and takes the numbers of closed ones before another file gets them, and what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Aside:
    """Standard error: progress and remarks, for which no work is given up. Once it takes no more, they go nowhere."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _let_go(self._stream)
            return len(text)

    def flush(self) -> None:
        _let_go(self._stream)


def _let_go(stream: TextIO) -> bool:
    """Gives up what can't be flushed, or the interpreter complains when it ends; whether it had to."""
    try:
        stream.flush()
        return False
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True


def _fail(message: str, prefix: str) -> int:
    print(f"{prefix}{' '.join(message.split())}", file=sys.stderr)
    return USAGE


def stops_interrupt() -> contextlib.AbstractContextManager[None]:
    """Within it whatever asks to stop (see `signals`) does what Ctrl-C does: what was begun is undone on the way out."""
    def interrupt(*_):
        raise KeyboardInterrupt

    return signals.handled(interrupt)


def device_fault() -> str:
    """What is wrong with the platform that the environment names, where JAX has none such; "" where it has, or was not asked yet.

    JAX says so by an AssertionError without a word, or by a RuntimeError, wherever devices are looked for first.
    """
    if "jax" not in sys.modules:
        return ""
    try:
        sys.modules["jax"].devices()
    except Exception as error:
        name = next((name for name in _PLATFORMS if os.environ.get(name)), None)
        why = f" ({str(error).splitlines()[0]})" if str(error) else ""
        return f"{name}={os.environ[name]}: JAX finds no such device here{why}; unset it, or set {name}=cpu" if name else f"JAX finds no device{why}"
    return ""


class Parser(argparse.ArgumentParser):
    """A wrong command line is told in one line, too."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


@contextlib.contextmanager
def bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with the time left, gone when it is done; on a terminal only. What it gives takes (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:  # elsewhere it would be an empty line
        line = shown.add_task(words, total=None)
        yield lambda done, total: shown.update(line, completed=done, total=total)


def docstring(thing: Any) -> str:
    """The docstring of a module or class, from its source where `python -OO` has left it out."""
    if sys.flags.optimize < 2:
        return inspect.getdoc(thing) or ""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except OSError:  # there is no source
        return ""
    return ast.get_docstring(tree if inspect.ismodule(thing) else tree.body[0]) or ""


def _explain(error: OSError) -> str:
    """An OSError with the file it is about and what to do."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    fix = _FIXES.get(error.errno)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}{f'; {fix}' if fix else ''}"


# Flags

def trust_flag(flag_values: flags.FlagValues) -> None:
    """Defines --trust, for a command that reads saved configurations; `run` does what it says."""
    flags.DEFINE_list(_TRUST, [], trust.HELP, flag_values=flag_values)


def _own_flags(main: Callable, flag_values: flags.FlagValues) -> list[flags.Flag]:
    """The command's flags in the order of their definition; on the shared `flags.FLAGS`, those of main's module."""
    if flag_values is flags.FLAGS:
        return flag_values.get_key_flags_for_module(sys.modules[main.__module__])
    return [flag for group in flag_values.flags_by_module_dict().values() for flag in group]


def _parse(argv: list[str], flag_values: flags.FlagValues, known: list[str]) -> list[str]:
    """Returns argv without flags, which is [program]; `known` are the names to propose for an unknown flag.

    Raises:
      UsageError: a flag that is unknown, an argument that is none, or as `config_files.parse`.
      flags.Error: a flag that has a bad value.
    """
    try:
        rest = config_files.parse(argv, flag_values)
    except flags.UnrecognizedFlagError as error:
        near = nearest(f"--{error.flagname}", (f"--{name}" for name in known))
        raise UsageError(f"unknown flag --{error.flagname}{near}") from error
    if len(rest) > 1:
        raise UsageError(f"unexpected argument {rest[1]!r}: everything is given as --flag=value, see --help")
    return rest


# Help

def _help(main: Callable, own: list[flags.Flag]) -> str:
    """The docstring of main's module, then the command's flags."""
    return "\n".join([docstring(sys.modules[main.__module__]), "", "flags:", *map(_describe, own)])


def _describe(flag: flags.Flag) -> str:
    default = f" (default {flag.default_as_str.strip(chr(39))})" if flag.default not in (None, "", []) else ""
    return f"  --{flag.name}\n      {' '.join((flag.help or '').split())}{default}"
