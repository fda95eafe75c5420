"""What a text costs, as tables: ways of reading down, bins across."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_TITLES = {
    "all": "nats a token and bits a byte; behind the first window: nats, and how much less than with each window alone (95 %, documents resampled)",
    "distance": "nats a token by tokens since the boundary, windows behind the first",
    "won": "nats a token less than the model had, before it was trained, with each window alone; by tokens since the boundary",
    "place": "nats a token by window of the document",
}
_HEADS = {"saved": "less than alone", "won": "less than before, alone"}


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints the tables of `rows`, as `sleepnet.eval.text.evaluate` returns them, as wide as they need."""
    for table in tables(rows):
        console.width = max(console.width, len(str(table.title)), Measurement.get(console, console.options.update(max_width=1000), table).maximum)
        console.print(table)


def tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """The sums, then one for each axis; where rows tell what is won, that by distance as well."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    find = {(row["way"], row["axis"], row["first"]): row for row in rows}
    behind = [key[1:] for key in find if key[0] == ways[0] and key[1] in ("all", "behind")]
    more = [_HEADS[key] for key in ("saved", "won") if key in rows[0]]
    yield _table(_TITLES["all"], ("way", "nats", "bits a byte", *(("behind the first", *more) if len(behind) > 1 else ())), (_sums(find, way, behind) for way in ways))
    for axis, key in (("distance", "nats"), *((("distance", "won"),) if "won" in rows[0] else ()), ("place", "nats")):
        bins = sorted({(row["first"], row["last"]) for row in rows if row["axis"] == axis})
        heads = [str(first) if first == last else f"{first} … {last}" for first, last in bins]
        yield _table(_TITLES[axis if key == "nats" else key], ("way", *heads), ([way, *(_number(find.get((way, axis, first), {}).get(key)) for first, _ in bins)] for way in ways))


def _sums(find, way, behind):
    whole, *rest = (find[way, *key] for key in behind)
    cells = [way, _sure(whole, "nats", "interval"), _number(whole["bits_per_byte"])]
    told = [("nats", "interval"), *((key, f"{key}_interval") for key in ("saved", "won") if key in whole)]
    return cells + [_sure(row, *each) for row in rest for each in told]


def _sure(row, key, interval):
    return "not finite" if row[key] is None else f"{row[key]:.3f} ({row[interval][0]:.3f} … {row[interval][1]:.3f})"


def _number(value):
    return "" if value is None else f"{value:.3f}"


def _table(title, heads, lines):
    out = Table(*heads[:1], box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    for head in heads[1:]:
        out.add_column(head, justify="right")
    for cells in lines:
        out.add_row(*cells)
    return out
