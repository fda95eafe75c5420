"""A folder of factors, one study each and base, and what of them has been run: by configuration, wherever an outcome lies.

A factor is a config file FACTOR.py with `BASES`, the arguments of its `get_config`. Its study over a base is called FACTOR_BASE, and its new
outcomes go to RESULTS/FACTOR_BASE.
"""
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from sleepnet import config_files
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError
from sleepnet.study import resolve, reuse, spec as specs
from sleepnet.study.chains import Chain
from sleepnet.study.outcomes import Outcome
from sleepnet.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class Study:
    """One factor over one base.

    Attributes:
      factor, base: which.
      spec: the study.
      chains: arm → the configurations of its phases, of one run without them; the seed is the base's.
      found: outcomes of its arms, named as here, of any seed.
    """

    factor: str
    base: str
    spec: StudySpec
    chains: dict[str, Chain]
    found: list[Outcome]

    @property
    def name(self) -> str:
        return f"{self.factor}_{self.base}"

    @property
    def runs(self) -> dict[str, RunConfig]:
        """Arm → its run, or that of its last phase."""
        return {arm: chain[-1] for arm, chain in self.chains.items()}

    def outcome(self, arm: str, seed: int) -> Outcome | None:
        """The outcome of a run, None if it is open."""
        return next((outcome for outcome in self.found if (outcome.arm, outcome.seed) == (arm, seed)), None)

    def seeds(self, arm: str) -> list[int]:
        """The seeds asked for, and those found besides."""
        return sorted({*self.spec.seeds, *(outcome.seed for outcome in self.found if outcome.arm == arm)})


def suite(folder: Path, tree: Path) -> list[Study]:
    """The studies of all factors in `folder`, with their outcomes in `tree`.

    Raises:
      UsageError: no factor there, or a study that is none.
    """
    known, studies = reuse.catalogue(tree), []
    for path in sorted(folder.glob("*.py")):
        for base in config_files.namespace(str(path)).get("BASES", ()):
            spec = specs.parse(config_files.load(f"{path}:{base}"))
            chains = resolve.chains(spec)
            studies.append(Study(path.stem, base, spec, chains, reuse.of(chains, known)))
    if not studies:
        raise UsageError(f"--ablations={folder}: no config file there says BASES, the arguments of its get_config")
    return studies


def speed(studies: Iterable[Study]) -> float | None:
    """FLOP/s of the finished runs, all together."""
    found = [outcome for study in studies for outcome in study.found if outcome.result.get("seconds")]
    return sum(outcome.flops for outcome in found) / sum(outcome.result["seconds"] for outcome in found) if found else None
