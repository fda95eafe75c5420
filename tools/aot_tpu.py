r"""Compiles a run's training step, a sleep and a token awake for a TPU slice that is not here, and tells what each will need.

Needs the extra `aot-tpu` and no accelerator. What is compiled is the very function that sleepnet.train jits, cut over the mesh of the config.
Told for one chip: peak memory against its HBM; FLOPs of the compiled program (loops times their trips, kernels by their CostEstimate) beside
the model's own, counted from the config; bytes of HBM; collectives; and the least time that the chip's peaks allow. Waits between
kernels and chunks are not in it: a real step takes longer. A sleep and a token awake are over train.batch_size sequences.

Examples:
  python tools/aot_tpu.py --config=experiments/rule110_paper.py --topology=v5e:4x4
  python tools/aot_tpu.py --config=experiments/pod/hybrid_1b.py --topology=v5p:4x4x4 --phase=train --json=hybrid_1b.json --config.mesh.tensor=4
  python tools/aot_tpu.py --config=experiments/pod/hybrid_1b.py --topology=v5e:4x4 --phase=train --search

--search compiles a phase on every mesh of the slice and ranks them by predicted time, those that can't be at the bottom with the reason.
Exits with 1 where a program does not fit into the chip, with its largest buffers. Compiling takes from a minute to many on one core.
"""
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from aot.chips import predict, slice_of
from aot_kernels import ENVIRONMENT
from ml_collections import config_flags

from sleepnet import cli, mesh as meshes, paths, sharding
from sleepnet.config import MeshConfig, parse
from sleepnet.errors import UsageError
from sleepnet.files import write_text

PHASES = ("train", "sleep", "wake")
GIB = 2**30


def measured(arguments: list[str], topology: str, phase: str, hlo: str = "") -> dict[str, Any]:
    """Compiles one phase in a process of its own, since the compiler may abort it, and returns its figures and the prediction.

    Args:
      arguments: `--config=FILE` and any `--config.key=value`; flags of this tool do no harm.
      topology, phase: see the module.
      hlo: where to write the compiled program's text; empty: nowhere.

    Returns:
      as `aot.compiler.measure`, with `predicted` where it fits, else with `failed`.
    """
    chip, sides = slice_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError("the TPU compiler is missing: pip install -e '.[aot-tpu]'")
    command = [sys.executable, __file__, *arguments, f"--topology={topology}", f"--one={phase}", f"--hlo={hlo}"]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    said = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    if done.returncode == cli.USAGE:
        raise UsageError(said.removeprefix("error: "))
    if -done.returncode in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):  # says nothing about the program
        raise UsageError(f"the compiler was stopped by {signal.Signals(-done.returncode).name}, perhaps for want of this machine's memory: run it again")
    if done.returncode:
        return {"failed": {"message": said, "buffers": []}}
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    if "failed" in figures:
        return figures
    if figures["peak_bytes"] > chip.hbm:
        return figures | {"failed": {"message": f"needs {figures['peak_bytes'] / GIB:.1f} of {chip.hbm / GIB:.0f} GiB: {_parts(figures['memory'])}", "buffers": []}}
    return figures | {"predicted": predict(figures, chip, sides)}


