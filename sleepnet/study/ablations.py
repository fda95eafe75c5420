"""A folder of factors, one study each and base, and what of them has been run: by configuration, wherever an outcome lies.

A factor is a config file FACTOR.py with `BASES`, the arguments of its `get_config`. Its study over a base is called FACTOR_BASE, and its new
outcomes go to RESULTS/FACTOR_BASE.
"""
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from sleepnet import config_files
from sleepnet.config import RunConfig, to_dict
from sleepnet.errors import UsageError
from sleepnet.study import ledger, outcomes as results, resolve, spec as specs
from sleepnet.study.ledger import plain
from sleepnet.study.outcomes import Outcome
from sleepnet.study.spec import StudySpec, flatten

# what a run does not come out differently for, and its seed
_FREE = ("seed", "resume", "profile", "compile_cache")

Catalogue = dict[str, dict[int, Outcome]]


@dataclasses.dataclass(frozen=True)
class Study:
    """One factor over one base.

    Attributes:
      factor, base: which.
      spec: the study.
      runs: arm → its configuration; the seed is the base's.
      found: outcomes of its arms, named as here, of any seed.
    """

    factor: str
    base: str
    spec: StudySpec
    runs: dict[str, RunConfig]
    found: list[Outcome]

    @property
    def name(self) -> str:
        return f"{self.factor}_{self.base}"

    def outcome(self, arm: str, seed: int) -> Outcome | None:
        """The outcome of a run, None if it is open."""
        return next((outcome for outcome in self.found if (outcome.arm, outcome.seed) == (arm, seed)), None)

    def seeds(self, arm: str) -> list[int]:
        """The seeds asked for, and those found besides."""
        return sorted({*self.spec.seeds, *(outcome.seed for outcome in self.found if outcome.arm == arm)})


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
    return _of(spec, resolve.resolve(spec), catalogue(tree))


def suite(folder: Path, tree: Path) -> list[Study]:
    """The studies of all factors in `folder`, with their outcomes in `tree`.

    Raises:
      UsageError: no factor there, or a study that is none.
    """
    known, studies = catalogue(tree), []
    for path in sorted(folder.glob("*.py")):
        for base in config_files.namespace(str(path)).get("BASES", ()):
            spec = specs.parse(config_files.load(f"{path}:{base}"))
            runs = resolve.resolve(spec)
            studies.append(Study(path.stem, base, spec, runs, _of(spec, runs, known)))
    if not studies:
        raise UsageError(f"--ablations={folder}: no config file there says BASES, the arguments of its get_config")
    return studies


def _of(spec: StudySpec, runs: dict[str, RunConfig], known: Catalogue) -> list[Outcome]:
    found = []
    for arm in spec.arms:
        seeds = known.get(key(plain(to_dict(runs[arm.name]))), {})
        found += [dataclasses.replace(seeds[seed], arm=arm.name) for seed in sorted(seeds)]
    return found


def speed(studies: Iterable[Study]) -> float | None:
    """FLOP/s of the finished runs, all together."""
    found = [outcome for study in studies for outcome in study.found if outcome.result.get("seconds")]
    return sum(outcome.flops for outcome in found) / sum(outcome.result["seconds"] for outcome in found) if found else None
