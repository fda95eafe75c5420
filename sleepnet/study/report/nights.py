"""What a day costs an arm that lives through days: FLOPs of a night, parameters that it grows by, bytes that outlive it."""
from sleepnet import build, config as run_config, methods
from sleepnet.config import RunConfig
from sleepnet.models import sparse
from sleepnet.study import outcomes as results
from sleepnet.study.chains import shapes
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
            added, kept = sizes(run, days)
            rows.append((arm.name, f"{run.flops / days:.2e}", f"{added / days:,.0f}" if added else NOTHING, "all" if kept is None else f"{4 * added + kept:,}"))
    return [Table("What a day costs", ("arm", "FLOPs a night", "parameters a day", "bytes at the end"), rows, _NOTE)] if rows else []


def sizes(run: Outcome, days: int) -> tuple[int, int | None]:
    """Parameters beside those of the model that the run started from, and bytes of earlier days beside them; None: all days' examples."""
    config = run_config.from_dict(RunConfig, run_config.completed(RunConfig, run.config, ""))
    task, method = build.task_of(config), methods.of(config)
    kind, trained = config.adapters.kind, run.result.get("trained_parameters") or 0
    added = trained if kind in ("newest_expert", "low_rank") else 0
    if kind == "low_rank" and getattr(method, "fresh", False):
        added *= days
    if kind == "sparse":  # increments that have an owner, and the gate's rows with what they remember; not the owners' names
        leaves = shapes(build.fit(config.model, task))[sparse.SPARSE]
        trained = leaves["delta"].size
        added = round(run.curve[-1].get("grown", 1.0) * trained) + sum(leaves[name].size for name in ("gate", "mean", "variance"))
    return added, None if getattr(task, "order", "") == "mixed" else method.keeps(task, trained)
