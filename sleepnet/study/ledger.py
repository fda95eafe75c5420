"""A study's folder: which study it is, its runs, and which of them are finished.

    study.json                the study and the commands that ran it
    compiled/                 what its runs need not compile twice
    ARM/seedK/run.json        one run: arm, seed, whole configuration
    ARM/seedK/train/          the run's own folder, as `sleepnet.train` writes it
    ARM/seedK/worker.log      what the run printed
    ARM/seedK/outcome.json    what came out of it; there once the run is finished
    phases/DIGEST-NAME/       the same for a phase that others start from, see `sleepnet.study.chains`; an arm's last phase is in ARM/
"""
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sleepnet import files, lock, trust
from sleepnet.config import to_dict
from sleepnet.errors import UsageError
from sleepnet.files import write_json
from sleepnet.study import chains, differences, resolve, spec as specs
from sleepnet.study.differences import plain, whole
from sleepnet.study.runs import Run, runs
from sleepnet.study.spec import StudySpec

__all__ = ["Run", "adopt", "check", "claim", "finished", "join", "plain", "prepare", "read_json", "read_study", "runs", "share", "take", "tested", "waiting", "whole"]


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
    """Makes `workdir` this study's folder, or sees that it already is; new arms, seeds and tests join it.

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
        difference = differences.studies(plain(known), plain(specs.to_dict(spec)))
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


def waiting(runs: Iterable[Run]) -> list[Run]:
    """Those that are to be run, in their order: what is asked for and not finished, and what one of those starts from if its weights are not there.

    Raises:
      UsageError: as `finished`.
    """
    runs, needed = list(runs), set()
    for run in runs:
        if run.wanted and not finished(run):
            while run and run.folder not in needed:
                needed.add(run.folder)
                run = run.after if run.after and not _ready(run.after) else None
    return [run for run in runs if run.folder in needed]


def _ready(run: Run) -> bool:
    """Whether others can start from it: an outcome from elsewhere has no weights."""
    return finished(run) and (run.trained / "result.json").exists()


def finished(run: Run) -> bool:
    """Whether the run's outcome is there, with all its tests.

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
    taken = [run for run in runs if (outcome := known.get((run.arm, run.seed))) and tested(outcome.tests, run.tests) and not finished(run)]
    for run in taken:
        write_json(run.outcome, known[run.arm, run.seed].to_dict())
    return taken


def share(workdir: Path, runs: Iterable[Run]) -> list[Run]:
    """Gives arms that end where others went through, before there was such an arm, what came of it; returns them."""
    shared = []
    for run in runs:
        kept = workdir / chains.home(run.chain) / f"seed{run.seed}" / "outcome.json"
        if run.wanted and run.config.phase and kept.exists() and not finished(run):
            values = read_json(kept)
            if not differences.outcome(values, run.chain, kept) and tested(values.get("tests", {}), run.tests):
                write_json(run.outcome, {**values, "arm": run.arm})
                shared.append(run)
    return shared


def _of(run: Run, path: Path, flag: str) -> bool:
    """Sees that an outcome is the run's; it lies in the folder given as --`flag`. False where it lacks a test, which can be made up for."""
    values = read_json(path)
    differing = differences.outcome(values, run.chain, path, exactly=run.wanted)
    if differing:
        key, there, here = differing
        raise UsageError(f"{path} was made with {key}={there!r}, this study asks for {here!r}: give another --{flag}")
    return tested(values.get("tests", {}), run.tests)


def tested(have: dict[str, Any], tests: dict[str, Any]) -> bool:
    """Whether an outcome's tests are those asked for, or more."""
    return all(name in have and {key: have[name].get(key) for key in told} == told for name, told in tests.items())


def prepare(run: Run) -> None:
    """Writes what the run's worker reads."""
    told = {"arm": run.arm, "seed": run.seed, "flops": run.flops, "config": to_dict(run.config)}
    if run.after:
        told["start"] = str(run.after.trained)
        told["before"] = [
            {"arm": one.arm, "steps": one.config.train.steps, "tokens": resolve.tokens(one.config), "flops": one.flops, "config": to_dict(one.config)}
            for one in run.before
        ]
    if run.tests:
        told["tests"] = run.tests
    write_json(run.folder / "run.json", told)
