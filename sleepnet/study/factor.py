"""One factor at a time: a study whose arms differ from another study's base in one thing."""
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from sleepnet.errors import UsageError
from sleepnet.study import spec


def module(file: str | Path, name: str) -> dict[str, Any]:
    """What the config file experiments/NAME.py defines, for a `file` in a folder beside it."""
    return runpy.run_path(str(Path(file).resolve().parents[1] / f"{name}.py"))


def over(
    file: str, base: str, bases: Iterable[str], arms: Iterable[Mapping[str, Any]], *, title: str, question: str, seeds=(0,), reference: str = "sleep4"
) -> ml_collections.ConfigDict:
    """Returns a study of `arms` over the base of experiments/BASE.py.

    Args:
      file: of the factor, in a folder of experiments/.
      base: whose base; one of `bases`.
      arms: as in any study; `reference` is among them.
      title, question, seeds: of the study.

    Raises:
      UsageError: another base.
    """
    if base not in bases:
        raise UsageError(f"{Path(file).name}:{base}: there is {', '.join(bases)}")
    config = spec.default()
    config.title, config.question, config.seeds = title, question, seeds
    config.base = module(file, base)["get_config"]().base
    config.arms = [dict(arm) for arm in arms]
    config.reference = reference
    return config


def named(arms: Iterable[Mapping[str, Any]], *names: str) -> list[Mapping[str, Any]]:
    """The arms of these names, in this order."""
    known = {arm["name"]: arm for arm in arms}
    return [known[name] for name in names]
