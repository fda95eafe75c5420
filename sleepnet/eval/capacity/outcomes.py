"""What finished runs of a study left behind (`outcome.json`, ARM-seedK.json) as points: how much each came to know by heart."""
import re
from pathlib import Path
from typing import Any

from sleepnet import trust
from sleepnet.config import RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.eval.capacity.points import Point
from sleepnet.files import read_json
from sleepnet.tasks import get

_FIX = "if it is damaged, remove it and run the study again"


def points(folder: Path) -> list[Point]:
    """A point of each finished run in a study's workdir or folder of results that was to know something by heart; phases that others start from are none.

    Raises:
      UsageError: no such run, a damaged file, or a run that does not tell what it knew before and after.
    """
    paths = sorted({*folder.glob("*/seed*/outcome.json"), *folder.glob("*-seed*.json")})
    found = [point for path in paths if (point := _point(path))]
    if not found:
        raise UsageError(f"{folder} holds no finished run of a task to be known by heart: give --outcomes the workdir of a study, or the folder of its --results")
    return found


def arm_of(name: str) -> str:
    """The arm that a law is fitted for, from an arm's name in the study: without what it says of ranks (r4) and lengths (l200), the other words of it."""
    return "_".join(word for word in name.split("_") if not re.fullmatch(r"[rl]\d+", word)) or "points"


def _point(path: Path) -> Point | None:
    values = read_json(path, _FIX)
    try:
        with trust.reading(path):
            config = from_dict(RunConfig, values["config"])
        task = get(config.task.name, **config.task.arguments)
        if not task.by_heart:
            return None
        row, before = (_row(values.get(key, []), config.model.sleep.passes) for key in ("rows", "begun"))
        asked, digits = row["tokens_graded"], task.entries * task.digits
        if asked != digits:
            raise UsageError(f"{asked} digits were graded of {digits} to be known: train with eval.examples={task.entries}, all of them")
        # of a string what comes before the first wrong digit, of a book whole entries: see Point
        kind = "leading" if task.kind == "string" else "exact"
        recalled = row["own_chain_leading"] if kind == "leading" else round(row["own_chain_exact_accuracy"] * row["answers"]) * task.digits
        curve = [(line["tokens"] / task.seq_len, line["exact_accuracy"]) for line in values["curve"]] if kind == "exact" else []
        rank = config.adapters.rank if config.adapters.kind == "low_rank" else None
        return Point(
            r=rank, l=digits, seed=values["seed"], loss_before=before["label_loss"], loss_after=row["label_loss"], parameters=values["result"]["trained_parameters"],
            recalled_digits=recalled, arm=arm_of(values["arm"]), curve=tuple(curve), recalled_below_half=row[f"own_chain_{kind}_unsure"],
        )
    except KeyError as error:
        raise UsageError(f"{path} does not tell {error}: it is older than that, or started from nothing known; run it again") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _row(rows: list[dict[str, Any]], passes: int) -> dict[str, Any]:
    """What a run with its own N came to over all; {} without."""
    return next((row for row in rows if row["passes"] == passes and row["axis"] == "all"), {})
