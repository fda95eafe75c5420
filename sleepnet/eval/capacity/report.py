"""What the points say, as plain values for law.json and as tables: the laws arm by arm with their verdict, and what was recalled."""
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from sleepnet.errors import UsageError
from sleepnet.eval.capacity.fit import Falls, Fit, fit, intervals
from sleepnet.eval.capacity.forms import FORMS, L_0
from sleepnet.eval.capacity.held_out import HeldOut, Verdict, hold_out, verdict
from sleepnet.eval.capacity.points import KNOWN, Point, bits_per_parameter, falls, presentations_to

NOTHING = "–"
_FAR = 0.05  # nats between loss_before and ln 10 from which on L_0 is not known


@dataclasses.dataclass(frozen=True)
class Law:
    """One form on one arm's points: fitted to all, and inside the box alone; `refused` says why there is neither.

    Attributes:
      form: its name.
      whole, held_out: None where refused.
      interval: as `Intervals`, or why there is none.
      refused: one line, "" where there are fits.
    """

    form: str
    whole: Fit | None
    held_out: HeldOut | None
    interval: dict[str, Any]
    refused: str


@dataclasses.dataclass(frozen=True)
class ArmLaws:
    """All forms on one arm's points, and what follows of the power law.

    Attributes:
      arm, points: whose.
      laws: name of the form → it.
      verdict: None where the power law or the saturating form was refused.
      remarks: what a reader of the verdict has to know, in sentences.
    """

    arm: str
    points: Falls
    laws: dict[str, Law]
    verdict: Verdict | None
    remarks: tuple[str, ...]


