"""Damage at equal forgetting, of a study whose arms unlearn: what else was lost where so much of what was to be forgotten is gone.

A run was looked at along its strengths, the first time before its first step (see `looks` of `sleepnet.methods.forgetting.unlearn`):

    forgotten   1 − exact on what is to be forgotten / the same before the first step
    damage      exact on the rest before the first step − the same now; the rest is far, what is easier than the method's `least`, or near, all else that is not forgotten

Between two looks both are taken to be straight lines; damage is read where `forgotten` first reaches a level. A curve that bends up lies below its chord, so that looks far apart tell
too much damage; one that turns back tells least at its first crossing, which is why the last look stands beside. Arms of which some seed never gets there say so. A level may lie below what guessing has of what is to be forgotten: then a higher one says nothing.
With --beside each arm is compared with that one, seed by seed: the mean of how much more damage it does, with Student's 95 % interval over the seeds of both, not corrected for how many arms there are.
Arms that were asked other things, which is seen by what was right before the first step, have tables of their own.

Examples:
  python -m sleepnet.eval.unlearning --outcomes=experiments/results/mast --beside=mast
  python -m sleepnet.eval.unlearning --outcomes=experiments/results/mast --levels=0.1,0.3 --arms=mast,full,revert_all --plot=damage.png
"""
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from sleepnet import cli, paths
from sleepnet.errors import UsageError, nearest
from sleepnet.eval.intervals import mean_difference
from sleepnet.eval.unlearning_plot import plot
from sleepnet.files import read_json

FLAGS = flags.FlagValues()
flags.DEFINE_string("outcomes", None, "a study's workdir, or a folder of finished runs' outcomes", flag_values=FLAGS)
flags.DEFINE_list("levels", ["0.25", "0.5"], "shares of what is to be forgotten that are gone", flag_values=FLAGS)
flags.DEFINE_list("arms", [], "arms of the tables and of the picture; empty: all", flag_values=FLAGS)
flags.DEFINE_string("beside", "", "an arm that each other is compared with, seed by seed", flag_values=FLAGS)
flags.DEFINE_string("plot", "", "a picture, FILE.png: damage over what is forgotten", flag_values=FLAGS)
cli.trust_flag(FLAGS)

REST = {"near": "damage", "far": "damage_far"}  # kind of the rest → its name in `curves`


def at_level(forgotten: np.ndarray, lost: np.ndarray, level: float) -> float:
    """What is `lost` where `forgotten` first reaches `level`, by straight lines between looks; NaN where it never does.

    Args:
      forgotten, lost: [S] along the strengths, the first that of none.
      level: above 0.
    """
    reached = np.flatnonzero(forgotten >= level)
    if not len(reached):
        return math.nan
    after = int(reached[0])
    if not after:
        return float(lost[0])
    share = (level - forgotten[after - 1]) / (forgotten[after] - forgotten[after - 1])
    return float(lost[after - 1] + share * (lost[after] - lost[after - 1]))


