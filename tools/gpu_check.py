r"""Checks everything of the kernels and of training that a machine with a GPU can show, in one command of at most eight minutes.

Parts, each in a process of its own with a time limit: `device`, `numerics` (every implementation against its oracle, outputs and
gradients), `bench` (bench_kernels.py), `kernels` (those made for GPUs alone: numerics, then speed), `fla` (bfloat16 again, beside
fla's Triton kernel, forward), `depo` and `rule110` (short trainings of experiments/depo_cpu.py and rule110_paper.py). The folder
gets report.md, report.json, and a log and a JSON file a part. A part that fails, runs out of time or can't run here is told in the
report, and the exit code is 1; only what --skip names is left out without one.

Examples:
  python tools/gpu_check.py --out=runs/gpu_check
  python tools/gpu_check.py --out=runs/gpu_check --skip=fla
  python tools/gpu_check.py --out=runs/cpu_check --cpu

--cpu takes any machine and small sizes, and leaves out kernels and fla, which need a GPU.
"""
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # such a machine may have JAX and nothing of ours installed

from gpu import parts  # noqa: E402
from sleepnet import cli, paths  # noqa: E402
from sleepnet.errors import UsageError  # noqa: E402
from sleepnet.files import write_json, write_text  # noqa: E402

# Seconds; together eight minutes.
LIMITS = {"device": 20, "numerics": 100, "bench": 110, "kernels": 80, "fla": 60, "depo": 50, "rule110": 60}
DONE, EXCLUDED = "passed", "excluded"
NEED_A_GPU = {"kernels", "fla"}


def run_part(name: str, out: pathlib.Path, cpu: bool, limit: float) -> dict:
    """Runs a part in a subprocess, its output into a log; returns its status, seconds, and what it has written so far."""
    result = out / f"{name}.json"
    result.unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Torch needs some of the memory that JAX would take whole.
    environment = os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | ({"JAX_PLATFORMS": "cpu"} if cpu else {})
    command = [sys.executable, __file__, f"--out={out}", f"--part={name}", *(["--cpu"] if cpu else [])]
    start = time.monotonic()
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True)
        try:
            code = process.wait(limit)
            said = (out / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()
            status = DONE if code == 0 else f"failed: {said[-1] if said else f'ended with {code}'}"
        except subprocess.TimeoutExpired:
            # The part may have started a training of its own.
            os.killpg(process.pid, 9)
            process.wait()
            status = f"failed: not done after {limit:.0f} s"
    rows = json.loads(result.read_text(encoding="utf-8")) if result.exists() else []
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "rows": rows}


def table(rows: list[dict]) -> list[str]:
    """Returns rows of equal keys as a Markdown table; nested values stay in the JSON."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, (dict, list))))
    show = lambda value: "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")
    return [" | ".join(keys), " | ".join(["---"] * len(keys)), *(" | ".join(show(row.get(key)) for key in keys) for row in rows)]


def markdown(report: dict) -> str:
    """Returns the report as Markdown: what passed, then every part's figures."""
    lines = ["# Check of kernels and training", "", f"{report['date']}, {'CPU' if report['cpu'] else 'GPU'}, {report['seconds']:.0f} s", ""]
    lines += table([{"part": name, "status": part["status"], "seconds": part["seconds"]} for name, part in report["parts"].items()])
    for name, part in report["parts"].items():
        if part["rows"]:
            lines += ["", f"## {name}", "", *table(part["rows"])]
    return "\n".join(lines) + "\n"


def check(out: pathlib.Path, cpu: bool, skip: set[str], limits: dict[str, float]) -> int:
    """Runs every part that is not in `skip`, writes the report after each, and returns the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    report = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "cpu": cpu, "seconds": 0.0, "parts": {}}
    for name, limit in limits.items():
        if name in skip or cpu and name in NEED_A_GPU:
            part = {"status": f"{EXCLUDED} by {'--skip' if name in skip else '--cpu'}", "seconds": 0.0, "rows": []}
        else:
            part = run_part(name, out, cpu, limit)
        report["parts"][name] = part
        report["seconds"] = time.monotonic() - start
        write_json(out / "report.json", report)
        write_text(out / "report.md", markdown(report))
        print(f"{name:9} {part['seconds']:6.1f} s  {part['status']}", flush=True)
    return int(any(not part["status"].startswith((DONE, EXCLUDED)) for part in report["parts"].values()))


FLAGS = flags.FlagValues()
flags.DEFINE_string("out", "runs/gpu_check", "folder for the report; made if need be", flag_values=FLAGS)
flags.DEFINE_bool("cpu", False, "run on the CPU, at small sizes, without kernels and fla", flag_values=FLAGS)
flags.DEFINE_list("skip", [], f"parts to leave out: {', '.join(LIMITS)}", flag_values=FLAGS)
flags.DEFINE_float("patience", 1.0, "time limits times this, for a busy machine; together they are eight minutes at 1", lower_bound=0.0, flag_values=FLAGS)
flags.DEFINE_string("part", "", "used by the tool itself: one part, in this process", flag_values=FLAGS)


def main(argv):
    """Reads the flags; everything else can be imported."""
    del argv
    f = FLAGS
    out = paths.plain(f.out, "out")
    if f.part:
        parts.PARTS[f.part](out / f"{f.part}.json", f.cpu)
        return 0
    unknown = set(f.skip) - set(LIMITS)
    if unknown:
        raise UsageError(f"--skip={','.join(sorted(unknown))}: no such part; known: {', '.join(LIMITS)}")
    return check(out, f.cpu, set(f.skip), {name: limit * f.patience for name, limit in LIMITS.items()})


if __name__ == "__main__":
    cli.run(main, FLAGS)
