r"""Fills the tables and the weak-scaling curve of experiments/pod/ with what aot_tpu.py says of their rows.

Examples:
  python tools/aot_tpu_pod.py
  python tools/aot_tpu_pod.py --only=v5p-64
  python tools/aot_tpu_pod.py --only=16x16
  python tools/aot_tpu_pod.py --only=nothing

Compiles the rows that table.json, memory.json and weak_scaling.json lack, then writes README.md's tables and the picture. --only leaves those whose
name or slice has this in it, of the curve as well; where nothing has, nothing is compiled and the table and the picture are written anew.
Needs the extra `aot-tpu`. A row takes one to five minutes of one idle core, or more.
"""
import json
import os
import pathlib
import re
from typing import Any

from absl import flags

import aot_tpu
from aot.chips import predict, slice_of
from sleepnet import cli
from sleepnet.files import write_bytes, write_text

POD = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "pod"
SLICES = {"v5e-16": "v5e:4x4", "v5p-64": "v5p:4x4x4", "v6e-256": "v6e:16x16"}
BIG, SMALL, DEPO = "experiments/pod/hybrid_1b.py", "experiments/rule110_paper.py", "experiments/depo_paper.py"
POLICIES, PASSES = ("none", "pass", "chunk", "named"), (1, 2, 4, 8)  # of the table of memory
SIDES, EACH = (1, 2, 4, 8, 16), 32  # of the curve: sides of a square of chips, sequences on each


def rows() -> dict[str, tuple[str, str, list[str]]]:
    """{name: (phase, topology, arguments)}."""
    found = {}
    for name, topology in SLICES.items():
        small = ["--config.mesh.fsdp=4", "--config.mesh.tensor=4", "--config.train.accumulate=64"] if name == "v5e-16" else []
        found[f"hybrid_1b train {name}"] = ("train", topology, [f"--config={BIG}", *small])
        found[f"rule110_paper train {name}"] = ("train", topology, [f"--config={SMALL}"])
        found[f"depo_paper train {name}"] = ("train", topology, [f"--config={DEPO}", *(["--config.train.batch_size=256"] if name == "v6e-256" else [])])
        for phase in ("sleep", "wake"):
            fewer = ["--config.train.batch_size=64"] if (phase, name) == ("sleep", "v5e-16") else []
            found[f"hybrid_1b {phase} {name}"] = (phase, topology, [f"--config={BIG}", *fewer])
    return found


def line(name: str, figures: dict[str, Any]) -> str:
    """A row of the table."""
    run, phase, chips = name.split()
    if "failed" in figures:
        largest = ", ".join(f"{b['bytes'] / aot_tpu.GIB:.1f} GiB {b['shape'].split('{')[0]}" for b in figures["failed"]["buffers"][:2])
        return f"| {run} | {phase} | {chips} | does not fit: {figures['failed']['message'][:120]}; {largest} |||||||"
    p, count = figures["predicted"], sum(row["count"] for row in figures["collectives"])
    chip, _ = slice_of(SLICES[chips])
    moved = sum(row["bytes"] * row["count"] for row in figures["collectives"]) / 1e9
    milliseconds = " / ".join(f"{1e3 * p[key]:.3g}" for key in ("compute", "HBM", "interconnect"))
    return (
        f"| {run} | {phase} | {chips} | {figures['peak_bytes'] / aot_tpu.GIB:.1f} / {chip.hbm / aot_tpu.GIB:.0f} | {figures['flops'] / 1e12:.3g} / {figures['flops_model'] / 1e12:.3g} "
        f"| {figures['bytes'] / 1e9:.3g} | {count:,}, {moved:.3g} | {milliseconds} | {p['bound']} | {100 * p['share']:.0f} % | {figures['compile_s']:.0f} |"
    )


HEAD = """| run | phase | slice | GiB of HBM, used / there | TFLOPs, compiled / model's | GB of HBM moved | collectives, GB | ms of compute / HBM / links | bound by | share of peak | s to compile |
|---|---|---|---|---|---|---|---|---|---|---|"""


