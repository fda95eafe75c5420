"""Damage at equal forgetting, of a study whose arms unlearn: what else was lost where so much of what was to be forgotten is gone.

A run was looked at along its strengths, the first time before its first step (see `looks` of `sleepnet.methods.forgetting.unlearn`):

    forgotten   1 − exact on what is to be forgotten / the same before the first step
    damage      exact on the rest before the first step − the same now

Between two looks both are taken to be straight lines; damage is read where `forgotten` first reaches a level. Arms of which some seed never gets there say so.

Examples:
  python -m sleepnet.eval.unlearning --outcomes=experiments/results/mast
  python -m sleepnet.eval.unlearning --outcomes=experiments/results/mast --levels=0.1,0.3
"""
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from sleepnet import cli, paths
from sleepnet.errors import UsageError
from sleepnet.files import read_json

FLAGS = flags.FlagValues()
flags.DEFINE_string("outcomes", None, "a study's workdir, or a folder of finished runs' outcomes", flag_values=FLAGS)
flags.DEFINE_list("levels", ["0.25", "0.5", "0.75"], "shares of what is to be forgotten that are gone", flag_values=FLAGS)
cli.trust_flag(FLAGS)


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
    """{forgotten, damage, kl}, [S] each, of a run's looks in their order.

    Raises:
      UsageError: none of them is from before the first step, or nothing of what is to be forgotten was known then.
    """
    looks = list(looks)
    if not looks or looks[0]["step"]:
        raise UsageError("its looks do not begin before the first step: set train.eval_every")
    told = {key: np.array([look[key] for look in looks], np.float64) for key in ("forget_exact", "near_exact", "near_kl")}
    if not told["forget_exact"][0]:
        raise UsageError("nothing of what is to be forgotten was known before the first step")
    return {"forgotten": 1 - told["forget_exact"] / told["forget_exact"][0], "damage": told["near_exact"][0] - told["near_exact"], "kl": told["near_kl"]}


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


def table(found: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]], levels: Iterable[float]) -> list[str]:
    """Lines of a Markdown table: damage of each arm at each level, of each seed in order; what none reached is a dash. Least damage at the first level on top."""
    levels = list(levels)
    of = lambda runs, level: [at_level(run["forgotten"], run["damage"], level) for _, run in sorted(runs.items())]
    shown = lambda value: "–" if math.isnan(value) else f"{value:.3f}"
    mean = lambda values: math.inf if any(map(math.isnan, values)) else float(np.mean(values))
    lines = ["| arm | most forgotten | " + " | ".join(f"damage at {level:g}" for level in levels) + " |", "|---|---|" + "---|" * len(levels)]
    for arm, runs in sorted(found.items(), key=lambda each: tuple(mean(of(each[1], level)) for level in levels)):
        most = ", ".join(f"{run['forgotten'].max():.2f}" for _, run in sorted(runs.items()))
        lines.append(f"| `{arm}` | {most} | " + " | ".join(", ".join(map(shown, of(runs, level))) for level in levels) + " |")
    return lines


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    if FLAGS.outcomes is None:
        raise UsageError("--outcomes is missing: python -m sleepnet.eval.unlearning --outcomes=FOLDER")
    try:
        levels = [float(level) for level in FLAGS.levels]
    except ValueError as error:
        raise UsageError(f"--levels={','.join(FLAGS.levels)} must be numbers above 0 and at most 1, for instance 0.25,0.5") from error
    if not levels or not all(0 < level <= 1 for level in levels):
        raise UsageError(f"--levels={','.join(FLAGS.levels)} must be numbers above 0 and at most 1, for instance 0.25,0.5")
    print("\n".join(table(read(paths.plain(FLAGS.outcomes, "outcomes")), levels)))


if __name__ == "__main__":
    cli.run(main, FLAGS)
