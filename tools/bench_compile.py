"""What JAX compiles, and how long it takes: a training step, a forward pass, a grading with several N; two checkouts side by side.

A row is one thing that a person waits for, in a process of its own: programs compiled, CPU seconds (all threads, so a busy machine changes them
little) of tracing and of compiling, instructions of the optimised HLO. With --against the same is measured in another checkout, in turns, and a last
column has the ratio of the smallest values; --steps also takes so many training steps and compares their CPU time.

Examples:
  python tools/bench_compile.py
  python tools/bench_compile.py --only=step --steps=0 --json=compile.json
  git worktree add --detach ../before HEAD~20 && python tools/bench_compile.py --against=../before --repeats=3
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from sleepnet import cli, files, paths
from sleepnet.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
WHAT = {
    "step": "the quickstart's training step, N = 4, batch 32",
    "forward": "depo8_sleep4's forward pass, N = 4, batch 32",
    "grade": "depo8_sleep4 loaded and graded on 64 examples with N = 1, 2, 4, 8",
}
FLAGS = flags.FlagValues()
flags.DEFINE_string("against", None, "root of another checkout, to be measured before this one", flag_values=FLAGS)
flags.DEFINE_list("only", list(WHAT), "what to measure", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 1, "processes for each row; the smallest figures are shown", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("steps", 20, "training steps whose time is taken; 0: none", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)
flags.DEFINE_string("measure", None, "internal: measure this here and print JSON", flag_values=FLAGS)


def measure(what: str, steps: int) -> dict[str, Any]:
    """One row, in this process."""
    import jax

    seconds = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, took, **_: seconds.append(took) if event == "/jax/core/compile/backend_compile_duration" else None
    )
    began = time.process_time()
    if what == "grade":
        from sleepnet.eval import runner
        from sleepnet.models import zoo

        runner.evaluate(*zoo.load("depo8_sleep4"), passes=(1, 2, 4, 8), examples=64, batch_size=64)
        return {"programs": len(seconds), "trace": None, "compile": None, "whole": time.process_time() - began, "instructions": None, "step": None}
    jitted, arguments = _step() if what == "step" else _forward()
    seconds.clear()
    began = time.process_time()
    lowered = jitted.lower(*arguments)
    traced = time.process_time()
    compiled = lowered.compile()
    ended = time.process_time()
    taken = None
    if what == "step" and steps:
        (state, *rest, _), times = arguments, []  # the last is static
        for _ in range(steps):
            first = time.process_time()
            state, numbers = compiled(state, *rest)
            jax.block_until_ready((state, numbers))
            times.append(time.process_time() - first)
        taken = min(times)
    count = sum(" = " in line for line in compiled.as_text().splitlines())
    return {"programs": len(seconds), "trace": traced - began, "compile": ended - traced, "whole": ended - began, "instructions": count, "step": taken}


def _step():
    import jax
    from flax import nnx

    from sleepnet import build, data, optim
    from sleepnet.config import parse
    from sleepnet.train import step as steps

    sys.path.insert(0, str(ROOT / "experiments"))
    import quickstart

    config = parse(quickstart.base())
    task = build.task_of(config)
    graph, params = nnx.split(build.model_of(config, task), nnx.Param)
    batch = jax.device_put(data.BatchSource(task, seed=0, batch_size=config.train.batch_size, steps=1)[0])
    if not hasattr(steps, "learning_of"):  # a tree to compare with, of before there were methods
        optimizer = optim.optimizer(config.optim, config.train.steps)
        return steps.make_step(graph, optimizer, task.predicts, task.answers, 1), (steps.init_state(nnx.to_pure_dict(params), optimizer), batch, 4)
    learning = steps.learning_of(config, task)
    return steps.make_step(learning), (learning.begin(nnx.to_pure_dict(params), config.train.batch_size), {}, batch, None, 4)


def _forward():
    import jax
    from flax import nnx

    from sleepnet.models import zoo

    model, task = zoo.load("depo8_sleep4")
    graph, params = nnx.split(model, nnx.Param)
    forward = jax.jit(lambda params, tokens, passes: nnx.merge(graph, params).forward(tokens, passes=passes, predicts=task.predicts), static_argnums=2)
    return forward, (params, task.batch(seed=0, split="test", start=0, size=32)["tokens"], 4)


def elsewhere(root: Path, what: str, steps: int) -> dict[str, Any]:
    """One row, in a process that imports the checkout at `root`."""
    paths = os.pathsep.join([str(root), str(root / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(Path(__file__).resolve()), f"--measure={what}", f"--steps={steps}"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{root}: {what} can't be measured there: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    for what in [FLAGS.measure] if FLAGS.measure else FLAGS.only:
        if what not in WHAT:
            raise UsageError(f"--only={what} is not one of {', '.join(WHAT)}")
    if FLAGS.measure:
        print(json.dumps(measure(FLAGS.measure, FLAGS.steps)))
        return
    roots = {"here": ROOT}
    if FLAGS.against:
        if not (Path(FLAGS.against) / "sleepnet" / "__init__.py").exists():
            raise UsageError(f"--against={FLAGS.against} is no checkout: there is no sleepnet/ in it")
        roots = {"before": Path(FLAGS.against).resolve(), "here": ROOT}
    out = paths.given(FLAGS.json, "json")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for what in FLAGS.only:
        for _ in range(FLAGS.repeats):
            for name, root in roots.items():
                found.setdefault(what, {}).setdefault(name, []).append(elsewhere(root, what, FLAGS.steps))
        if out:
            files.write_json(out, found)
        print(f"{what}: {WHAT[what]}")
        for key, words in _COLUMNS.items():
            least = {name: min(row[key] for row in rows) for name, rows in found[what].items() if rows[0][key] is not None}
            if least:
                ratio = f"   ratio {least['here'] / least['before']:.2f}" if len(least) > 1 else ""
                print(f"  {words:24} {'   '.join(f'{name} {value:10.4g}' for name, value in least.items())}{ratio}")


_COLUMNS = {
    "programs": "programs",
    "trace": "tracing, CPU s",
    "compile": "compiling, CPU s",
    "whole": "all together, CPU s",
    "instructions": "HLO instructions",
    "step": "a step, CPU s",
}

if __name__ == "__main__":
    cli.run(main, FLAGS)
