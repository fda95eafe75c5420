"""Runs a study: arms × seeds on the same data in the same order, then one report on all of them.

Examples:
  python -m sleepnet.study --config=experiments/quickstart.py
  python -m sleepnet.study --config=experiments/quickstart.py:all_arms --workdir=runs/brief --only=sleep4,reset --seeds=0,1 --config.base.train.steps=100
  python -m sleepnet.study --workdir=runs/quickstart --report_only
  python -m sleepnet.study --results=experiments/results/quickstart --report_only --out=runs/report
  python -m sleepnet.study --overview=experiments/results
  python -m sleepnet.study --ablations=experiments/ablations --out=runs/ablations

An arm may list phases=[dict(name=…, overrides={…}), …], runs that each start where the one before ended; beginnings that arms share are trained once, in phases/.
Test sets, config.tests=[dict(name=…, task={"arguments.KEY": …}, examples=…), …], are what every phase is graded on besides its own: `python -m pydoc sleepnet.study.arms`.

What has finished is not run again, what was killed goes on, and arms, seeds or tests can be added to a study later. Outcomes in --results count
as finished, in a new workdir too: a matrix can grow from place to place. Those of the same configuration anywhere in --reuse do as well. Two studies side by side need cores of their own (taskset).
A report without --config, on arms with a rule of your own, takes --trust=MODULE besides.
"""
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from sleepnet import cli, lock, paths
from sleepnet.errors import UsageError
from sleepnet.study import ledger, outcomes, overview, pool, report, reuse, spec as specs
from sleepnet.study.ablations import report as ablation_report
from sleepnet.study.progress import Board
from sleepnet.study.runs import Run
from sleepnet.study.spec import StudySpec

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file("config", None, "the study's config file", lock_config=True, flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "the study's folder: runs, checkpoints and the report; runs/NAME of the config file if not given", flag_values=FLAGS)
_JOBS = flags.DEFINE_integer("jobs", 0, "runs at a time; 0: as many as there are cores for, one on an accelerator", flag_values=FLAGS)
_CORES = flags.DEFINE_integer("cores_per_run", 1, "CPU cores of each run; the results may depend on it, never on --jobs", flag_values=FLAGS)
_SEEDS = flags.DEFINE_list("seeds", None, "seeds instead of the config's, for instance 0,1", flag_values=FLAGS)
_ONLY = flags.DEFINE_list("only", None, "names of the arms to run; all if not given", flag_values=FLAGS)
_RESULTS = flags.DEFINE_string("results", None, "a folder of finished runs' outcomes, small enough to keep: those there are not run again, new ones are added", flag_values=FLAGS)
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "make the report again from --workdir, or from --results alone", flag_values=FLAGS)
_OVERVIEW = flags.DEFINE_string("overview", None, "a folder of such folders: prints one Markdown table over all their studies, and runs nothing", flag_values=FLAGS)
_REUSE = flags.DEFINE_string("reuse", None, "a folder of such folders: finished runs there with a run's configuration, of whatever study, are not run again nor copied to --results", flag_values=FLAGS)
_ABLATIONS = flags.DEFINE_string("ablations", None, "a folder of factors, each a config file with BASES: writes its list of runs (README.md) and its report with plots (REPORT.md) from the outcomes in --reuse, experiments/results beside it if not given, and runs nothing", flag_values=FLAGS)
cli.trust_flag(FLAGS)
_OUT = flags.DEFINE_string("out", None, "folder of the report; the workdir if not given", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Runs the command line; 1 if a run failed."""
    del argv
    console = Console()
    if _OVERVIEW.value:
        print(report.markdown_table(overview.overview(_at(_OVERVIEW))))
        return 0
    if _ABLATIONS.value:
        folder = _at(_ABLATIONS)
        for path in ablation_report.write(folder, _at(_REUSE) or folder.parent / "results", _at(_OUT) or folder):
            print(f"wrote {paths.shown(path)}")
        return 0
    if _REPORT_ONLY.value:
        return _report_only(console)
    if _CONFIG.value is None:
        raise UsageError("--config=FILE is needed; or --report_only with --workdir or --results, --overview, or --ablations")
    spec = _spec()
    workdir = paths.readable(_at(_WORKDIR) or paths.plain(_default_workdir(), "workdir"), "workdir")
    results, *_ = map(_at, (_RESULTS, _REUSE, _OUT))  # a path that can't be is told before hours of training
    runs = ledger.runs(workdir, spec, _ONLY.value or ())
    with lock.held(workdir, "a study"):
        commands = _kept(spec)
        ledger.claim(workdir, spec, [*commands, _command()])
        if results and (adopted := ledger.adopt(results, runs)):
            console.print(f"{len(adopted)} finished runs taken from {_RESULTS.value}", highlight=False, soft_wrap=True)
        if _REUSE.value and (adopted := ledger.take(_reused(spec), runs)):
            console.print(f"{len(adopted)} finished runs of the same configuration taken from {_REUSE.value}", highlight=False, soft_wrap=True)
        ledger.share(workdir, runs)
        waiting = ledger.waiting(runs)
        failures = _run(console, waiting, sum(run not in waiting and ledger.finished(run) for run in runs), lambda: _keep(workdir))
        _report(console, workdir)
    for failure in failures:
        ended = failure.cause or failure.run
        why = f" was not started, since {ended.name}, which it starts from," if failure.cause else ""
        what = f"error: run {failure.run.name}{why} ended with status {failure.status}; the end of {ended.log}:"
        print(f"{what}\n{failure.tail}\n", file=sys.stderr)
    return 1 if failures else 0


def _at(flag: flags.FlagHolder) -> Path | None:
    return paths.given(flag.value, flag.name)


def _kept(spec: StudySpec) -> list[str]:
    """The commands that made the outcomes in --results.

    Raises:
      UsageError: they are of another study.
    """
    results = _at(_RESULTS)
    if not results or not (results / "study.json").exists():
        return []
    ledger.check(results, spec, "results")
    return ledger.read_study(results)[1]


def _reused(spec: StudySpec) -> list[outcomes.Outcome]:
    """Outcomes in --reuse that are this study's by their configuration."""
    return reuse.elsewhere(_at(_REUSE), spec) if _REUSE.value else []


def _config_path() -> str:
    """--config as it was given."""
    given = [word.split("=", 1)[1] if "=" in word else after for word, after in zip(sys.argv, [*sys.argv[1:], ""]) if re.match("--?config(=|$)", word)]
    return given[-1]


def _default_workdir() -> str:
    """runs/NAME for a config file NAME.py, runs/NAME_ARGUMENT for NAME.py:ARGUMENT."""
    path, _, argument = _config_path().partition(":")
    return os.path.join("runs", Path(path).stem + (f"_{argument}" if argument else ""))


def _run(console: Console, waiting: list[Run], done: int, keep: Callable[[], Any]) -> list[pool.Failure]:
    """`keep` is called as often as runs have finished: what then ends the study loses none of their outcomes."""
    if not waiting:
        return []
    slots, kept = pool.slots(_JOBS.value, _CORES.value), 0

    def watch(states: dict[str, str]) -> None:
        nonlocal kept
        board(states)
        if (finished := list(states.values()).count("finished")) > kept:
            kept = finished
            keep()

    try:
        with Board(console, waiting, done, len(slots)) as board:
            return pool.execute(waiting, slots, watch)
    except KeyboardInterrupt:
        print("the runs have been ended; the same command goes on where they stopped", file=sys.stderr)
        raise


def _spec() -> StudySpec:
    config = _CONFIG.value
    spec = specs.parse(config)
    if _SEEDS.value is None:
        return spec
    try:
        seeds = tuple(map(int, _SEEDS.value))
    except ValueError as error:
        raise UsageError(f"--seeds={','.join(_SEEDS.value)} must be whole numbers, for instance 0,1") from error
    return specs.parse({**specs.to_dict(spec), "seeds": seeds})


def _report(console: Console, workdir: Path) -> None:
    """Over all that has finished there, by this command or an earlier one."""
    spec, commands, found, inner = _keep(workdir)
    out = _at(_OUT) or workdir
    report.write(out, spec, found, commands, inner)
    report.show(console, spec, found, inner)
    console.print(f"report: {paths.shown(out / 'report.html')}", highlight=False, soft_wrap=True)


def _keep(workdir: Path) -> tuple[StudySpec, list[str], list[outcomes.Outcome], list[outcomes.Outcome]]:
    """(study, its commands, outcomes there, those of phases), which --results has then, too, but for those that are lent by --reuse."""
    spec, commands = ledger.read_study(workdir)
    found, inner, results = outcomes.load(workdir, spec), outcomes.load_phases(workdir, spec), _at(_RESULTS)
    if results:
        kept = {str(path.relative_to(results)) for path in results.rglob("*.json")}
        lent = {(outcome.arm, outcome.seed) for outcome in _reused(spec) if f"{outcome.arm}-seed{outcome.seed}.json" not in kept}
        outcomes.collect([outcome for outcome in (*inner, *found) if (outcome.arm, outcome.seed) not in lent], spec, commands, results)
    return spec, commands, found, inner


def _report_only(console: Console) -> int:
    if _WORKDIR.value is None and (_RESULTS.value is None or _OUT.value is None):
        raise UsageError("--report_only needs --workdir=DIR, or --results=FOLDER and --out=DIR")
    if _WORKDIR.value is not None:
        _report(console, _at(_WORKDIR))
        return 0
    results, out = _at(_RESULTS), _at(_OUT)
    spec, commands = ledger.read_study(results)
    found, inner = outcomes.load(results, spec), outcomes.load_phases(results, spec)
    report.write(out, spec, found, commands, inner)
    report.show(console, spec, found, inner)
    console.print(f"report: {paths.shown(out / 'report.html')}", highlight=False, soft_wrap=True)
    return 0


def _command() -> str:
    """The command as it can be given elsewhere: the config's path from here, and of the folders it writes the name alone."""
    words, flag = [], ""
    for word in sys.argv[1:]:
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            words.append(f"{flag}{equals}{_portable(flag, value)}")
        else:  # --flag value
            words.append(_portable(flag, word))
    return shlex.join(["python", "-m", "sleepnet.study", *words])


def _portable(flag: str, value: str) -> str:
    if flag.lstrip("-") in ("workdir", "results", "reuse", "out"):
        return Path(value).name
    if flag.lstrip("-") == "config" and os.path.isabs(value):
        near = os.path.relpath(value)
        return Path(value).name if near.startswith("..") else near
    return value


if __name__ == "__main__":
    cli.run(main, FLAGS)
