"""`python -m sleepnet.tasks`: the benchmarks, for a reader; checked, counted, and written to disk."""
import argparse
import sys
from collections.abc import Mapping
from typing import Any

from sleepnet import cli, config_files, paths, seeds
from sleepnet.errors import UsageError
from sleepnet.tasks import exported
from sleepnet.tasks.base import Task
from sleepnet.tasks.source import Source
from sleepnet.tasks.text import tokenize
from sleepnet.tasks.machinery.arguments import choice, whole
from sleepnet.tasks.machinery.splits import SPLITS
from sleepnet.tasks.machinery import steps
from sleepnet.tasks.registry import get, names, task_class

_EXAMPLES = """examples:
  python -m sleepnet.tasks list
  python -m sleepnet.tasks describe rule110
  python -m sleepnet.tasks describe depo --arguments nodes=10 hops=4 name_tokens=1,1
  python -m sleepnet.tasks sample depo -n 3 --seed 1 --split train --arguments nodes=5 names=3
  python -m sleepnet.tasks check rule110 -n 20000 --arguments steps=1,8
  python -m sleepnet.tasks stats depo --arguments nodes=10 hops=4
  python -m sleepnet.tasks export depo --format array_record --split train -n 100000 --out data/depo --arguments nodes=10
  python -m sleepnet.tasks tokenize --from notes/ book.txt pages.jsonl --field body --out data/mine
  python -m sleepnet.tasks describe text --arguments window=256

An example is a pure function of (task and its arguments, seed, split, index). Splits: train, validation, test; no two share an
instance, but of what is to be known by heart all do. `describe` shows every argument with its value. `check` compares fresh examples with a solver that reads the tokens
alone. In Python, `sleepnet.tasks.exported.load(FOLDER)` reads an export back, bit for bit; `python -m sleepnet.train … --config.task.folder=FOLDER`
trains from one of the training split. Text is a source without answers: it is tokenised once, and described and counted as the others are.

exit status: 0; 1 where `check` finds something wrong; 2 for a request that can't be met, told in one line."""


