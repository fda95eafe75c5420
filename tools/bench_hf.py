r"""How fast a released model reads and writes here beside transformers, and what memory opening it and reading a long text needs.

  prefill     --tokens tokens of one sequence at once, logits of the last
  decode      --write tokens after a prompt of 16, one by one, greedily
  import      the largest resident set of `python -m sleepnet.hf import`, less that of `describe`, over the bytes of the weights it writes
  read        the largest resident set of `python -m sleepnet.memory read` of a million bytes over that of a thousand, of a tiny model

The first two take turns with transformers in one process, on as many threads, in float32, and are told only where torch and transformers are installed; no speed is told
where both do not write the same tokens. Seconds are the least of --repeats runs; --clock=cpu counts what all threads of the process worked, which other work
on the machine disturbs less.

Examples:
  python tools/bench_hf.py
  python tools/bench_hf.py --folder=runs/back --clock=cpu
  python tools/bench_hf.py --only=import,read --json=hf.json
"""
import copy
import functools
import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from sleepnet import cli, decode, files, hf, paths
from sleepnet.errors import UsageError
from sleepnet.hf import check, tiny

PARTS = ("prefill", "decode", "import", "read")
FLAGS = flags.FlagValues()
flags.DEFINE_string("folder", None, "of a released model, as the hub has it; by default a tiny one is made", flag_values=FLAGS)
flags.DEFINE_list("only", list(PARTS), f"parts, of {', '.join(PARTS)}", flag_values=FLAGS)
flags.DEFINE_integer("tokens", 512, "that are read at once", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("write", 32, "tokens that are written", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 5, "runs that are timed, of each way", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "seconds that passed, or that all threads of the process worked", flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)
_PROMPT = 16
_CHILD = "import resource, sys; from {module} import main; code = main(sys.argv[1:]); print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def ours(folder: Path, tokens: int, write: int) -> dict[str, Callable[[], np.ndarray]]:
    """Part → what gives the tokens that it says, in one program each."""
    model, _ = hf.load(folder, window=tokens + write)
    graph, params = nnx.split(model, nnx.Param)
    drawn = _drawn(model.config.vocab_size, tokens)

    @jax.jit
    def prefill(params, tokens):
        hidden, _ = nnx.merge(graph, params).predicted(tokens, predicts=(True,))
        return jnp.argmax(nnx.merge(graph, params).logits(hidden[:, -1:]), axis=-1)

    @jax.jit
    def begin(params, tokens):
        return decode.read(graph, params, model.init_state(1), tokens, at=0)[1]

    @jax.jit
    def go_on(params, state, first):
        return decode.write(graph, params, state, first, at=_PROMPT - 1, steps=write, law=decode.GREEDY).tokens

    state = begin(params, drawn[:, :_PROMPT - 1])
    return {
        "prefill": lambda: np.asarray(prefill(params, jnp.asarray(drawn))),
        "decode": lambda: np.asarray(go_on(params, state, jnp.asarray(drawn[:, _PROMPT - 1]))),
    }


def theirs(folder: Path, tokens: int, write: int) -> dict[str, Callable[[], np.ndarray]]:
    """The same by transformers."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False).eval()
    drawn = torch.from_numpy(_drawn(model.config.get_text_config().vocab_size, tokens)).long()

    @torch.no_grad()
    def prefill():
        return model(drawn, logits_to_keep=1).logits.argmax(-1).numpy()

    with torch.no_grad():
        read = model(drawn[:, :_PROMPT - 1], use_cache=True)
    called = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @torch.no_grad()
    def go_on():
        token, said, held = drawn[:, _PROMPT - 1:_PROMPT], [], copy.deepcopy(read[called])
        for _ in range(write):
            token = model(token, **{called: held}, use_cache=True).logits[:, -1:].argmax(-1)
            said.append(int(token))
        return np.asarray([said])

    return {"prefill": prefill, "decode": go_on}


def _drawn(vocab_size: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, (1, tokens)).astype(np.int32)


def speeds(folder: Path, parts: list[str], tokens: int, write: int, repeats: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Part → least seconds of both.

    Raises:
      UsageError: they do not say the same.
    """
    ways = {"ours": ours(folder, tokens, write), "transformers": theirs(folder, tokens, write)}
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        said = [ways[who][part]() for who in ways]
        if (said[0] != said[1]).mean() > 0.1:  # a near tie may fall the other way, and all of a row behind it
            raise UsageError(f"{part}: other tokens than transformers says, {said[0][0, :8]} and {said[1][0, :8]}: one of the two is wrong, and neither is timed")
        found[part] = dict.fromkeys(ways, float("inf"))
        for _ in range(repeats):
            for who in ways:
                began = clock()
                ways[who][part]()
                found[part][who] = min(found[part][who], clock() - began)
    return found


def peak(module: str, *arguments: Any) -> int:
    """Bytes of the largest resident set of a command of ours.

    Raises:
      UsageError: it failed; tells its last line.
    """
    done = subprocess.run([sys.executable, "-c", _CHILD.format(module=module), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"{module} {' '.join(map(str, arguments))}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return 1024 * int(done.stdout.split("peak ")[-1])


def import_memory(folder: Path, scratch: Path) -> dict[str, float]:
    """Bytes that importing takes beyond describing, and of the weights that it writes."""
    rest = peak("sleepnet.hf.__main__", "describe", folder)
    whole = peak("sleepnet.hf.__main__", "import", folder, f"--out={scratch / 'in'}")
    return {"peak": whole - rest, "weights": sum(path.stat().st_size for path in (scratch / "in").glob("*.safetensors"))}


def read_memory(scratch: Path) -> dict[str, float]:
    """Bytes resident while a tiny model reads a thousand bytes, and a million."""
    made, found = tiny.make(scratch / "read", "gated_deltanet"), {}
    for size in (1_000, 1_000_000):
        text = scratch / f"{size}.txt"
        files.write_text(text, "all work and no sleep makes a model dull\n" * (size // 41))
        found[f"{size:,} bytes"] = peak("sleepnet.memory.__main__", "read", made, f"--text={text}", f"--out={scratch / f'{size}.safetensors'}")
    return found


def main(argv: list[str]) -> int:
    """Prints the table."""
    del argv
    out = paths.given(FLAGS.json, "json")
    if unknown := [part for part in FLAGS.only if part not in PARTS]:
        raise UsageError(f"--only={','.join(unknown)}: the parts are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = paths.plain(FLAGS.folder, "folder") if FLAGS.folder else tiny.make(Path(made) / "tiny", "qwen3")
        print(f"{'part':10} {'ours':>14} {'beside':>14} {'ratio':>7}   {folder.name}, {FLAGS.clock} time, {len(os.sched_getaffinity(0))} threads")
        if timed := [part for part in FLAGS.only if part in ("prefill", "decode")]:
            if check.has_torch():
                clock = time.process_time if FLAGS.clock == "cpu" else time.perf_counter
                found |= speeds(folder, timed, FLAGS.tokens, FLAGS.write, FLAGS.repeats, clock)
            else:
                print(f"{', '.join(timed)}: torch or transformers is not installed, and there is nothing to compare with")
        memory = {"import": functools.partial(import_memory, folder), "read": read_memory}
        found |= {part: memory[part](Path(made)) for part in FLAGS.only if part in memory}
        for part, (one, other) in {part: found[part].values() for part in FLAGS.only if part in found}.items():
            shown = [f"{1e3 * value:,.1f} ms" for value in (one, other)] if part in timed else [f"{value / 1e6:,.1f} MB" for value in (one, other)]
            ratio = other / one if part == "read" else one / other
            print(f"{part:10} {shown[0]:>14} {shown[1]:>14} {ratio:7.2f}   {' / '.join(reversed(found[part]) if part == 'read' else found[part])}")
    if out:
        files.write_json(out, {"folder": str(folder), "clock": FLAGS.clock, "tokens": FLAGS.tokens, "write": FLAGS.write, "seconds and bytes": found})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, FLAGS))
