"""An evaluation on the screen and on disk."""
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sleepnet.config import ModelConfig
from sleepnet.eval import bins
from sleepnet.files import write_text
from sleepnet.models.flops import parameters, state_bytes


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], **common: Any) -> None:
    """Writes one JSON object a line, `common` first in each; the file is whole or not there."""
    write_text(path, "".join(json.dumps({**common, **row}, allow_nan=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def show(rows: Sequence[Mapping[str, Any]], config: ModelConfig, console: Console) -> None:
    """Prints one table row per difficulty value, with exact accuracy above label accuracy, and what it cost.

    Args:
      rows: as `evaluate` returns them.
      config: of the model.
      console: where to; made wider if the table needs it.
    """
    shown = table(bins.pool(rows, bins.spans(rows)))
    # A line that runs over reads better than numbers broken in two
    console.width = max(console.width, Measurement.get(console, console.options.update(max_width=1000), shown).maximum)
    console.print(shown)
    if "exact_by_block" in rows[0]:
        console.print(block_table(bins.pool(rows, bins.spans(rows))))
    if "pass_at" in rows[0]:
        console.print(chain_table(rows))
    console.print("± is half of Wilson's 95 % interval; answers of one example are not independent, its tokens still less.")
    for row in rows:
        if row["axis"] == "all" and row["nonfinite_answers"]:
            bad = f"N = {row['passes']}: {row['nonfinite_answers']} answers have logits that are no numbers; those tokens count as wrong."
            console.print(bad, style="bold")
    for line in cost_lines(rows, config):
        console.print(line)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Difficulty values down, N across, then the baselines."""
    passes = list(dict.fromkeys(row["passes"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["baselines"]))
    halts, thinks = "halt" in rows[0], "own_chain_exact_accuracy" in rows[0]
    out = Table(box=box.SIMPLE_HEAD, title=f"accuracy on the {rows[0]['split']} split")
    for header in ("difficulty", "answers"):
        out.add_column(header, justify="right")
    out.add_column("")
    for count in passes:
        out.add_column(f"N {'≤' if halts else '='} {count}", justify="right")
    for name in names:
        out.add_column(name.replace("_", " "), justify="right", style="dim")
    places = list(dict.fromkeys((row["axis"], row["value"]) for row in rows))
    places.sort(key=lambda place: place[0] == "all")  # the sum stands below what it sums
    for axis, value in places:
        cells = {row["passes"]: row for row in rows if (row["axis"], row["value"]) == (axis, value)}
        first = next(iter(cells.values()))
        label = "all" if axis == "all" else f"{axis} = {value}"
        guesses = (first["baselines"].get(name) for name in names)
        out.add_row(
            label,
            str(first["answers"]),
            "\n".join(["exact", "label", *(["own chain, exact", "own chain, label"] if thinks else []), *(["passes"] if halts else [])]),
            *(_cell(cells[count]) if count in cells else "" for count in passes),
            *(f"{guess['exact']:.3f}\n{guess['label']:.3f}" if guess else "" for guess in guesses),
        )
    return out


def block_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Difficulty values down, memory blocks across: exact accuracy of a read-out behind each."""
    out = Table(box=box.SIMPLE_HEAD, title=f"exact accuracy behind each memory block, {rows[0]['split']} split")
    for header in ("difficulty", "N", *(f"block {k + 1}" for k in range(rows[0]["blocks"])), "any"):
        out.add_column(header, justify="right")
    for row in sorted(rows, key=lambda row: row["axis"] == "all"):
        label = "all" if row["axis"] == "all" else f"{row['axis']} = {row['value']}"
        out.add_row(label, str(row["passes"]), *(f"{share:.3f}" for share in (*row["exact_by_block"], row["any_block"])))
    return out


def chain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Difficulty values down, k across: pass@k of the chains that were drawn, and the share of examples with a right one."""
    out = Table(box=box.SIMPLE_HEAD, title=f"pass@k of {rows[0]['chains']} chains of each example, {rows[0]['split']} split")
    for header in ("difficulty", "N", *(f"k = {k}" for k in rows[0]["pass_at"]), "any"):
        out.add_column(header, justify="right")
    for row in sorted(rows, key=lambda row: row["axis"] == "all"):
        label = "all" if row["axis"] == "all" else f"{row['axis']} = {row['value']}"
        out.add_row(label, str(row["passes"]), *(f"{share:.3f}" for share in (*row["pass_at"].values(), row["coverage"])))
    return out


def _cell(row: Mapping[str, Any]) -> str:
    lines = [_share(row, kind) for kind in ("exact", "label", "own_chain_exact", "own_chain_label") if f"{kind}_accuracy" in row]
    return "\n".join(lines + [f"{row['passes_used']:.2f}"] if "halt" in row else lines)


def _share(row: Mapping[str, Any], kind: str) -> str:
    low, high = row[f"{kind}_interval"]
    return f"{row[f'{kind}_accuracy']:.3f} ±{(high - low) / 2:.3f}".replace("±0.", "±.")


def size(config: ModelConfig) -> str:
    """How big a model is, in part of a line: parameters, blocks, window and N."""
    kinds = {"A": "attention", "G": config.rule}
    blocks = ", ".join(f"{kind} {kinds[kind]}" for kind in dict.fromkeys(config.pattern))
    told = f"{parameters(config):,} parameters, blocks {config.pattern} ({blocks}), window {config.window}, N = {config.sleep.passes}"
    return told + (f", {config.memory_blocks.count} memory blocks" if config.memory_blocks.count else "")


def cost_lines(rows: Sequence[Mapping[str, Any]], config: ModelConfig) -> list[str]:
    """The model's size and what reading cost: a line, and one for each N."""
    totals = [row for row in rows if row["axis"] == "all"]
    wake = totals[0]["flops_wake_token"]
    lines = [
        f"{parameters(config):,} parameters; fast weights {state_bytes(config):,} bytes a sequence; "
        f"one token awake {amount(wake)}FLOP, whatever N is"
    ]
    if "flops_blocks" in totals[0]:
        lines.append(f"{totals[0]['blocks']} memory blocks, read before anything is asked: {amount(totals[0]['flops_blocks'])}FLOP")
    if "tokens_awake" in totals[0]:
        lines.append(f"{totals[0]['tokens_awake']:.1f} tokens awake a sequence, the chain of thought among them")
    return lines + [
        f"N {'≤' if 'halt' in row else '='} {row['passes']}: {row['tokens']:,} tokens read, {amount(row['flops'])}FLOP; one sleep {amount(row['flops_sleep'])}FLOP"
        for row in totals
    ]


def amount(number: float) -> str:
    """A number with three digits and an SI prefix, for a unit to follow: 12.3 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 999.5:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} E"
