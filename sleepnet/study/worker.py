"""One run of a study, in a process of its own: `python -m sleepnet.study.worker --folder=DIR [--cores=0,1] [--trust=my_rules]`.

Trains, grades the model on the test split and on the study's named tests, and writes `outcome.json`; goes on where a killed worker stopped. SIGTERM while it trains
saves a checkpoint first and ends it with status 0, without an outcome.
"""
import argparse
import dataclasses
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sleepnet import cli, lock, trust

_GRACE = 60.0  # seconds to end by itself: a checkpoint may be on its way to the disk


def pin(cores: list[int]) -> None:
    """Keeps this process to some cores; XLA reads the affinity, and its flags, when JAX is loaded."""
    if "jax" in sys.modules:
        raise RuntimeError("cores must be chosen before jax is imported")
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if len(cores) == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def end_with_parent() -> None:
    """Ends this process when the study that started it is gone, however it ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def curve(metrics: Path, tells: Sequence[str] = (), looks: Sequence[str] = ()) -> list[dict]:
    """The validation lines of a run's metrics by step, each with what the method told at that look, and in training last; of a step that a resumed run repeated, the later line."""
    from sleepnet.files import json_lines

    lines, told = {}, {}
    for _, line in json_lines(metrics.read_text(encoding="utf-8", errors="replace"), "step"):
        if line.get("split") == "train":
            told = {key: line[key] for key in tells if key in line}
        if line.get("split") == "validation":
            by_day = [key for key in line if key.startswith("exact_accuracy_day")]
            lines[line["step"]] = {key: line.get(key) for key in ("step", "flops", "tokens", "loss", "exact_accuracy", *looks, *by_day)} | told
    return [lines[step] for step in sorted(lines)]


def study_of(folder: Path) -> Path:
    """The study's folder, from a run's in it."""
    return next((above for above in folder.absolute().parents if (above / "study.json").exists()), folder.parent.parent)


def work(folder: Path) -> None:
    """Trains, grades, writes the outcome; see the module."""
    import jax

    from sleepnet import methods, origin, tasks
    from sleepnet.checkpoint import load_model
    from sleepnet.config import RunConfig, from_dict, to_dict
    from sleepnet.eval.runner import evaluate
    from sleepnet.files import write_json
    from sleepnet.methods.rl import experience
    from sleepnet.train import compiled
    from sleepnet.train.loop import train

    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    with trust.reading(folder / "run.json"):
        config = from_dict(RunConfig, run["config"])
    # in an outcome a phase starts at the home of the one before, in whatever folder; here at where that lies
    begun = dataclasses.replace(config, start=run.get("start", config.start))
    # one for all runs of the study: another seed, phase, or arm of the same shapes compiles nothing; outside of it stands what train would do alone
    with compiled.cached(config.compile_cache, study_of(folder)):
        drawn = methods.of(config).graded
        before = _before(begun, folder, drawn)
        result = train(begun, folder / "train", quiet=True)
        loaded = load_model(folder / "train")
        grade = lambda task, examples: evaluate(
            loaded.model,
            task,
            passes=config.eval.passes or (config.model.sleep.passes,),
            examples=examples,
            batch_size=config.eval.batch_size,
            own_chain=task.thinks and config.model.sleep.predict_passes == 1 and not config.model.memory_blocks.count and not config.model.sparse.count,
            keep_answers=True,
            recall=True,
            chains=drawn if experience.can_write(task) else 0,
        )
        rows = grade(loaded.task, config.eval.examples)
        tests = {
            name: {**test, "rows": grade(tasks.get(test["task"]["name"], **test["task"]["arguments"]), test["examples"])}
            for name, test in run.get("tests", {}).items()
        }
    device = jax.devices()[0]
    write_json(folder / "outcome.json", {
        "arm": run["arm"],
        "seed": run["seed"],
        "config": to_dict(config),
        "steps": config.train.steps,
        "flops": run["flops"],
        "result": result,
        "rows": rows,
        "curve": curve(folder / "train" / "metrics.jsonl", methods.of(config).tells, methods.of(config).looks),
        "versions": origin.versions("numpy"),
        "device": device.device_kind if device.platform != "cpu" else f"{platform.machine()} CPU",
        **({"before": run["before"]} if "before" in run else {}),
        **({"tests": tests} if tests else {}),
        **({"begun": before} if before else {}),
    })


def _before(config: Any, folder: Path, chains: int = 0) -> list[dict[str, Any]]:
    """How the run's test goes with the parameters that it starts from, kept in begun.json; [] of a run of fresh ones, and of one that has begun and whose start is gone."""
    from sleepnet import build, lineage, start
    from sleepnet.errors import UsageError
    from sleepnet.eval.pass_at_k import OTHER_DRAW
    from sleepnet.eval.runner import evaluate
    from sleepnet.files import read_json, write_json

    if not config.start:
        return []
    path, examples = folder / "begun.json", config.eval.examples
    if path.exists() and (kept := read_json(path, "remove it and run the study again")).get("examples") == examples:
        return kept["rows"]
    task = build.task_of(config)
    try:
        model = start.model(config, task)
    except UsageError:
        if (folder / "train" / lineage.RECORD).exists():
            return []
        raise
    grade = lambda draw=0: evaluate(
        model, task, passes=(config.model.sleep.passes,), examples=examples, batch_size=config.eval.batch_size, keep_answers=bool(chains), recall=True, chains=chains, draw=draw
    )  # fmt: skip
    rows = [row for row in grade() if row["axis"] == "all" or chains]
    if chains:  # by chains of their own, so that what was never solved is not chosen by the luck of those that are told
        rows = [{**row, OTHER_DRAW: other["right_chains"]} for row, other in zip(rows, grade(draw=1))]
    write_json(path, {"examples": examples, "rows": rows})
    return rows


def _run(argv: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sleepnet.study.worker", description="Trains and grades one run of a study, see sleepnet.study.")
    parser.add_argument("--folder", type=Path, required=True, help="the run's folder, with its run.json")
    parser.add_argument("--cores", default="", help="cores to keep to, for instance 0,1; empty: all")
    parser.add_argument("--trust", type=trust.listed, default=(), help=trust.HELP)
    options = parser.parse_args(argv)
    trust.allow(*options.trust)
    pin([int(core) for core in options.cores.split(",") if core])
    end_with_parent()
    with lock.held(options.folder, "a worker", wait=True):  # for one that a killed study has left behind
        from sleepnet.train.preempt import Preempted

        try:
            work(options.folder)
        except Preempted as stop:
            print(stop, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit status."""
    return cli.guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
