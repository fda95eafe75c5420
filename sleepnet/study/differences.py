"""What makes a study another study, and an outcome another run's: the first key in which they differ."""
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sleepnet import trust
from sleepnet.config import RunConfig, completed, to_dict
from sleepnet.study import chains
from sleepnet.study.overrides import flatten

# of the base, what every run sets for itself
_NOT_COMPARED = ("seed", "resume")
_PLACE = "mesh."  # where a run is: it goes on on another mesh, to other bits but the same numbers


def plain(value: Any) -> Any:
    """`value` as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def whole(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A run's configuration from the file `path`, with the defaults of keys that are newer than the file."""
    with trust.reading(path):
        return plain(completed(RunConfig, config))


def studies(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What makes two studies different ones, "" if they can share a folder: words, seeds, the mesh, and further arms and tests may differ."""
    old_base, new_base = flatten(old["base"]), flatten(new["base"])
    for key in sorted({*old_base, *new_base} - {*_NOT_COMPARED}):
        if old_base.get(key) != new_base.get(key) and not key.startswith(_PLACE):
            return f"base.{key} is {old_base.get(key)!r} there and {new_base.get(key)!r} here"
    arms = {arm["name"]: arm for arm in new["arms"]}
    for arm in old["arms"]:
        if arm["name"] not in arms:
            return f"arm {arm['name']!r} is there and not here (arms can be added, not removed; run some with --only)"
        if differing := _other_arm(arm, arms[arm["name"]]):
            return f"arm {arm['name']!r}{differing}"
    tests = {test["name"]: test for test in new["tests"]}
    for test in old["tests"]:
        if test["name"] not in tests:
            return f"test {test['name']!r} is there and not here (tests can be added, not removed)"
        for key, there in test.items():
            if there != (here := tests[test["name"]][key]):
                return f"test {test['name']!r} has {key}={there!r} there and {here!r} here"
    return ""


def _other_arm(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first thing that makes an arm another one."""
    for key in ("overrides", "match", "eval_passes"):
        if old[key] != new[key]:
            return f" has {key}={old[key]!r} there and {new[key]!r} here"
    names = [[phase["name"] for phase in arm["phases"]] for arm in (old, new)]
    if names[0] != names[1]:
        return f" has the phases {', '.join(names[0]) or '(none)'} there and {', '.join(names[1]) or '(none)'} here"
    for there, here in zip(old["phases"], new["phases"]):
        before, now = ({"start": phase["start"], **flatten(phase["overrides"])} for phase in (there, here))
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return f", phase {there['name']!r}, has {key}={before.get(key)!r} there and {now.get(key)!r} here"
    return ""


def outcome(values: dict[str, Any], chain: Sequence[RunConfig], path: Path, free: Iterable[str] = (), exactly: bool = True) -> tuple[str, Any, Any] | None:
    """The first key, with both values, in which the outcome `values` of the file `path` is not that of a chain's last run; "phase NAME: KEY" in its past.

    Args:
      values: of the outcome.
      chain: the run, behind those that it comes from.
      path: of the file.
      free: keys that may differ.
      exactly: keys that change nothing computed are compared as well.
    """
    *before, last = chain
    past = [one.get("config") if isinstance(one, dict) else None for one in values.get("before", [])]
    if len(past) != len(before):
        return "phases", len(past) + 1, len(chain)
    for k, (config, mine) in enumerate(zip([*past, values.get("config")], chain)):
        part, where = (flatten, "") if mine is last and exactly else (chains.essence, f"phase {mine.phase}: " * (mine is not last))
        there, here = whole(config, path), plain(to_dict(mine))
        old, new = part(there), part(here)
        # a chain's first start is all that is not said by what stands before
        old["start"], new["start"] = (there["start"], here["start"]) if k == 0 else ("", "")
        for key in sorted({*old, *new} - {"resume", *free}):
            if old.get(key) != new.get(key) and not key.startswith(_PLACE):
                return f"{where}{key}", old.get(key), new.get(key)
    return None
