"""The runs that a study consists of, where each lies in its folder, and what each starts from."""
import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sleepnet.config import RunConfig
from sleepnet.errors import UsageError, nearest
from sleepnet.study import chains, resolve
from sleepnet.study.chains import Chain
from sleepnet.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed; of an arm with phases one of them.

    Attributes:
      arm: its name; of a phase that others start from, its home, see `chains`.
      seed: of it.
      config: the whole configuration; where a phase starts is said as the home of the one before.
      folder: of the run.
      flops: of its training, the past not counted.
      after: the run that it starts from; None: it does not start from one of this study.
      wanted: whether its outcome is asked for; else it is there for others to start from.
      tests: that it is graded on besides its own, as `chains.tests` says them.
    """

    arm: str
    seed: int
    config: RunConfig
    folder: Path
    flops: float
    after: "Run | None" = None
    wanted: bool = True
    tests: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.arm}/{self.seed}"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def trained(self) -> Path:
        return self.folder / "train"

    @property
    def metrics(self) -> Path:
        return self.trained / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def before(self) -> tuple["Run", ...]:
        """The runs that it comes from, the first of the chain first."""
        return () if self.after is None else (*self.after.before, self.after)

    @property
    def chain(self) -> Chain:
        """Their configurations, and its own."""
        return tuple(run.config for run in (*self.before, self))


def runs(workdir: Path, spec: StudySpec, only: Iterable[str] = ()) -> list[Run]:
    """The study's runs, those before others first that have the most left of their chains; those of some arms alone, and what they start from, if `only` names them.

    Raises:
      UsageError: as `resolve.chains`.
    """
    found, only = resolve.chains(spec), tuple(only)
    for name in only:
        if name not in found:
            raise UsageError(f"--only={name!r} is not an arm{nearest(name, found)}")
    places = _Places(workdir, spec, found, only or tuple(found))
    for arm in found:
        for seed in spec.seeds:
            if not only or arm in only:
                places.end(arm, seed)
    made, left = list(places.made.values()), {}
    for run in reversed(made):  # what starts from a run stands behind it
        left[run.folder] = run.flops + left.get(run.folder, 0.0)
        if run.after:
            left[run.after.folder] = max(left.get(run.after.folder, 0.0), left[run.folder])
    return sorted(made, key=lambda run: -left[run.folder])


class _Places:
    """Where each run of a study lies; each is made once, behind what it starts from."""

    def __init__(self, workdir: Path, spec: StudySpec, found: dict[str, Chain], asked: tuple[str, ...]):
        self.workdir, self.found, self.asked, self.tests = workdir, found, asked, chains.tests(spec)
        self.flops = functools.cache(lambda arm, k: resolve.train_flops(found[arm][k]))
        # home of a phase that others start from → the first arm that has it, and its place there; home of a last phase → its arm
        self.inner, self.ends, self.made = {}, {}, {}
        for arm in (arm.name for arm in spec.arms if arm.phases):
            homes = [chains.home(found[arm][:k + 1]) for k in range(len(found[arm]))]
            for k, home in enumerate(homes[:-1]):
                self.inner.setdefault(home, (arm, k))
            self.ends.setdefault(homes[-1], arm)

    def end(self, arm: str, seed: int) -> Run:
        """The run of an arm, or of its last phase."""
        return self._run(arm, arm, len(self.found[arm]) - 1, seed, self.workdir / arm / f"seed{seed}")

    def _inner(self, home: str, seed: int) -> Run:
        """The run that others start from. An arm that ends there has it in its own folder, unless it was trained before there was that arm."""
        kept, arm = self.workdir / home / f"seed{seed}", self.ends.get(home)
        if arm and not (kept / "train").exists():
            return self.end(arm, seed)
        return self._run(home, *self.inner[home], seed, kept)

    def _run(self, name: str, arm: str, k: int, seed: int, folder: Path) -> Run:
        if folder not in self.made:
            chain = self.found[arm]
            after = self._inner(chains.home(chain[:k]), seed) if k else None
            config = resolve.for_seed(chain[k], seed)
            self.made[folder] = Run(name, seed, config, folder, self.flops(arm, k), after, name in self.asked, self.tests)
        return self.made[folder]
