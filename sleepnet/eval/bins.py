"""A difficulty of many values, its neighbours taken together: tables, heat maps and curves stay readable."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sleepnet.eval import paired
from sleepnet.eval.intervals import wilson

MOST = 20  # values that are shown one by one
_BINS = 12

Row = Mapping[str, Any]


class Span(NamedTuple):
    """Neighbouring values of a difficulty, both ends included."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}–{self.most}"

    @property
    def middle(self) -> float:
        return (self.least + self.most) / 2


def spans(rows: Iterable[Row]) -> dict[str, list[Span]]:
    """Returns, for each axis with more than `MOST` values, spans that hold about as many answers each."""
    answers: dict[str, dict[int, int]] = {}
    for row in rows:
        if row["axis"] != "all":
            answers.setdefault(row["axis"], {})[row["value"]] = row["answers"]
    return {axis: _split(counts) for axis, counts in answers.items() if len(counts) > MOST}


def _split(counts: Mapping[int, int]) -> list[Span]:
    total, done, out = sum(counts.values()), 0, []
    for value in sorted(counts):
        number = min(_BINS - 1, _BINS * (2 * done + counts[value]) // (2 * total))  # the bin that half of its answers lie in
        done += counts[value]
        if out and out[-1][0] == number:
            out[-1] = number, Span(out[-1][1].least, value)
        else:
            out.append((number, Span(value, value)))
    return [span for _, span in out]


def pool(rows: Sequence[Row], into: Mapping[str, Sequence[Span]]) -> list[dict[str, Any]]:
    """Returns the rows, those of the axes in `into` taken together span by span.

    Accuracies are those of all answers of a span, with Wilson's interval of that many; a baseline is the mean of its scores
    there, weighted like them, and left out where a value has none.

    Args:
      rows: of any N and axis, as `evaluate` returns them.
      into: axis → spans, as `spans` returns them.
    """
    out = [dict(row) for row in rows if row["axis"] not in into]
    for axis, wanted in into.items():
        for passes in dict.fromkeys(row["passes"] for row in rows):
            series = [row for row in rows if (row["passes"], row["axis"]) == (passes, axis)]
            for span in wanted:
                if inside := [row for row in series if span.least <= row["value"] <= span.most]:
                    out.append({**inside[0], "value": span, **_together(inside)})
    return out


def _together(rows: Sequence[Row]) -> dict[str, Any]:
    answers, tokens = (sum(row[key] for row in rows) for key in ("answers", "tokens_graded"))
    out = {"answers": answers, "tokens_graded": tokens, "nonfinite_answers": sum(row["nonfinite_answers"] for row in rows)}
    kinds = [("exact", "answers", answers), ("label", "tokens_graded", tokens)]
    if "own_chain_exact_accuracy" in rows[0]:
        kinds += [(f"own_chain_{kind}", key, total) for kind, key, total in kinds]
    for kind, key, total in kinds:
        right = sum(round(row[f"{kind}_accuracy"] * row[key]) for row in rows)
        out |= {f"{kind}_accuracy": right / total if total else 0.0, f"{kind}_interval": list(wilson(right, total))}
    mean = lambda name, kind, key, total: sum(row["baselines"][name][kind] * row[key] for row in rows) / max(total, 1)
    told = [name for name in rows[0]["baselines"] if all(name in row["baselines"] for row in rows)]
    baselines = {name: {"label": mean(name, "label", "tokens_graded", tokens), "exact": mean(name, "exact", "answers", answers)} for name in told}
    for key in ("passes_used", "tokens_awake"):
        if key in rows[0]:
            out[key] = sum(row[key] * row["answers"] for row in rows) / max(answers, 1)
    if "exact_by_block" in rows[0]:
        out["exact_by_block"] = [sum(share * row["answers"] for share, row in zip(shares, rows)) / max(answers, 1) for shares in zip(*(row["exact_by_block"] for row in rows))]
        out["any_block"] = sum(row["any_block"] * row["answers"] for row in rows) / max(answers, 1)
    if all("right_answers" in row for row in rows):  # value after value, in every outcome alike: still pairs
        out["right_answers"] = paired.pack(np.concatenate([paired.unpack(row["right_answers"], row["answers"]) for row in rows]))
    return out | {"baselines": baselines}
