"""Outcomes that are a study's by their configuration, wherever they lie and whatever they are called there."""
import dataclasses
import json
from pathlib import Path

from sleepnet.config import RunConfig, to_dict
from sleepnet.study import ledger, outcomes as results, resolve
from sleepnet.study.ledger import plain
from sleepnet.study.outcomes import Outcome
from sleepnet.study.spec import StudySpec, flatten

# what a run does not come out differently for, and its seed
_FREE = ("seed", "resume", "profile", "compile_cache")

Catalogue = dict[str, dict[int, Outcome]]


def key(config: dict) -> str:
    """What two runs that differ in the seed alone have in common, from a run's whole configuration."""
    return json.dumps({name: value for name, value in flatten(config).items() if name not in _FREE}, sort_keys=True)


def catalogue(tree: Path) -> Catalogue:
    """`key` → seed → outcome, of all in folders of `tree` that are kept as ARM-seedK.json.

    Raises:
      UsageError: a damaged outcome.
    """
    found: Catalogue = {}
    for path in sorted(tree.rglob("*-seed*.json")):
        outcome = results.read(path)
        found.setdefault(key(ledger.whole(outcome.config, path)), {}).setdefault(outcome.seed, outcome)
    return found


def elsewhere(tree: Path, spec: StudySpec) -> list[Outcome]:
    """Outcomes in `tree` that are the study's by their configuration, of any seed and whatever they are called there; named as in the study."""
    return of(spec, resolve.resolve(spec), catalogue(tree))


def of(spec: StudySpec, runs: dict[str, RunConfig], known: Catalogue) -> list[Outcome]:
    """The outcomes among `known` of the runs of a study's arms, named as in the study."""
    found = []
    for arm in spec.arms:
        seeds = known.get(key(plain(to_dict(runs[arm.name]))), {})
        found += [dataclasses.replace(seeds[seed], arm=arm.name) for seed in sorted(seeds)]
    return found