def _arguments(pairs: list[str]) -> dict[str, Any]:
    """Reads k=v pairs."""
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--arguments takes key=value, not {pair!r}; for example width=12")
    return {key: config_files.value(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def _describe(task: Source, options: argparse.Namespace) -> int:
    print(task.describe())
    return 0


def _sample(task: Source, options: argparse.Namespace) -> int:
    for index in range(options.start, options.start + options.n):
        example = task.example(options.seed, options.split, index)
        print(f"example {index} of seed {options.seed}, split {options.split}:", task.mark(example), *filter(None, [isinstance(task, Task) and steps.mark(task, example)]), "", sep="\n")
    return 0


def _check(task: Source, options: argparse.Namespace) -> int:
    from sleepnet.tasks.machinery.check import Fault, check
    from sleepnet.tasks.machinery.screen import bar

    splits = tuple(SPLITS) if options.split is None else (choice("split", options.split, tuple(SPLITS)),)
    try:
        with bar("examples", options.n * len(SPLITS)) as step:
            report = check(task, count=options.n, splits=splits, seed=options.seed, progress=step)
    except Fault as fault:
        print(f"{task.name} is wrong: {fault}", file=sys.stderr)
        if fault.example is not None:
            print(_marked(task, fault.example))
        return 1
    print(f"{task.name}, version {task.version}, spec {task.spec_hash[:12]}, split {', '.join(splits)}, seed {options.seed}\n{report}")
    return 0


def _marked(task: Task, example: Mapping[str, Any]) -> str:
    """Returns an example in words, or as numbers where it is too wrong for words."""
    try:
        return task.mark(example)
    except (LookupError, ValueError, TypeError):
        rows = {name: value for name, value in example.items() if name != "difficulty"} | example["difficulty"]
        return "\n".join(f"{name}: {value.tolist()}" for name, value in rows.items())


def _stats(task: Source, options: argparse.Namespace) -> int:
    from rich.console import Console

    from sleepnet.tasks.machinery import stats
    from sleepnet.tasks.machinery.screen import bar

    if not isinstance(task, Task):
        print("\n".join(stats.lines(task, count=options.n, seed=options.seed)))
        return 0
    with bar("examples", options.n * len(stats.SPLITS)) as step:
        found = stats.collect(task, count=options.n, seed=options.seed, progress=step)
    stats.show(task, found, count=options.n, seed=options.seed, console=Console(highlight=False))
    return 0


def _export(task: Source, options: argparse.Namespace) -> int:
    from sleepnet.tasks.machinery.screen import bar

    if not isinstance(task, Task):
        raise UsageError(f"task {task.name} is exported as it is: tokenize writes a token file, of which every example is read")
    with bar("examples", options.n) as step:
        folder = exported.write(
            task, paths.plain(options.out, "out"), format=options.format, split=options.split, count=options.n, seed=options.seed, progress=step
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(f"{options.out} holds {options.n:,} examples of split {options.split}, seed {options.seed}: {sum(f.stat().st_size for f in files):,} bytes")
    return 0


COMMANDS = {
    "describe": (_describe, "a task in words, its sizes, its baselines and one example, marked", {}),
    "sample": (_sample, "some examples, marked and in words", {"-n": 1, "--seed": 0, "--split": "test", "--start": 0}),
    "check": (_check, "fresh examples against an independent solver, the plain path and the contract", {"-n": 5000, "--seed": 0, "--split": None}),
    "stats": (_stats, "difficulties, lengths, labels and baselines in numbers", {"-n": 2000, "--seed": 0}),
    "export": (_export, "examples into a folder, with a manifest", {"--format": ..., "-n": ..., "--out": ..., "--seed": 0, "--split": "test"}),
}
HELP = {
    "-n": {"type": int, "metavar": "N", "help": "how many examples"},
    "--seed": {"type": int, "help": "of the examples"},
    "--split": {"help": "train, validation or test"},
    "--start": {"type": int, "metavar": "I", "help": "index of the first example"},
    "--format": {"help": ", ".join(exported.FORMATS)},
    "--out": {"metavar": "DIR", "help": "a folder, new or empty"},
}


def _parser() -> argparse.ArgumentParser:
    style = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    text = "The benchmarks: what they ask, what their examples look like, whether they are right; and examples on disk."
    parser = cli.Parser(prog="python -m sleepnet.tasks", description=text, **style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="one line per task", **style)
    tokenize.add(commands.add_parser("tokenize", help=tokenize.TEXT, description=tokenize.TEXT, **style))
    for command, (_, text, flags) in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text, **style)
        sub.add_argument("name", help="a task, as `list` shows it")
        sub.add_argument("--arguments", nargs="*", default=[], metavar="K=V", help="the task's arguments, e.g. nodes=10 hops=4")
        for flag, default in flags.items():
            given = {"required": True} if default is ... else {"default": default}
            note = "" if default is ... else f" (default {'all of them' if default is None else default})"
            if command in ("check", "stats") and flag == "-n":
                note = f" of each split{note}"
            sub.add_argument(flag, **given, **(HELP[flag] | {"help": HELP[flag]["help"] + note}))
    return parser


def _run(argv: list[str] | None) -> int:
    options = _parser().parse_args(argv)
    if options.command == "list":
        for name in names():
            print(f"{name:14} {cli.docstring(task_class(name)).partition(chr(10))[0]}")
        return 0
    if options.command == "tokenize":
        return tokenize.run(options)
    for key, least in (("n", 1), ("start", 0)):
        if hasattr(options, key):
            whole("-n" if key == "n" else f"--{key}", getattr(options, key), least)
    if hasattr(options, "seed"):
        seeds.check("--seed", options.seed)
    return COMMANDS[options.command][0](get(options.name, **_arguments(options.arguments)), options)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status, 2 for a request that can't be met."""
    with cli.stops_interrupt():
        return cli.guarded(lambda: _run(argv), "python -m sleepnet.tasks: ")


if __name__ == "__main__":
    sys.exit(main())