def every_mesh(chips: int) -> Iterator[tuple[int, int, int]]:
    """Every (data, fsdp, tensor) that multiplies to so many chips."""
    for data in range(1, chips + 1):
        for fsdp in range(1, chips // data + 1):
            if chips % data == 0 and (chips // data) % fsdp == 0:
                yield data, fsdp, chips // data // fsdp


def search(config, arguments: list[str], topology: str, phase: str) -> list[tuple[tuple[int, int, int], dict[str, Any]]]:
    """(mesh, figures) of every mesh of the slice: the fastest first, behind them those that can't be, with `failed`."""
    chips, found = _chips(topology), []
    for sizes in every_mesh(chips):
        mesh = MeshConfig(*sizes)
        try:
            sharding.check(config, meshes.abstract(mesh, chips))
        except UsageError as error:
            found.append((sizes, {"failed": {"message": str(error), "buffers": []}}))
            continue
        chosen = [f"--config.mesh.{axis}={size}" for axis, size in zip(meshes.AXES, sizes)]
        found.append((sizes, measured([*arguments, *chosen], topology, phase)))
        print(_ranked(*found[-1]), file=sys.stderr, flush=True)
    return sorted(found, key=lambda pair: pair[1]["predicted"]["step"] if "predicted" in pair[1] else float("inf"))


def _chips(topology: str) -> int:
    chips = 1
    for side in slice_of(topology)[1]:
        chips *= side
    return chips


def _ranked(sizes: tuple[int, int, int], figures: dict[str, Any]) -> str:
    name = " ".join(f"{axis}={size}" for axis, size in zip(meshes.AXES, sizes))
    if "failed" in figures:
        return f"{name:30} {figures['failed']['message']}"
    p = figures["predicted"]
    return f"{name:30} {1e3 * p['step']:10.4g} ms, bound by {p['bound']}, {100 * p['share']:.0f} % of peak, {figures['peak_bytes'] / GIB:.2f} GiB"


def _parts(memory: dict[str, int]) -> str:
    return ", ".join(f"{words} {memory[key] / GIB:.2f}" for key, words in (("argument", "arguments"), ("temp", "temporary"), ("generated_code", "code")))


def told(phase: str, topology: str, figures: dict[str, Any]) -> str:
    """The figures of a phase, for a reader."""
    chip, _ = slice_of(topology)
    if "failed" in figures:
        largest = [f"  {b['bytes'] / GIB:8.2f} GiB  {b['shape']}  {b['operator']}" for b in figures["failed"]["buffers"]]
        return "\n".join([f"{phase} does not compile for {topology}: {figures['failed']['message']}", *largest])
    p, giga = figures["predicted"], lambda x: f"{x / 1e9:.4g}"
    lines = [
        f"{phase} on {topology}, {figures['chips']} chips, " + " ".join(f"{axis}={size}" for axis, size in figures["mesh"].items()),
        f"  memory       {figures['peak_bytes'] / GIB:.2f} of {chip.hbm / GIB:.0f} GiB a chip: {_parts(figures['memory'])}",
        f"  GFLOPs       {giga(figures['flops'])} a chip, of them {giga(figures['kernel_flops'])} in kernels; the model's own {giga(figures['flops_model'])}; "
        f"by the compiler, loops once, {giga(figures['flops_compiler'])}",
        f"  HBM          {giga(figures['bytes'])} GB a chip" + (f"; {figures['unknown_loops']} loops of unknown length counted once" if figures["unknown_loops"] else ""),
    ]
    for row in figures["collectives"][:8]:
        over = "×".join(str(n) for n in row["extent"])
        lines.append(f"  collective   {row['count']:6} × {row['kind']} of {row['bytes'] / 1e6:.4g} MB over {row['chips']} chips ({over})")
    if len(figures["collectives"]) > 8:
        lines.append(f"  collective   {sum(row['count'] for row in figures['collectives'][8:]):6} smaller ones")
    times = ", ".join(f"{name} {1e3 * p[name]:.3g}" for name in ("compute", "HBM", "interconnect"))
    lines.append(f"  predicted    at least {1e3 * p['step']:.3g} ms, bound by {p['bound']} ({times}); {100 * p['share']:.1f} % of peak")
    return "\n".join([*lines, f"  compiled in  {figures['compile_s']:.0f} s, traced in {figures['trace_s']:.0f} s"])


FLAGS = flags.FlagValues()
config_flags.DEFINE_config_file("config", None, "config file of a run", lock_config=True, flag_values=FLAGS)
flags.DEFINE_string("topology", None, "chip and sides of the slice: v5e:4x4, v5p:4x4x4, v6e:16x16", flag_values=FLAGS)
flags.DEFINE_enum("phase", "all", [*PHASES, "all"], "what to compile", flag_values=FLAGS)
flags.DEFINE_bool("search", False, "try every mesh of the slice", flag_values=FLAGS)
flags.DEFINE_string("json", "", "file for the figures", flag_values=FLAGS)
flags.DEFINE_string("hlo", "", "file for the compiled program's text; needs one --phase", flag_values=FLAGS)
flags.DEFINE_string("one", "", "used by the tool itself: one phase, compiled in this process", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Does what the flags say."""
    del argv
    if FLAGS["config"].value is None or not FLAGS.topology:
        raise UsageError("--config and --topology are needed: python tools/aot_tpu.py --config=FILE --topology=v5p:4x4x4")
    config = parse(FLAGS.config)
    if FLAGS.one:
        from aot import compiler  # JAX takes seconds to start

        print(json.dumps(compiler.measure(config, FLAGS.topology, FLAGS.one, FLAGS.hlo)))
        return 0
    arguments = sys.argv[1:]
    phases = PHASES if FLAGS.phase == "all" else (FLAGS.phase,)
    if (FLAGS.search or FLAGS.hlo) and len(phases) > 1:
        raise UsageError(f"--{'search' if FLAGS.search else 'hlo'} is for one phase: add --phase=train, sleep or wake")
    out, text = paths.given(FLAGS.json, "json"), paths.given(FLAGS.hlo, "hlo")

    def keep(rows: list[dict[str, Any]]) -> None:
        if out:
            about = {"command": ["python", "tools/aot_tpu.py", *sys.argv[1:]], "topology": FLAGS.topology, "rows": rows}
            write_text(out, json.dumps(about, indent=1) + "\n")

    if FLAGS.search:
        ranking = search(config, arguments, FLAGS.topology, FLAGS.phase)
        rows = [{"phase": FLAGS.phase, "sizes": sizes, **figures} for sizes, figures in ranking]
        keep(rows)
        print(*(_ranked(*pair) for pair in ranking), sep="\n")
        failed = not any("predicted" in row for row in rows)
    else:
        sharding.check(config, meshes.abstract(config.mesh, _chips(FLAGS.topology)))
        rows = []
        for phase in phases:
            rows.append({"phase": phase, **measured(arguments, FLAGS.topology, phase, str(text or ""))})
            keep(rows)
            print(told(phase, FLAGS.topology, rows[-1]), flush=True)
        failed = any("failed" in row for row in rows)
    return int(failed)


if __name__ == "__main__":
    cli.run(main, FLAGS)
