"""A study's folder: which study it is, its runs, and which of them are finished.

    study.json                the study and the commands that ran it
    compiled/                 what its runs need not compile twice
    ARM/seedK/run.json        one run: arm, seed, whole configuration
    ARM/seedK/train/          the run's own folder, as `sleepnet.train` writes it
    ARM/seedK/worker.log      what the run printed
    ARM/seedK/outcome.json    what came out of it; there once the run is finished
"""
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sleepnet import files, lock, trust
from sleepnet.config import RunConfig, completed, to_dict
from sleepnet.errors import UsageError, nearest
from sleepnet.files import write_json
from sleepnet.study import resolve, spec as specs
from sleepnet.study.spec import StudySpec, flatten

# of the base, what every run sets for itself
_NOT_COMPARED = ("seed", "resume")


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig
    folder: Path
    flops: float

    @property
    def name(self) -> str:
        return f"{self.arm}/{self.seed}"

    @property
    def outcome(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "train" / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"


def plain(value: Any) -> Any:
    """`value` as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def whole(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A run's configuration from the file `path`, with the defaults of keys that are newer than the file."""
    with trust.reading(path):
        return plain(completed(RunConfig, config))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a study's file; raises UsageError if it is missing or damaged."""
    return files.read_json(path, "if it is damaged, remove it and run the study again")


def _study(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What study.json holds; raises UsageError if it is missing or damaged."""
    path = folder / "study.json"
    values = read_json(path)
    spec, commands = values.get("spec"), values.get("commands")
    if not isinstance(spec, dict) or not isinstance(commands, list) or not isinstance(spec.get("seeds"), list):
        raise UsageError(f"{path} is no study's: it needs spec, with its seeds, and commands; if it is damaged, remove it and run the study again")
    return spec, commands


def claim(workdir: Path, spec: StudySpec, commands: Iterable[str]) -> None:
    """Makes `workdir` this study's folder, or sees that it already is; new arms and seeds join it.

    Raises:
      UsageError: it belongs to another study (names the first key that differs) or holds other things.
    """
    check(workdir, spec, "workdir")
    if not (workdir / "study.json").exists() and any(child.name != lock.NAME for child in workdir.iterdir()):
        raise UsageError(f"{workdir} is not empty and holds no study: give an empty or new --workdir")
    join(workdir, spec, commands)


def check(folder: Path, spec: StudySpec, flag: str) -> None:
    """Sees that `folder`, given as --`flag`, may hold outcomes of this study: it is free, or holds the same study.

    Raises:
      UsageError: it belongs to another study; names the first key that differs.
    """
    if (folder / "study.json").exists():
        with trust.reading(folder / "study.json"):
            known = specs.completed(_study(folder)[0])
        difference = _difference(plain(known), plain(specs.to_dict(spec)))
        if difference:
            raise UsageError(f"{folder} belongs to another study: {difference}; give another --{flag}")


def join(folder: Path, spec: StudySpec, commands: Iterable[str]) -> None:
    """Writes the study to `folder`, its seeds and commands added to those that are there."""
    path, new, before = folder / "study.json", plain(specs.to_dict(spec)), []
    if path.exists():
        known, before = _study(folder)
        new["seeds"] = sorted({*known["seeds"], *new["seeds"]})
    write_json(path, {"spec": new, "commands": list(dict.fromkeys([*before, *commands]))})


def read_study(folder: Path) -> tuple[StudySpec, list[str]]:
    """The study of a folder, and the commands that ran it."""
    if not (folder / "study.json").exists():
        raise UsageError(f"{folder} holds no study: there is no study.json in it")
    values, commands = _study(folder)
    with trust.reading(folder / "study.json"):
        return specs.from_dict(values), commands


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What makes two studies different ones, "" if they can share a folder: words, seeds and further arms may differ."""
    old_base, new_base = flatten(old["base"]), flatten(new["base"])
    for key in sorted({*old_base, *new_base} - {*_NOT_COMPARED}):
        if old_base.get(key) != new_base.get(key):
            return f"base.{key} is {old_base.get(key)!r} there and {new_base.get(key)!r} here"
    arms = {arm["name"]: arm for arm in new["arms"]}
    for arm in old["arms"]:
        if arm["name"] not in arms:
            return f"arm {arm['name']!r} is there and not here (arms can be added, not removed; run some with --only)"
        for key in ("overrides", "match", "eval_passes"):
            there, here = arm[key], arms[arm["name"]][key]
            if there != here:
                return f"arm {arm['name']!r} has {key}={there!r} there and {here!r} here"
    return ""


def runs(workdir: Path, spec: StudySpec, only: Iterable[str] = ()) -> list[Run]:
    """The study's runs, the longest first; those of some arms alone if `only` names them.

    Raises:
      UsageError: as `resolve.resolve`.
    """
    configs, only = resolve.resolve(spec), tuple(only)
    for name in only:
        if name not in configs:
            raise UsageError(f"--only={name!r} is not an arm{nearest(name, configs)}")
    found = []
    for arm, config in configs.items():
        if only and arm not in only:
            continue
        flops = resolve.train_flops(config)
        for seed in spec.seeds:
            found.append(Run(arm, seed, resolve.for_seed(config, seed), workdir / arm / f"seed{seed}", flops))
    return sorted(found, key=lambda run: -run.flops)


def finished(run: Run) -> bool:
    """Whether the run's outcome is there.

    Raises:
      UsageError: it is the outcome of another configuration.
    """
    return run.outcome.exists() and _of(run, run.outcome, "workdir")


def adopt(results: Path, runs: Iterable[Run]) -> list[Run]:
    """Takes the outcomes of runs that are not finished from a folder of results; returns the runs that had one there.

    Raises:
      UsageError: an outcome there is of another configuration.
    """
    adopted = []
    for run in runs:
        kept = results / f"{run.arm}-seed{run.seed}.json"
        if kept.exists() and not finished(run) and _of(run, kept, "results"):
            write_json(run.outcome, read_json(kept))
            adopted.append(run)
    return adopted


def take(outcomes: Iterable[Any], runs: Iterable[Run]) -> list[Run]:
    """Gives the runs that are not finished the outcomes that are theirs; returns those that had one."""
    known = {(outcome.arm, outcome.seed): outcome for outcome in outcomes}
    taken = [run for run in runs if (run.arm, run.seed) in known and not finished(run)]
    for run in taken:
        write_json(run.outcome, dataclasses.asdict(known[run.arm, run.seed]))
    return taken


def _of(run: Run, path: Path, flag: str) -> bool:
    """Sees that an outcome is the run's; it lies in the folder given as --`flag`."""
    old, new = flatten(whole(read_json(path).get("config"), path)), flatten(plain(to_dict(run.config)))
    for key in sorted({*old, *new} - {"resume"}):
        if old.get(key) != new.get(key):
            raise UsageError(f"{path} was made with {key}={old.get(key)!r}, this study asks for {new.get(key)!r}: give another --{flag}")
    return True


def prepare(run: Run) -> None:
    """Writes what the run's worker reads."""
    write_json(run.folder / "run.json", {"arm": run.arm, "seed": run.seed, "flops": run.flops, "config": to_dict(run.config)})
