"""Kills a training at random moments, again and again, and sees that it ends where an unbroken one does, bit for bit.

Examples:
  python tools/soak.py --config=experiments/depo_cpu.py --workdir=runs/soak --config.train.steps=400 --config.train.save_every=20
  python tools/soak.py --config=experiments/depo_cpu.py --workdir=runs/soak100 --config.train.steps=400 --config.train.save_every=20 --kills=100

First the run is made once without a break, in unbroken/. Then it is started and killed until --kills are spent; a run that gets to its end
in between is compared and the next begins, in broken1/, broken2/, …. A kill comes at a random time after the start, or when a random step
is reached, or while a checkpoint is being written; one in four is a SIGTERM, the others SIGKILL. Compared are every line of metrics (all
but the seconds) and every parameter. The folder gets soak.json; exit status 1 where something differs, and the folders stay.
"""
import collections
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

from sleepnet import cli, paths
from sleepnet.files import json_lines

FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of the run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "folder of the soak, new or empty", flag_values=FLAGS)
flags.DEFINE_integer("kills", 5, "how often it is killed", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "of the moments", flag_values=FLAGS)

KINDS = ("time", "step", "save")


def start(workdir: Path, arguments: list[str]) -> subprocess.Popen:
    """A training in a process of its own."""
    log = (workdir.parent / f"{workdir.name}.log").open("a", encoding="utf-8")
    return subprocess.Popen([sys.executable, "-m", "sleepnet.train", f"--workdir={workdir}", *arguments], stdout=log, stderr=log)


def step_of(workdir: Path) -> int:
    """The last step that has a line of metrics."""
    path = workdir / "metrics.jsonl"
    whole = [line for _, line in json_lines(path.read_text(encoding="utf-8", errors="replace"), "step")] if path.exists() else []
    return whole[-1]["step"] if whole else 0


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is half written."""
    return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def break_once(process: subprocess.Popen, workdir: Path, kind: str, steps: int, seconds: float, dice: random.Random) -> bool:
    """Kills a training at a moment of a kind; False: it came to its end before."""
    begun, first = time.monotonic(), step_of(workdir)
    after, beyond = dice.uniform(0, seconds), dice.randint(first, steps)
    come = {
        "time": lambda: time.monotonic() - begun >= after,
        "step": lambda: step_of(workdir) > beyond,
        "save": lambda: saving(workdir) and step_of(workdir) > first,
    }[kind]
    while process.poll() is None:
        if come():
            time.sleep(dice.uniform(0, 0.02))
            process.send_signal(signal.SIGTERM if dice.random() < 0.25 else signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    return not (workdir / "result.json").exists()


def difference(one: Path, other: Path) -> str:
    """The first thing in which two finished runs differ, "" if none."""
    from sleepnet import checkpoint, origin
    from flax import nnx

    lines = [[_values(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()] for folder in (one, other)]
    if len(lines[0]) != len(lines[1]):
        return f"{len(lines[0])} lines of metrics and {len(lines[1])}"
    for mine, theirs in zip(*lines):
        for key in mine.keys() | theirs.keys():
            if mine.get(key) != theirs.get(key):
                return f"step {mine['step']}, {mine['split']}: {key} is {mine.get(key)!r} and {theirs.get(key)!r}"
    params = [origin.named(nnx.to_pure_dict(nnx.split(checkpoint.load_model(folder).model, nnx.Param)[1])) for folder in (one, other)]
    for name, value in params[0].items():
        if not np.array_equal(np.asarray(value), np.asarray(params[1][name])):
            return f"parameter {name}"
    return ""


def _values(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if "seconds" not in key and key != "input_share"}


def soak(workdir: Path, arguments: list[str], steps: int, kills: int, seed: int) -> dict[str, Any]:
    """Does it all; see the module.

    Raises:
      UsageError: the training ends with an error where nobody killed it.
    """
    from sleepnet.errors import UsageError

    def unharmed(process: subprocess.Popen, folder: Path) -> None:
        if process.wait() != 0:
            raise UsageError(f"the training ended with status {process.returncode} by itself: see {folder}.log")

    workdir.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    unharmed(start(workdir / "unbroken", arguments), workdir / "unbroken")
    seconds, dice = time.monotonic() - begun, random.Random(seed)
    done, runs, differing = collections.Counter(), 0, {}
    while sum(done.values()) < kills:
        runs += 1
        folder, ended = workdir / f"broken{runs}", False
        while sum(done.values()) < kills and not ended:
            kind = KINDS[sum(done.values()) % len(KINDS)]
            process = start(folder, arguments)
            if break_once(process, folder, kind, steps, seconds, dice):
                if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM):
                    unharmed(process, folder)
                done[kind] += 1
                print(f"kill {sum(done.values())} of {kills}: {kind}, last line at step {step_of(folder)} of run {runs}", file=sys.stderr, flush=True)
            ended = (folder / "result.json").exists()
        if not ended:
            unharmed(start(folder, arguments), folder)
        if what := difference(workdir / "unbroken", folder):
            differing[folder.name] = what
    return {"kills": kills, **{f"kills_by_{kind}": done[kind] for kind in KINDS}, "runs": runs, "steps": steps, "seed": seed, "differing": differing}


def main(argv: list[str]) -> int:
    """Soaks the run that the flags name."""
    del argv
    from sleepnet.config import parse
    from sleepnet.errors import UsageError
    from sleepnet.files import write_json

    for flag in ("config", "workdir"):
        if FLAGS[flag].value is None:
            raise UsageError(f"--{flag} is missing: python tools/soak.py --config=FILE --workdir=DIR")
    workdir = paths.readable(paths.plain(FLAGS.workdir, "workdir"), "workdir")
    if workdir.exists() and any(workdir.iterdir()):
        raise UsageError(f"--workdir={workdir} is not empty: give a new one")
    file = config_flags.get_config_filename(FLAGS["config"])
    arguments = [f"--config={file}", *(argument for argument in sys.argv[1:] if argument.lstrip("-").startswith(("config.", "noconfig.")))]
    found = soak(workdir, arguments, parse(FLAGS.config).train.steps, FLAGS.kills, FLAGS.seed)
    write_json(workdir / "soak.json", found)
    for name, what in found["differing"].items():
        print(f"{name} differs: {what}")
    print(f"{found['kills']} kills in {found['runs']} runs of {found['steps']} steps: {len(found['differing'])} differ from the unbroken one")
    return int(bool(found["differing"]))


if __name__ == "__main__":
    cli.run(main, FLAGS)