def by_arm(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points by arm, in the order of their first."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.arm, []).append(point)
    return found


def judge(arm: str, points: Sequence[Point], most_r: float, most_l: float, resamples: int, seed: int) -> ArmLaws:
    """Fits every form to the points of one arm, with error held out and intervals; what a form refuses is told with it."""
    have, laws = falls(points), {}
    for name in FORMS:
        try:
            whole, out = fit(name, have), hold_out(name, have, most_r, most_l)
        except UsageError as error:
            laws[name] = Law(name, None, None, {}, str(error))
            continue
        try:
            laws[name] = Law(name, whole, out, dataclasses.asdict(intervals(whole, have, resamples, seed)), "")
        except UsageError as error:
            laws[name] = Law(name, whole, out, {"refused": str(error)}, "")
    power, saturating = laws["power"].held_out, laws["saturating"].held_out
    said = verdict(power, saturating) if power and saturating else None
    return ArmLaws(arm, have, laws, said, tuple(_remarks(points, have, laws)))


def _remarks(points: Sequence[Point], have: Falls, laws: Mapping[str, Law]) -> Iterable[str]:
    if all(law.refused for law in laws.values()):
        yield f"No law is fitted: {next(iter(laws.values())).refused}."
        return
    for law in laws.values():
        if law.refused:
            yield f"Not fitted: {law.refused}."
            continue
        for where, made in (("", law.whole), (" inside the box", law.held_out.inside)):
            if made.edges == ("C",):
                yield f"power{where}: C → ∞ and α, β → 0. The points do not bend up as a power law does; its best fit is the log-linear form."
            elif made.edges:
                yield f"{law.form}{where}: the search ends at a bound of {', '.join(made.edges)}."
            if made.starts > 1 and made.agreeing == 1:
                yield f"{law.form}{where}: one of {made.starts} initial points alone led to this fit."
    noise = have.noise()
    yield "One seed at each (r, l): what is noise is not known." if noise is None else f"Seeds of one (r, l) differ by {noise:.3f} nats (standard deviation)."
    far = max(abs(point.loss_before - L_0) for point in points)
    if far > _FAR:
        yield f"loss_before is up to {far:.3f} nats from ln 10 = {L_0:.3f}, so L_0 of the saturating form is not what there was to lose: train the base until it knows that digits come."


def recall_rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    """What the seeds of each arm, rank and length recalled, with means over them.

    Keys: arm, r, l, parameters, seeds, offered (bits a parameter there were to know), recall, least, most, held (recalled bits a parameter),
    presentations (to 99 %, one for each seed with a curve, None where it never was), below_half (share of the recalled tokens with p < ½, over all seeds).
    """
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        groups.setdefault((point.arm, point.r, point.l, point.parameters), []).append(point)
    rows = []
    for (arm, r, l, parameters), runs in groups.items():
        recall = [run.recall for run in runs]
        told = [run for run in runs if run.recalled_below_half is not None]
        recalled = sum(run.recalled_digits for run in told)
        rows.append({
            "arm": arm, "r": r, "l": l, "parameters": parameters, "seeds": [run.seed for run in runs], "offered": runs[0].offered,
            "recall": statistics.fmean(recall), "least": min(recall), "most": max(recall),
            "held": statistics.fmean(bits_per_parameter(run.recalled_digits, parameters) for run in runs),
            "presentations": [presentations_to(run.curve) for run in runs if run.curve],
            "below_half": sum(run.recalled_below_half for run in told) / recalled if recalled else None,
        })
    return rows


def plain(arms: Iterable[ArmLaws], rows: list[dict[str, Any]], **common: Any) -> dict[str, Any]:
    """Everything, as law.json has it; numbers that are not finite are null."""
    told = {}
    for one in arms:
        told[one.arm] = {
            "points": len(one.points), "noise": one.points.noise(), "remarks": list(one.remarks),
            "verdict": dataclasses.asdict(one.verdict) if one.verdict else None,
            "forms": {name: _law(law) for name, law in one.laws.items()},
        }
    return _finite({**common, "arms": told, "recall": rows})


def _law(law: Law) -> dict[str, Any]:
    if law.refused:
        return {"refused": law.refused}
    out = law.held_out
    return {
        "formula": FORMS[law.form].formula, **_fit(law.whole), "interval": law.interval, "inside": _fit(out.inside),
        "held_out": {"error": out.error, "r2": out.r2, "corners": out.corners, "points": out.points},
    }


def _fit(made: Fit) -> dict[str, Any]:
    return {"constants": made.constants} | {key: getattr(made, key) for key in ("edges", "starts", "agreeing", "r2", "error")}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Tables

def law_table(one: ArmLaws, most_r: float, most_l: float) -> Table:
    """A row a form: constants with their intervals, and errors inside the box, outside, and at each corner."""
    shown = Table(box=box.SIMPLE_HEAD, title=f"{one.arm}: {len(one.points)} points; the box is r ≤ {most_r:g}, l ≤ {most_l:g}; errors in nats")
    shown.add_column("form")
    shown.add_column("constants, all points (95 %)")
    corners = next((list(law.held_out.corners) for law in one.laws.values() if law.held_out), [])
    for header in ("R², all points", "R², box", "error, box", "error, held out", *corners):
        shown.add_column(header, justify="right")
    for name, law in one.laws.items():
        if law.refused:
            shown.add_row(name, "not fitted")
            continue
        out, ranges = law.held_out, law.interval.get("constants", {})
        constants = [f"{key} {value:.3g}" + (f" [{ranges[key][0]:.3g}, {ranges[key][1]:.3g}]" if key in ranges else "") for key, value in law.whole.constants.items()]
        errors = [out.inside.error, out.error, *out.corners.values()]
        shown.add_row(
            f"{name}\n{FORMS[name].formula}", escape("\n".join(constants)), f"{law.whole.r2:.3f}", f"{out.inside.r2:.3f}",
            *(NOTHING if error is None else f"{error:.3f}" for error in errors),
        )
    return shown


def recall_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each arm, rank and length."""
    shown = Table(box=box.SIMPLE_HEAD, title="recall: mean over seeds, and their range")
    for header in ("arm", "r", "l", "parameters", "seeds", "bits a parameter to know", "recalled", "bits a parameter recalled", f"presentations to {KNOWN:.0%}", "recalled with p < ½"):
        shown.add_column(header, justify="left" if header == "arm" else "right")
    for row in rows:
        seen = [NOTHING if number is None else f"{number:,.0f}" for number in row["presentations"]]
        shown.add_row(
            row["arm"], NOTHING if row["r"] is None else str(row["r"]), str(row["l"]), f"{row['parameters']:,}", str(len(row["seeds"])), f"{row['offered']:.3f}",
            f"{row['recall']:.3f} [{row['least']:.3f}, {row['most']:.3f}]", f"{row['held']:.3f}", ", ".join(seen) or NOTHING,
            NOTHING if row["below_half"] is None else f"{row['below_half']:.3f}",
        )
    return shown
