"""`python -m sleepnet.models`: the zoo, for a reader."""
import argparse
import sys

from sleepnet import cli, trust
from sleepnet.models import flops, zoo
from sleepnet.models.drawing import draw, figures

_EXAMPLES = """examples:
  python -m sleepnet.models list
  python -m sleepnet.models show paper_rule110
  python -m sleepnet.models show depo8_sleep4

FLOPs, bytes and parameters are counted from the configuration; a multiply-add is 2 FLOPs. In Python: `zoo.create(NAME, **changes)` makes a model,
`zoo.config_of(NAME, **changes)` its configuration. `python -m sleepnet.eval --model=NAME` grades one that comes trained.

exit status: 0; 2 for a request that can't be met, told in one line."""


def _list() -> None:
    rows = [("model", "blocks", "N", "parameters", "S bytes", "FLOPs awake", "FLOPs of a sleep", "trained", "what it is")]
    for name in zoo.names():
        config = zoo.config_of(name)
        rows.append((
            name, config.pattern, str(config.sleep.passes), f"{flops.parameters(config):,}", f"{flops.state_bytes(config):,}",
            f"{flops.wake_token_flops(config):,}", f"{flops.sleep_flops(config):,}", "yes" if zoo.has_checkpoint(name) else "no", zoo.about(name),
        ))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        left, *figures, last = (cell.rjust(width) if 2 <= i < 7 else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        print("  ".join((left, *figures, last)).rstrip())


def _show(name: str) -> None:
    config = zoo.config_of(name)
    print(f"{name}: {zoo.about(name)}\n\n{draw(config)}\n")
    for key, value in figures(config).items():
        print(f"{key:14} {value}")
    print(f"{'trained':14} {zoo.card(name) if zoo.has_checkpoint(name) else 'no: create() starts from a seed'}")


def _run(argv: list[str] | None) -> int:
    style = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = cli.Parser(prog="python -m sleepnet.models", description="The named models: what they are, what they cost, how they are built.", **style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="one line per model", **style)
    showing = commands.add_parser("show", help="one model, drawn, with its costs", **style)
    showing.add_argument("name", help="a model, as `list` shows it")
    for command in (listing, showing):
        command.add_argument("--trust", type=trust.listed, default=(), help=trust.HELP)
    options = parser.parse_args(argv)
    trust.allow(*options.trust)
    _list() if options.command == "list" else _show(options.name)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status, 2 for a request that can't be met."""
    return cli.guarded(lambda: _run(argv), "python -m sleepnet.models: ")


if __name__ == "__main__":
    sys.exit(main())