def curves(looks: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """{forgotten, kl}, [S] each, of a run's looks in their order; forget, what was right before; and {damage, near} and {damage_far, far}, the same of either rest, where some of it was asked.

    Raises:
      UsageError: none of them is from before the first step, or nothing of what is to be forgotten was known then.
    """
    looks = list(looks)
    if not looks or looks[0]["step"]:
        raise UsageError("its looks do not begin before the first step: set train.eval_every")
    told = {key: np.array([look[key] for look in looks], np.float64) for key in ("forget_exact", "near_exact", "near_kl")}
    if not told["forget_exact"][0]:
        raise UsageError("nothing of what is to be forgotten was known before the first step")
    found = {"forgotten": 1 - told["forget_exact"] / told["forget_exact"][0], "kl": told["near_kl"], "forget": told["forget_exact"][0]}
    for rest, asked in (("near", looks[0].get("near_asked", 1)), ("far", looks[0].get("far_asked"))):  # outcomes of before do not tell how many
        if asked:
            exact = np.array([look[f"{rest}_exact"] for look in looks], np.float64)
            found |= {REST[rest]: exact[0] - exact, rest: exact[0]}
    return found


def read(folder: Path) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Arm → seed → `curves`, of the runs in a study's workdir or folder of results that unlearn.

    Raises:
      UsageError: there are none, or one is damaged.
    """
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for path in sorted({*folder.glob("*/seed*/outcome.json"), *folder.glob("*-seed*.json")}):
        values = read_json(path, "if it is damaged, remove it and run the study again")
        try:
            looks = [line for line in values["curve"] if line.get("forget_exact") is not None]
            if looks:
                found.setdefault(values["arm"], {})[values["seed"]] = curves(looks)
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path} does not tell {error}: it is no outcome of a study") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    if not found:
        raise UsageError(f"{folder} holds no finished run that unlearns: give --outcomes the workdir of a study such as experiments/seeds/mast.py, or the folder of its --results")
    return found


def table(found: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]], levels: Iterable[float], rest: str = "near", beside: str = "") -> list[str]:
    """Lines of a Markdown table: damage of each arm at each level, and at the last look, of each seed in order; what none reached is a dash. Least damage at the first level on top.

    Args:
      found: as `read` returns it.
      levels: shares forgotten.
      rest: of `REST`.
      beside: an arm of `found`: a further column a level has the mean of how much more damage an arm does, over the seeds of both, with its interval.
    """
    levels = list(levels)
    of = lambda run, level: at_level(run["forgotten"], run[REST[rest]], level)
    every = lambda runs, level: [of(run, level) for _, run in sorted(runs.items())]
    shown = lambda value: "–" if math.isnan(value) else f"{value:.3f}"
    mean = lambda values: math.inf if any(map(math.isnan, values)) else float(np.mean(values))
    head = ["arm", "most forgotten", *(f"damage at {level:g}" for level in levels), "at the end", *(f"above `{beside}` at {level:g}" for level in levels if beside)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, runs in sorted(found.items(), key=lambda each: tuple(mean(every(each[1], level)) for level in levels)):
        row = [f"`{arm}`", ", ".join(f"{run['forgotten'].max():.2f}" for _, run in sorted(runs.items())), *(", ".join(map(shown, every(runs, level))) for level in levels)]
        row.append(", ".join(f"{run[REST[rest]][-1]:.3f}" for _, run in sorted(runs.items())))
        if beside:
            both = sorted({*runs} & {*found[beside]})
            row += ["" if arm == beside else _above([of(runs[seed], level) - of(found[beside][seed], level) for seed in both]) for level in levels]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _above(differences: list[float]) -> str:
    value, low, high = mean_difference(differences)
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" + ("" if math.isinf(low) else f" ({low:+.3f} … {high:+.3f})")


def alike(found: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> list[dict[str, Mapping[int, Mapping[str, np.ndarray]]]]:
    """Arms that were asked the same, in groups, the largest first: in one group they had as much right of everything before their first step, with each seed that two of them share."""
    groups: list[dict[str, Mapping[int, Mapping[str, np.ndarray]]]] = []
    start = lambda run, other: [float(run[kind]) for kind in ("forget", *REST) if kind in run and kind in other]
    same = lambda runs, others: all(start(runs[seed], others[seed]) == start(others[seed], runs[seed]) for seed in {*runs} & {*others})
    for arm, runs in found.items():
        home = next((group for group in groups if all(same(runs, others) for others in group.values())), None)
        if home is None:
            groups.append(home := {})
        home[arm] = runs
    return sorted(groups, key=len, reverse=True)


def _seeds(group: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]) -> dict[int, Mapping[str, np.ndarray]]:
    """A run of each seed, in the order of seeds."""
    return {seed: next(runs[seed] for runs in group.values() if seed in runs) for seed in sorted({seed for runs in group.values() for seed in runs})}


def main(argv: list[str]) -> None:
    """Prints the tables."""
    del argv
    if FLAGS.outcomes is None:
        raise UsageError("--outcomes is missing: python -m sleepnet.eval.unlearning --outcomes=FOLDER")
    try:
        levels = [float(level) for level in FLAGS.levels]
    except ValueError as error:
        raise UsageError(f"--levels={','.join(FLAGS.levels)} must be numbers above 0 and at most 1, for instance 0.25,0.5") from error
    if not levels or not all(0 < level <= 1 for level in levels):
        raise UsageError(f"--levels={','.join(FLAGS.levels)} must be numbers above 0 and at most 1, for instance 0.25,0.5")
    found = read(paths.plain(FLAGS.outcomes, "outcomes"))
    for flag, names in (("arms", FLAGS.arms), ("beside", [FLAGS.beside] if FLAGS.beside else [])):
        if unknown := [name for name in names if name not in found]:
            raise UsageError(f"--{flag}: {FLAGS.outcomes} has no arm {unknown[0]!r} that unlearns{nearest(unknown[0], found)}; it has {', '.join(sorted(found))}")
    found = {arm: runs for arm, runs in found.items() if not FLAGS.arms or arm in (*FLAGS.arms, FLAGS.beside)}
    groups = alike(found)
    for group in groups:
        before = _seeds(group)
        print("\nBefore the first step were right, of what is to be forgotten: " + ", ".join(f"{run['forget']:.3f} (seed {seed})" for seed, run in before.items()) + ".")
        for rest, key in REST.items():
            told = {arm: having for arm, runs in group.items() if (having := {seed: run for seed, run in runs.items() if key in run})}
            if not told:
                continue
            print(f"\nThe rest: {rest}, of which before the first step were right " + ", ".join(f"{run[rest]:.3f} (seed {seed})" for seed, run in _seeds(told).items()) + ".\n")
            print("\n".join(table(told, levels, rest, FLAGS.beside if FLAGS.beside in told else "")))
    if FLAGS.plot:
        print(f"\npicture: {plot(groups[0], paths.plain(FLAGS.plot, 'plot'))}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
