"""`python -m sleepnet.tasks`: the benchmarks, for a reader."""
import argparse
import ast
import sys
from typing import Any

from sleepnet.errors import UsageError
from sleepnet.tasks.describe import mark
from sleepnet.tasks.registry import get, names, task_class

_EXAMPLES = """examples:
  python -m sleepnet.tasks list
  python -m sleepnet.tasks describe rule110
  python -m sleepnet.tasks describe depo --arguments nodes=10 hops=4 name_tokens=1,1
  python -m sleepnet.tasks sample depo -n 3 --seed 1 --split train --arguments nodes=5 names=3

An example is a pure function of (task and its arguments, seed, split, index). Splits: train, validation, test.
`describe` shows every argument with its value."""


def _value(text: str) -> Any:
    """Reads a value as Python writes it; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arguments(pairs: list[str]) -> dict[str, Any]:
    """Reads k=v pairs."""
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--arguments takes key=value, not {pair!r}; for example width=12")
    return {key: _value(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sleepnet.tasks", description="The benchmarks: what they ask, and what their examples look like.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | describe | sample")
    commands.add_parser("list", help="one line per task")
    for command, text in (
        ("describe", "a task in words, its sizes, its baselines and one example, marked"),
        ("sample", "some examples, marked and in words"),
    ):
        sub = commands.add_parser(
            command, help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.add_argument("name", help="a task, as `list` shows it")
        sub.add_argument("--arguments", nargs="*", default=[], metavar="K=V", help="the task's arguments, e.g. nodes=10 hops=4")
        if command == "sample":
            sub.add_argument("-n", type=int, default=1, metavar="N", help="how many examples (default 1)")
            sub.add_argument("--seed", type=int, default=0, help="default 0")
            sub.add_argument("--split", default="test", help="train, validation or test (default test)")
            sub.add_argument("--start", type=int, default=0, metavar="I", help="index of the first example (default 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status, 2 for a request that can't be met."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "list":
            for name in names():
                print(f"{name:10} {(task_class(name).__doc__ or '').splitlines()[0]}")
            return 0
        task = get(options.name, **_arguments(options.arguments))
        if options.command == "describe":
            print(task.describe())
        else:
            for index in range(options.start, options.start + options.n):
                text = mark(task, task.example(options.seed, options.split, index))
                print(f"example {index} of seed {options.seed}, split {options.split}:\n{text}\n")
    except UsageError as error:
        print(f"python -m sleepnet.tasks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
