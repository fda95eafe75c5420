"""Trains a run in legs: as far as some minutes go, then the whole state in a few small files, from which the next leg goes on.

For an accelerator that is met for minutes at a time, on a machine that forgets everything in between: the files of --out (by default the
folder --pack) are brought back after a leg and given as --pack to the next. Any number of legs ends with the parameters and metrics of
an unbroken run, bit for bit on the same kind of device. Runs on a CPU too.

Examples:
  python tools/gpu_train.py --config=experiments/rule110_paper.py --minutes=9 --pack=legs/rule110 --out=legs/rule110_next
  python tools/gpu_train.py --config=experiments/rule110_paper.py --minutes=9 --pack=legs/n1 --config.model.sleep.passes=1
  python tools/gpu_train.py --config=experiments/depo_cpu.py --minutes=1 --pack=legs/depo

The last is for a CPU. The same command is every leg's; with the same --workdir too, what one leg has compiled the next finds. --minutes are counted from the start of the
process, with compiling, validation and packing; --reserve seconds are kept for the last, and for the step, validation or compiling under way.
Prints tokens per second and the share of the device's peak of this leg, and validation accuracy against tokens of all legs.
"""
import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from gpu import packs
from sleepnet import cli, paths, trust
from sleepnet.config import RunConfig, parse
from sleepnet.errors import UsageError
from sleepnet.files import json_lines

_START = time.monotonic()
FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of the run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_float("minutes", 9.0, "length of a leg, from the start of the process to the end of packing", lower_bound=0.0, flag_values=FLAGS)
flags.DEFINE_string("pack", None, "folder of the last leg's files; the first leg has none", flag_values=FLAGS)
flags.DEFINE_string("out", None, "folder for this leg's files; --pack if not given", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "folder of the run on this machine; runs/legs/NAME of the folder --pack if not given", flag_values=FLAGS)
flags.DEFINE_float("reserve", 45.0, "seconds at the end for the checkpoint and the packing", lower_bound=0.0, flag_values=FLAGS)
flags.DEFINE_float("part_mib", 15.0, "most MiB of one file", lower_bound=0.001, flag_values=FLAGS)

_PAPER = (
    "the paper (4 strings of 24 cells, t = 32, test): N = 1 about .10, N = 2 about .20, N = 3 and 4 a little above .30 after about 5e9 tokens; "
    "best constant .0995"
)
_SHOWN = 12  # lines of the curve


@contextlib.contextmanager
def ending_at(deadline: float) -> Iterator[None]:
    """Sends this process SIGTERM at `deadline` (`time.monotonic`), again and again until the block has ended: a training run saves and stops.

    A SIGTERM outside the training's own watch is let pass, so that one that comes while it starts or ends does no harm.
    """
    ended, before = threading.Event(), signal.signal(signal.SIGTERM, lambda *_: None)

    def tell() -> None:
        wait = deadline - time.monotonic()
        while not ended.wait(max(wait, 0.0)):
            os.kill(os.getpid(), signal.SIGTERM)
            wait = 2.0

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def leg(config: RunConfig, workdir: Path, pack: Path, out: Path, *, deadline: float, part_bytes: int) -> dict[str, Any]:
    """Goes on from the pack, or from `workdir` where that is as far; returns the new pack's manifest and the first step of this leg.

    Raises:
      UsageError: as `packs.unpack`, `sleepnet.train.loop.train`; or `workdir` and the pack are at different steps of one run.
    """
    from sleepnet.train.loop import train
    from sleepnet.train.preempt import Preempted

    brought = packs.read(pack)
    if brought and not workdir.exists():
        packs.unpack(pack, workdir)
    elif brought and packs.newest(workdir) < brought["step"]:
        raise UsageError(f"{workdir} stands at step {packs.newest(workdir)}, {pack} at {brought['step']}: give a new --workdir to go on from the latter")
    start = packs.newest(workdir)
    with ending_at(deadline):
        try:
            train(config, workdir)
        except Preempted as stop:
            print(stop, flush=True)
    every = bool(config.train.keep_best or config.train.keep_period)
    return {**packs.pack(workdir, out, part_bytes=part_bytes, every_checkpoint=every), "start": start}


def told(workdir: Path, start: int, config: RunConfig) -> list[str]:
    """What there is to say of a leg that began behind step `start`: its speed, and the run's accuracy so far."""
    from bench import floors
    import jax

    lines = [line for _, line in json_lines((workdir / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"), "step", "split")]
    train = [line for line in lines if line["split"] == "train"]
    mine = [line for line in train if line["step"] > start]
    out = []
    if len(mine) > 1:  # behind the first line all is compiled
        seconds = sum(line["compute_seconds"] + line["input_seconds"] for line in mine[1:])
        rate = lambda key: (mine[-1][key] - mine[0][key]) / seconds
        peak = floors.peak(config.model.dtype)
        kind, measured = jax.devices()[0].device_kind, " (measured here)" if peak.measured else ""
        out.append(
            f"steps {mine[0]['step']} to {mine[-1]['step']} on {kind}: {rate('tokens'):,.0f} tokens/s, {rate('flops'):.3g} FLOP/s, "
            f"{rate('flops') / peak.flops:.1%} of the {config.model.dtype} peak of {peak.flops:.3g}{measured}"
        )
    else:
        out.append("too few lines of metrics in this leg to tell its speed: lower train.log_every, or give more minutes")
    seen = [line for line in lines if line["split"] == "validation"]
    for line in seen[::-(-(-len(seen) // _SHOWN) or 1)][::-1]:
        out.append(f"{line['tokens']:>15,} tokens  validation exact {line['exact_accuracy']:.4f}  label {line['label_accuracy']:.4f}")
    if config.task.name == "rule110":
        out.append(_PAPER)
    return out


def main(argv: list[str]) -> None:
    """One leg."""
    del argv
    for flag in ("config", "pack"):
        if FLAGS[flag].value is None:
            raise UsageError(f"--{flag} is missing: python tools/gpu_train.py --config=FILE --minutes=9 --pack=FOLDER")
    config = parse(FLAGS.config)
    pack = paths.plain(FLAGS.pack, "pack")
    workdir = paths.readable(paths.plain(FLAGS.workdir or Path("runs", "legs", pack.resolve().name), "workdir"), "workdir")
    out = paths.given(FLAGS.out, "out") or pack
    deadline = _START + 60 * FLAGS.minutes - FLAGS.reserve
    if deadline <= time.monotonic():
        raise UsageError(f"--minutes={FLAGS.minutes} leave no time for training before --reserve={FLAGS.reserve} seconds: give more minutes")
    with cli.stops_interrupt():  # what is half unpacked or packed is removed
        done = leg(config, workdir, pack, out, deadline=deadline, part_bytes=int(FLAGS.part_mib * 2**20))
    print(*told(workdir, done["start"], config), sep="\n")
    size = sum(part["bytes"] for part in done["parts"])
    print(f"step {done['step']} of {config.train.steps}: {len(done['parts']) + 1} files, {size / 2**20:.1f} MiB in {paths.shown(out)}; {time.monotonic() - _START:.0f} s")
    print(
        f"finished; grade it with: {shlex.join(['python', '-m', 'sleepnet.eval', f'--workdir={paths.shown(workdir)}', *trust.flags()])}" if (workdir / "result.json").exists()
        else f"the same command with {shlex.join([f'--pack={paths.shown(out)}'])} goes on from there"
    )


if __name__ == "__main__":
    cli.run(main, FLAGS)
