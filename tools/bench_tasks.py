r"""How fast the tasks generate: examples and tokens a second on one core, by the vectorised path.

Every task in its default size and in the sizes of experiments/*_cpu.py and *_paper.py. A second is one of the process on its core: what
else the machine runs does not count. Tasks take turns round by round, so that a slower clock hits all of them; a figure is the
median over rounds, with half the distance between its quartiles. A round draws fresh batches of --batch examples for --seconds.
--split=test is slower: a task draws candidates until one belongs to the split, and a held-out split has one in 64.

Examples:
  python tools/bench_tasks.py
  python tools/bench_tasks.py --tasks=rule110,mqar --batch=64 --rounds=20
  python tools/bench_tasks.py --split=test --json=bench.json

The column `× model` is this figure over the examples a second that the experiment's own model trains on, were the machine to reach --gflops of its
counted FLOPs: input that is 10 times as fast takes a tenth of a core's time, and none of the model's where a thread draws ahead.
"""
import importlib.util
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from sleepnet import cli, paths
from sleepnet.files import write_json

FLAGS = flags.FlagValues()
flags.DEFINE_list("tasks", None, "only these; by default all", flag_values=FLAGS)
flags.DEFINE_integer("batch", 256, "examples of a batch", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 9, "how often each is timed", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("seconds", 0.1, "least time of a round", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "which examples", flag_values=FLAGS)
flags.DEFINE_float("gflops", 100.0, "what the model is taken to reach, in 1e9 counted FLOPs a second, all cores together", lower_bound=1e-3, flag_values=FLAGS)
flags.DEFINE_string("json", None, "file for the figures", flag_values=FLAGS)

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def sizes(chosen) -> Iterator[tuple[str, object, float]]:
    """Yields (label, task, FLOPs of training on one example): each task's default size, without a model, then those of the experiments."""
    from sleepnet import config as run_config, tasks
    from sleepnet.study import resolve
    from sleepnet.tasks.registry import task_class

    for name in chosen or tasks.names():
        yield f"{task_class(name).name} default", tasks.get(name), 0.0
    for path in sorted([*EXPERIMENTS.glob("*_cpu.py"), *EXPERIMENTS.glob("*_paper.py")]):
        config = _config(path)
        run = run_config.parse(config.get("base", config))  # a study, or a single run
        if not chosen or run.task.name in chosen:
            flops = resolve.train_flops(run) / (run.train.steps * run.train.batch_size)
            yield f"{run.task.name} {path.stem}", tasks.get(run.task.name, **run.task.arguments), flops


def _config(path: Path):
    """Returns what a config file defines."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def time_round(task, split: str, start: int, batch: int, least: float) -> tuple[float, int]:
    """Returns examples per second of one round, and the index behind its last example."""
    first, began = start, time.process_time()
    while True:
        task.batch(0, split, start, batch)
        start += batch
        if (spent := time.process_time() - began) >= least:
            return (start - first) / spent, start


def main(argv: list[str]) -> None:
    """Times every task and prints the table."""
    del argv
    out = paths.given(FLAGS.json, "json")
    found = list(sizes(FLAGS.tasks))
    contenders, flops = {label: task for label, task, _ in found}, {label: count for label, _, count in found}
    figures, at = {label: [] for label in contenders}, {}
    for label, task in contenders.items():
        _, at[label] = time_round(task, FLAGS.split, 0, FLAGS.batch, 0)  # caches are filled once
    for _ in range(FLAGS.rounds):
        for label, task in contenders.items():
            speed, at[label] = time_round(task, FLAGS.split, at[label], FLAGS.batch, FLAGS.seconds)
            figures[label].append(speed)
    rows, lines = [], []
    head = f"{'task':40} {'T':>6} {'examples/s':>22} {'tokens/s':>14} {'× model':>9}   split {FLAGS.split}, batches of {FLAGS.batch}, median of {FLAGS.rounds} rounds"
    for label, task in contenders.items():
        middle = statistics.median(figures[label])
        low, _, high = statistics.quantiles(figures[label], n=4) if FLAGS.rounds > 1 else [middle] * 3
        ahead = middle * flops[label] / (1e9 * FLAGS.gflops)
        lines.append(f"{label:40} {task.seq_len:6} {middle:12,.0f} ± {(high - low) / 2:7,.0f} {middle * task.seq_len:14,.0f} {f'{ahead:9,.0f}' if ahead else ''}")
        rows.append({
            "task": label, "arguments": task.arguments, "examples_per_second": figures[label], "tokens": task.seq_len, "flops_per_example": flops[label]
        })
    if out:
        write_json(out, {"split": FLAGS.split, "batch": FLAGS.batch, "rows": rows})
    print(head, *lines, sep="\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)
