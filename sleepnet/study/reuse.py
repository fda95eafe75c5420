"""Outcomes that are a study's by their configuration, wherever they lie and whatever they are called there."""
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from sleepnet.config import to_dict
from sleepnet.study import ledger, outcomes as results, resolve
from sleepnet.study.chains import Chain, essence, home
from sleepnet.study.ledger import plain
from sleepnet.study.outcomes import Outcome
from sleepnet.study.spec import StudySpec, flatten

# what a run does not come out differently for, and its seed
_FREE = ("seed", "resume", "profile", "compile_cache")

Catalogue = dict[str, dict[int, Outcome]]


def key(config: dict, before: Iterable[dict] = ()) -> str:
    """What two runs that differ in the seed alone have in common, from a run's whole configuration and those of the runs that it comes from, the first first."""
    past = list(before)
    own = {name: value for name, value in flatten(config).items() if name not in _FREE and not (past and name == "start")}
    told = [{"start": past[0]["start"]}, *map(essence, past)] if past else []
    return json.dumps([*told, own] if past else own, sort_keys=True)


def catalogue(tree: Path) -> Catalogue:
    """`key` → seed → outcome, of all in folders of `tree` that are kept as ARM-seedK.json.

    Raises:
      UsageError: a damaged outcome.
    """
    found: Catalogue = {}
    for path in sorted(tree.rglob("*-seed*.json")):
        outcome = results.read(path)
        past = [ledger.whole(run["config"], path) for run in outcome.before]
        seeds = found.setdefault(key(ledger.whole(outcome.config, path), past), {})
        if outcome.seed not in seeds or seeds[outcome.seed].tests.keys() < outcome.tests.keys():
            seeds[outcome.seed] = outcome
    return found


def elsewhere(tree: Path, spec: StudySpec) -> list[Outcome]:
    """Outcomes in `tree` that are the study's by their configuration, of any seed and whatever they are called there; named as in the study. Phases that
    others start from are among them, under their homes."""
    found, known = resolve.chains(spec), catalogue(tree)
    inner = {home(chain[:k]): chain[:k] for chain in found.values() for k in range(1, len(chain))}
    return of({**found, **inner}, known)


def of(found: dict[str, Chain], known: Catalogue) -> list[Outcome]:
    """The outcomes among `known` of runs, called as these are."""
    named = []
    for name, chain in found.items():
        *before, last = (plain(to_dict(config)) for config in chain)
        seeds = known.get(key(last, before), {})
        named += [dataclasses.replace(seeds[seed], arm=name) for seed in sorted(seeds)]
    return named
