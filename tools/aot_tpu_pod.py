r"""Fills the table and the weak-scaling curve of experiments/pod/ with what aot_tpu.py says of their rows.

  python tools/aot_tpu_pod.py                # compiles the rows that table.json lacks, writes the table into README.md and draws weak_scaling.png
  python tools/aot_tpu_pod.py --only=v5p-64  # of the rows that are lacking, those whose name has this in it
  python tools/aot_tpu_pod.py --only=none    # compiles nothing: writes the table and the picture anew

Needs the extra `aot-tpu`. A row takes one to ten minutes of one core.
"""
import json
import os
import pathlib
import re
from typing import Any

from absl import flags

import aot_tpu
import aot_tpu_chips
from sleepnet import cli

POD = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "pod"
SLICES = {"v5e-16": "v5e:4x4", "v5p-64": "v5p:4x4x4", "v6e-256": "v6e:16x16"}
BIG, SMALL, DEPO = "experiments/pod/hybrid_1b.py", "experiments/rule110_paper.py", "experiments/depo_paper.py"
# One sequence a chip, weights cut over all. One fast-weight block of the six, which fits into one chip: it has as much to send and to compute as any
CURVE = {1: "v6e:1x1", 4: "v6e:2x2", 16: "v6e:4x4", 64: "v6e:8x8", 256: "v6e:16x16"}


def rows() -> dict[str, tuple[str, str, list[str]]]:
    """{name: (phase, topology, arguments)}; `curve` rows are for the picture."""
    found = {}
    for name, topology in SLICES.items():
        accumulate = ["--config.train.accumulate=16"] if name == "v5e-16" else []
        found[f"hybrid_1b train {name}"] = ("train", topology, [f"--config={BIG}", *accumulate])
        found[f"rule110_paper train {name}"] = ("train", topology, [f"--config={SMALL}"])
        found[f"depo_paper train {name}"] = ("train", topology, [f"--config={DEPO}", *(["--config.train.batch_size=256"] if name == "v6e-256" else [])])
        for phase in ("sleep", "wake"):
            found[f"hybrid_1b {phase} {name}"] = (phase, topology, [f"--config={BIG}"])
    for chips, topology in CURVE.items():
        found[f"curve {chips}"] = ("train", topology, [f"--config={BIG}", "--config.model.pattern=G", f"--config.train.batch_size={chips}"])
    return found


def line(name: str, figures: dict[str, Any]) -> str:
    """A row of the table."""
    run, phase, chips = name.split()
    if "failed" in figures:
        largest = ", ".join(f"{b['bytes'] / aot_tpu.GIB:.1f} GiB {b['shape'].split('{')[0]}" for b in figures["failed"]["buffers"][:2])
        return f"| {run} | {phase} | {chips} | does not fit: {figures['failed']['message'][:120]}; {largest} |||||||"
    p, count = figures["predicted"], sum(row["count"] for row in figures["collectives"])
    chip, _ = aot_tpu_chips.slice_of(SLICES[chips])
    moved = sum(row["bytes"] * row["count"] for row in figures["collectives"]) / 1e9
    milliseconds = " / ".join(f"{1e3 * p[key]:.3g}" for key in ("compute", "HBM", "interconnect"))
    return (
        f"| {run} | {phase} | {chips} | {figures['peak_bytes'] / aot_tpu.GIB:.1f} / {chip.hbm / aot_tpu.GIB:.0f} | {figures['flops'] / 1e12:.3g} / {figures['flops_model'] / 1e12:.3g} "
        f"| {figures['bytes'] / 1e9:.3g} | {count:,}, {moved:.3g} | {milliseconds} | {p['bound']} | {100 * p['share']:.0f} % | {figures['compile_s']:.0f} |"
    )


HEAD = """| run | phase | slice | GiB of HBM, used / there | TFLOPs, compiled / model's | GB of HBM moved | collectives, GB | ms of compute / HBM / links | bound by | share of peak | s to compile |
|---|---|---|---|---|---|---|---|---|---|---|"""


def draw(found: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Predicted time of a step from 1 to 256 chips, by what each part alone would take."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = [chips for chips in CURVE if "predicted" in found.get(f"curve {chips}", {})]
    figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for key in ("step", "compute", "HBM", "interconnect"):
        values = [1e3 * found[f"curve {chips}"]["predicted"][key] for chips in counts]
        drawn = [value or float("nan") for value in values]
        axes.plot(counts, drawn, marker="o", linewidth=3 if key == "step" else 1, alpha=0.4 if key == "step" else 1, label="step, at least" if key == "step" else key)
    axes.set(xscale="log", yscale="log", xlabel="v6e chips, as many sequences each", ylabel="ms a step, predicted", xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


FLAGS = flags.FlagValues()
flags.DEFINE_string("only", "", "compile rows whose name has this in it alone", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Compiles what is lacking; every row is written as soon as it is there."""
    del argv
    os.chdir(POD.parents[1])  # the rows name config files from there
    path = POD / "table.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, (phase, topology, arguments) in rows().items():
        if name not in found and FLAGS.only in name:
            found[name] = {"arguments": arguments, "topology": topology, **aot_tpu.measured(arguments, topology, phase)}
            print(aot_tpu.told(phase, topology, found[name]), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [HEAD, *(line(name, found[name]) for name in rows() if name in found and not name.startswith("curve"))]
    readme = POD / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"(?s)(<!-- table -->\n).*(<!-- end -->)", lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)
    readme.write_text(text, encoding="utf-8")
    if any(name.startswith("curve") for name in found):
        draw(found, POD / "weak_scaling.png")
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS)
