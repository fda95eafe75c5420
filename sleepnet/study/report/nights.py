"""What a day costs an arm that lives through days: FLOPs of a night, parameters that it grows by, bytes that outlive it."""
from collections.abc import Mapping
from typing import Any

from sleepnet import build, config as run_config, methods
from sleepnet.config import RunConfig
from sleepnet.study import outcomes as results
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.kept import lived
from sleepnet.study.report.tables import NOTHING, Table
from sleepnet.study.spec import StudySpec

_NOTE = (
    "FLOPs are counted, teachers and samplers with them. Parameters: what the run adds beside those it started from, by the number of days; a dash: it moves those it has. "
    "Bytes at the end: these parameters, and what of earlier days is needed besides, examples to replay and what anchors. All: every day's examples."
)


def tables(spec: StudySpec, found: list[Outcome]) -> list[Table]:
    """A row for each arm whose runs lived through days; nothing where there is none."""
    rows = []
    for arm in spec.arms:
        runs = [(run, len(one[0])) for run in results.of_arm(found, arm.name) if (one := lived(run))]
        if runs:
            run, days = runs[0]
            added = _added(run)
            kept = _kept(run.config, run.result.get("trained_parameters") or 0)
            rows.append((arm.name, f"{run.flops / days:.2e}", f"{added / days:,.0f}" if added else NOTHING, "all" if kept is None else f"{4 * added + kept:,}"))
    return [Table("What a day costs", ("arm", "FLOPs a night", "parameters a day", "bytes at the end"), rows, _NOTE)] if rows else []


def _added(run: Outcome) -> int:
    """Parameters beside those of the model that the run started from; of sparse increments those that have an owner."""
    if run.config["adapters"]["kind"] not in ("newest_expert", "sparse", "low_rank"):
        return 0
    grown = run.curve[-1].get("grown", 1.0) if run.config["adapters"]["kind"] == "sparse" else 1.0
    return round(grown * (run.result.get("trained_parameters") or 0))


def _kept(config: Mapping[str, Any], trained: int) -> int | None:
    """Bytes; None: all days' examples."""
    made = run_config.from_dict(RunConfig, run_config.completed(RunConfig, config, ""))
    task = build.task_of(made)
    return None if getattr(task, "order", "") == "mixed" else methods.of(made).keeps(task, trained)