def weak_scaling() -> dict[str, tuple[str, str, list[str]]]:
    """{chips: (phase, topology, arguments)} of one config on squares of 1 … 256 chips, with as many sequences each, cut by sequences alone."""
    return {
        str(side**2): ("train", f"v5e:{side}x{side}", [f"--config={SMALL}", f"--config.train.batch_size={EACH * side**2}"]) for side in SIDES
    }


def memory() -> dict[str, tuple[str, str, list[str]]]:
    """{policy and N: (phase, topology, arguments)} of one config under each policy of recomputing."""
    chosen = lambda policy, n: [f"--config={SMALL}", "--config.model.sleep.remat=False", f"--config.model.remat={policy}", f"--config.model.sleep.passes={n}"]
    return {f"remat={policy} N={n}": ("train", SLICES["v5e-16"], chosen(policy, n)) for policy in POLICIES for n in PASSES}


def memory_table(found: dict[str, Any]) -> list[str]:
    """Temporaries of one chip and the predicted time, policies down and N across."""
    lines = ["| model.remat | " + " | ".join(f"N = {n}" for n in PASSES) + " |", "|---" * (len(PASSES) + 1) + "|"]
    for policy in POLICIES:
        there = [found.get(f"remat={policy} N={n}") for n in PASSES]
        cells = [f"{f['memory']['temp'] / 2**20:,.0f} MiB, {1e3 * f['predicted']['step']:.1f} ms" if f and "predicted" in f else "–" for f in there]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return lines


def put(text: str, name: str, lines: list[str]) -> str:
    """The page with these lines between its marks."""
    return re.sub(rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)", lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def compiled(rows: dict[str, tuple[str, str, list[str]]], path: pathlib.Path, only: str) -> dict[str, Any]:
    """The figures of the rows in `path`, after those that it lacks and whose name has `only` in it were compiled; predictions by today's facts."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    keep = lambda: write_text(path, json.dumps(found, indent=1) + "\n")
    for name, (phase, topology, arguments) in rows.items():
        if name not in found and only in f"{name} {topology}":
            found[name] = {"arguments": arguments, "topology": topology, **aot_tpu.measured(arguments, topology, phase)}
            keep()
            print(aot_tpu.told(phase, topology, found[name]), flush=True)
    for figures in found.values():
        if "failed" not in figures:
            figures["predicted"] = predict(figures, *slice_of(figures["topology"]))
    keep()
    return found


def draw(curve: dict[str, Any], path: pathlib.Path) -> None:
    """Predicted time of a step by the number of chips, and what each part alone would take."""
    from sleepnet.pictures import Figure, png

    points = {int(chips): figures["predicted"] for chips, figures in curve.items() if "predicted" in figures}
    counts = sorted(points)
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for key in ("step", "compute", "HBM", "interconnect"):
        values = [1e3 * points[count][key] or float("nan") for count in counts]
        axes.plot(counts, values, marker="o", linewidth=5 if key == "step" else 1, alpha=0.3 if key == "step" else 1, label="step, at least" if key == "step" else key)
    axes.set(xscale="log", xlabel=f"v5e chips, {EACH} sequences each", ylabel="ms, predicted", xticks=counts, xticklabels=counts, ylim=(0, None))
    axes.minorticks_off()
    axes.legend(fontsize=8)
    write_bytes(path, png(figure, 80, Software=None))


FLAGS = flags.FlagValues()
flags.DEFINE_string("only", "", "compile rows whose name or slice has this in it alone", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Compiles what is lacking; every row is written as soon as it is there."""
    del argv
    os.chdir(POD.parents[1])  # the rows name config files from there
    found = compiled(rows(), POD / "table.json", FLAGS.only)
    lines = [HEAD, *(line(name, found[name]) for name in rows() if name in found)]
    readme = POD / "README.md"
    text = put(readme.read_text(encoding="utf-8"), "table", lines)
    write_text(readme, put(text, "memory", memory_table(compiled(memory(), POD / "memory.json", FLAGS.only))))
    curve = compiled(weak_scaling(), POD / "weak_scaling.json", FLAGS.only)
    if curve:
        draw(curve, POD / "weak_scaling.png")
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS)
