"""Hints that a memory gave a frozen solver: what each policy of giving them gets on the same questions. Of a study's outcomes, or of one run on the test split.

A run of `method.name=mem_pi` is looked at before its first step and behind its last, see `sleepnet.methods.rl.gates`. A table has one line an arm: accuracy of the solver and
share of hints given where the memory decides, AUROC of π(GEN) against "the solver fails by itself" and against "the hint pays", and regret, what an oracle of the decision would
have had more.

Examples:
  python -m sleepnet.eval.hints --outcomes=experiments/results/mem_pi --plot=costs.png
  python -m sleepnet.eval.hints --workdir=runs/mem_pi/decoupled05/seed0/train --examples=1024
"""
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from flax import nnx

from sleepnet import checkpoint, cli, paths, start
from sleepnet.errors import UsageError
from sleepnet.eval.hints_plot import plot
from sleepnet.files import read_json
from sleepnet.methods.base import Problem
from sleepnet.methods.registry import of
from sleepnet.methods.rl import gates
from sleepnet.methods.rl.mem_pi import MemPi

FLAGS = flags.FlagValues()
flags.DEFINE_string("outcomes", None, "a study's workdir, or a folder of finished runs' outcomes", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "a run's folder instead", flag_values=FLAGS)
flags.DEFINE_string("plot", "", "with --outcomes, a picture, FILE.png: reward, regret and AUROC over c", flag_values=FLAGS)
flags.DEFINE_integer("examples", 1024, "with --workdir, questions of the test split", flag_values=FLAGS)
cli.trust_flag(FLAGS)

_COLUMNS = {"learned_accuracy": "accuracy", "learned_given": "hints given", "auroc": "AUROC: fails", "auroc_pays": "AUROC: pays", "learned_reward": "reward", "regret": "regret", "always_reward": "always"}


def read(folder: Path) -> dict[str, dict[int, tuple[float, list[Mapping[str, Any]]]]]:
    """Arm → seed → c and its looks in their order, of the runs in a study's workdir or folder of results that give hints.

    Raises:
      UsageError: there are none, or one is damaged.
    """
    found: dict[str, dict[int, tuple[float, list[Mapping[str, Any]]]]] = {}
    for path in sorted({*folder.glob("*/seed*/outcome.json"), *folder.glob("*-seed*.json")}):
        values = read_json(path, "if it is damaged, remove it and run the study again")
        try:
            looks = [line for line in values["curve"] if line.get("learned_accuracy") is not None]
            if looks:
                arguments = values["config"]["method"]["arguments"]
                found.setdefault(values["arm"], {})[values["seed"]] = (arguments.get("cost", MemPi.cost), looks)
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path} does not tell {error}: it is no outcome of a study") from error
    if not found:
        raise UsageError(f"{folder} holds no finished run that gives hints: give --outcomes the workdir of a study such as experiments/seeds/mem_pi.py, or the folder of its --results")
    return found


def table(found: Mapping[str, Mapping[int, tuple[float, list[Mapping[str, Any]]]]]) -> list[str]:
    """Lines of a Markdown table, arms by c and then by regret; figures of each seed in order, of the last look. `always` is the reward of giving each hint."""
    last = lambda runs, key: [looks[-1][key] for _, (_, looks) in sorted(runs.items())]
    cost = lambda runs: next(iter(runs.values()))[0]
    shown = lambda values: ", ".join(f"{value:.3f}" for value in values)
    lines = ["| arm | c | " + " | ".join(_COLUMNS.values()) + " |", "|---|---|" + "---|" * len(_COLUMNS)]
    for arm, runs in sorted(found.items(), key=lambda each: (cost(each[1]), float(np.mean(last(each[1], "regret"))))):
        lines.append(f"| `{arm}` | {cost(runs):g} | " + " | ".join(shown(last(runs, key)) for key in _COLUMNS) + " |")
    return lines


def policies(told: Mapping[str, float]) -> list[str]:
    """Lines of a Markdown table of `gates.told`, one a policy."""
    lines = ["| policy | accuracy | hints given | reward |", "|---|---|---|---|"]
    lines += [f"| `{policy}` | " + " | ".join(f"{told[f'{policy}_{number}']:.3f}" for number in gates.NUMBERS) + " |" for policy in gates.POLICIES]
    return lines


def by_difficulty(seen: Mapping[str, np.ndarray], k: np.ndarray) -> list[str]:
    """Lines of a Markdown table by k: what the solver has by itself, with the memory's hint, with the right one, with any names, with those of others; how often the memory gives one."""
    columns = {"alone": "without", "memory's hint": "own_hint", "right hint": "right_hint", "names at random": "random_hint", "another's hint": "other_hint", "nearest text's": "near_hint"}
    lines = ["| k | questions | " + " | ".join(columns) + " | hints given |", "|---|---|" + "---|" * (len(columns) + 1)]
    for value in [None, *np.unique(k)]:
        where = np.ones_like(k, bool) if value is None else k == value
        shares = [float(seen[key][where].mean()) for key in columns.values()] + [float((seen["generate"][where] > 0.5).mean())]
        lines.append(f"| {'all' if value is None else value} | {where.sum()} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return lines


def graded(workdir: Path, examples: int) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """What is known of questions of a run's test split, their k, and the run's c; see `gates.told`.

    Raises:
      UsageError: no run that gives hints, or its solver is gone or another one.
    """
    loaded = checkpoint.load_model(workdir)
    config, task, method = loaded.config, loaded.task, of(loaded.config)
    if not isinstance(method, MemPi):
        raise UsageError(f"{workdir} learnt with method.name={config.method.name!r} and gives no hints: give a run of mem_pi")
    if examples < 2:
        raise UsageError(f"--examples={examples} must be at least 2")
    graph, params = nnx.split(loaded.model, nnx.Param)
    solver = start.references(config, task, workdir, "solver")
    seen = method.seen(config, Problem(graph, task, solver), nnx.to_pure_dict(params), examples, "test")
    return seen, np.asarray(task.asks(task.batch(config.seed, "test", 0, examples)["tokens"])), method.cost


def main(argv: list[str]) -> None:
    """Prints the tables."""
    del argv
    if (FLAGS.outcomes is None) == (FLAGS.workdir is None):
        raise UsageError("give one of --outcomes=FOLDER and --workdir=DIR")
    if FLAGS.outcomes is not None:
        found = read(paths.plain(FLAGS.outcomes, "outcomes"))
        print("\n".join(table(found)))
        if FLAGS.plot:
            print(f"\npicture: {plot(found, paths.plain(FLAGS.plot, 'plot'))}")
        return
    if FLAGS.plot:
        raise UsageError("--plot draws a study's arms: give --outcomes=FOLDER instead of --workdir")
    seen, k, cost = graded(paths.plain(FLAGS.workdir, "workdir"), FLAGS.examples)
    told = gates.told(seen, cost)
    print("\n".join([*policies(told), "", *by_difficulty(seen, k), "", f"c = {cost:g}; AUROC {told['auroc']:.3f} of what the solver fails, {told['auroc_pays']:.3f} of what pays, regret {told['regret']:.3f}, {told['hint_tokens']:.2f} tokens a hint"]))


if __name__ == "__main__":
    cli.run(main, FLAGS)
