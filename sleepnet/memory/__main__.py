"""`python -m sleepnet.memory`: what a model remembers of a text, kept in a file."""
import argparse
import re
import sys

from sleepnet import cli, talk, trust
from sleepnet.errors import UsageError
from sleepnet.memory import asking, file, models, reading

_EXAMPLES = """examples:
  python -m sleepnet.memory read runs/tiny --text=README.md --out=runs/mem.safetensors
  python -m sleepnet.memory show --memory=runs/mem.safetensors
  python -m sleepnet.memory ask runs/tiny --memory=runs/mem.safetensors "People sleep because"
  python -m sleepnet.memory fork runs/tiny --memory=runs/mem.safetensors --text=setup.py --out=runs/more.safetensors

MODEL is what `python -m sleepnet.hf` opens or has imported (`… tiny runs/tiny` makes one to try), a run's folder, or a model that comes trained. Where it has no tokenizer a text is its tokens as numbers.

exit status: 0; 2 for a request that can't be met, told in one line."""


def _ids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} are no token ids, such as 2,7")
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    style = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = cli.Parser(prog="python -m sleepnet.memory", description="What a model remembers of a text, kept in a file.", **style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {name: commands.add_parser(name, help=text, **style) for name, text in {
        "read": "read a text, sleep over every window of it, and keep what is remembered", "ask": "what follows a prompt, of a model that remembers",
        "fork": "read on from a memory into a new one; the first stays as it is", "show": "what a memory is of, and how large it is",
    }.items()}
    for name, command in made.items():
        command.add_argument("source", metavar="MODEL", **({"nargs": "?", "help": "whose memory it must be"} if name == "show" else {"help": "see below"}))
        command.add_argument("--trust", type=trust.listed, default=(), help=trust.HELP)
        if name != "read":
            command.add_argument("--memory", required=True, metavar="FILE", help="what it remembers")
        if name in ("read", "fork"):
            command.add_argument("--text", required=True, metavar="FILE", help="in UTF-8, of any length")
            command.add_argument("--out", required=True, metavar="FILE", help="a new file")
            command.add_argument("--passes", type=int, help="N of every sleep; default: the model's own")
    made["ask"].add_argument("text", metavar="TEXT", help="the prompt")
    made["ask"].add_argument("--stop", type=_ids, default=(), metavar="ID,…", help="tokens that end an answer besides the model's own")
    made["ask"].add_argument("--logps", action="store_true", help="tell the log-probability of each answer, too")
    talk.flags(made["ask"])
    return parser


def _read(options: argparse.Namespace) -> None:
    file.free(options.out)
    model = models.open_model(options.source)
    on = file.load(options.memory, model) if options.command == "fork" else None
    with cli.bar("bytes read") as update:
        found = reading.read(model, options.text, on=on, passes=options.passes, progress=lambda done, total, windows: update(done, total))
    found.save(options.out)
    text = found.told["texts"][-1]
    print(f"{text['tokens']:,} tokens in {text['windows']:,} windows of {found.told['window']}, N = {text['passes']}: {found.state.fast_weights.nbytes:,} bytes of S, in {options.out}")


def _ask(options: argparse.Namespace) -> None:
    law = talk.law(options)
    model = models.open_model(options.source)
    held = file.load(options.memory, model)
    how = {"count": options.count, "law": law, "chat": options.chat, "stop": options.stop, "samples": options.samples, "seed": options.seed}
    for text, answer in asking.ask(model, held, options.text, **how):
        print(f"{sum(answer.logps):.3f}  {text}" if options.logps else text)


def _show(options: argparse.Namespace) -> None:
    told, arrays = file.contents(options.memory)
    if options.source:
        file.load(options.memory, models.open_model(options.source))
    size = sum(value.nbytes for value in arrays.values())
    print(f"{'model':14} {told['name']}, sha256 {told['model'][:12]}, blocks {told['pattern']}, windows of {told['window']}")
    for text in told["texts"]:
        print(f"{'read':14} {text['name']} (sha256 {text['sha256'][:12]}): {text['bytes']:,} bytes, {text['tokens']:,} tokens, {text['windows']:,} windows, N = {text['passes']}")
    print(f"{'holds':14} {size:,} bytes: {', '.join(dict.fromkeys(name.split('.')[0] for name in sorted(arrays)))}")
    for block, norms in file.norms_of(told, arrays).items():
        print(f"{f'block {block}':14} ‖S‖ of each head: {' '.join(f'{norm:.3g}' for norm in norms)}")


def _run(argv: list[str] | None) -> int:
    options = _parser().parse_args(argv)
    trust.allow(*options.trust)
    for key in ("passes", "count", "samples"):
        if (value := getattr(options, key, None)) is not None and value < 1:
            raise UsageError(f"--{key}={value} must be at least 1")
    {"read": _read, "fork": _read, "ask": _ask, "show": _show}[options.command](options)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status, 2 for a request that can't be met."""
    return cli.guarded(lambda: _run(argv), "python -m sleepnet.memory: ")


if __name__ == "__main__":
    sys.exit(main())
