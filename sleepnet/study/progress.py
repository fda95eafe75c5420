"""How far a study is, read from the metrics that its runs write."""
import dataclasses
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sleepnet import methods
from sleepnet.files import json_lines
from sleepnet.study.runs import Run

_TAIL = 1 << 16  # bytes; some hundred lines
_QUIET = 30.0  # seconds between two lines where there is no terminal


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where one run is: numbers are None until it has reported them; `told` is what its method tells besides, in words."""

    step: int = 0
    loss: float | None = None
    exact: float | None = None
    tokens_per_second: float | None = None
    steps_per_second: float | None = None
    told: str = ""


def standing(run: Run) -> Standing:
    """Reads the end of a run's metrics."""
    lines = _tail(run)
    train = [line for line in lines if line["split"] == "train"]
    if not train:
        return Standing()
    last = train[-1]
    leg = [line for line in train[-20:] if line["step"] < last["step"] and line["seconds"] < last["seconds"]]
    tokens = steps = None
    if leg:
        seconds = last["seconds"] - leg[0]["seconds"]
        tokens, steps = (last["tokens"] - leg[0]["tokens"]) / seconds, (last["step"] - leg[0]["step"]) / seconds
    exact = [line["exact_accuracy"] for line in lines if line["split"] == "validation"]
    told = ", ".join(f"{name} {last[name]:.3g}" for name in methods.of(run.config).tells if last.get(name) is not None)
    return Standing(last["step"], last["loss"], exact[-1] if exact else None, tokens, steps, told)


def _tail(run: Run) -> list[dict]:
    if not run.metrics.exists():
        return []
    with open(run.metrics, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        text = file.read().decode(errors="replace")
    return [line for _, line in json_lines(text, "split", "step", "seconds")]  # the first may be cut off, the last not yet written


def remaining(runs: Sequence[Run], states: dict[str, str], standings: dict[str, Standing], slots: int) -> float | None:
    """Seconds until all runs are through: runs that report a rate go on at it, the others wait at the mean rate of FLOPs, and for what they start from.

    None while no run has reported a rate.
    """
    rates = {
        run.name: standings[run.name].steps_per_second * run.flops / run.config.train.steps
        for run in runs if states[run.name] == "running" and standings[run.name].steps_per_second
    }
    if not rates:
        return None
    mean = sum(rates.values()) / len(rates)
    ends = {}
    for run in runs:
        if states[run.name] == "running":
            left = 1 - standings[run.name].step / run.config.train.steps
            ends[run.name] = run.flops * left / rates.get(run.name, mean)
    busy = [*ends.values(), *[0.0] * max(0, slots - len(ends))]
    for run in runs:
        if states[run.name] == "waiting":
            busy.sort()
            busy[0] = max(busy[0], ends.get(run.after.name, 0.0) if run.after else 0.0) + run.flops / mean
            ends[run.name] = busy[0]
    return max(busy)


def span(seconds: float | None) -> str:
    """A duration in words that fit its size."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Board:
    """Shows the runs: a live table on a terminal, elsewhere one line every half a minute. A context manager."""

    def __init__(self, console: Console, runs: Sequence[Run], done: int, slots: int):
        self.console, self.runs, self.done, self.slots = console, runs, done, slots
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self.next = 0.0
        self.standings: dict[str, Standing] = {run.name: Standing() for run in runs}

    def __enter__(self) -> "Board":
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.__exit__(*error)

    def __call__(self, states: dict[str, str]) -> None:
        """Takes note of the states; draws when it is time."""
        over = all(state in ("finished", "failed") for state in states.values())
        if time.monotonic() < self.next and not over:
            return
        self.next = time.monotonic() + (1.0 if self.live else _QUIET)
        for run in self.runs:
            if states[run.name] != "waiting":
                self.standings[run.name] = standing(run)
        left = remaining(self.runs, states, self.standings, self.slots)
        if self.live:
            self.live.update(self._table(states, left), refresh=True)
        else:
            self.console.print(self._line(states, left), highlight=False, soft_wrap=True)

    def _cells(self, run: Run, state: str) -> tuple[str, ...]:
        now, figure = self.standings[run.name], lambda value, form: "–" if value is None else format(value, form)
        left = None
        if state == "running" and now.steps_per_second:
            left = (run.config.train.steps - now.step) / now.steps_per_second
        return (
            f"{now.step}/{run.config.train.steps}", figure(now.loss, ".3f"), figure(now.exact, ".3f"),
            figure(now.tokens_per_second, ",.0f"), span(left),
        )

    def _table(self, states: dict[str, str], left: float | None) -> Table:
        table = Table(title=self._summary(states, left), title_justify="left")
        tells = any(now.told for now in self.standings.values())
        for header in ("arm", "seed", "", "step", "loss", "exact", "tokens/s", "left", *["tells"] * tells):
            table.add_column(header, justify="left" if header in ("arm", "", "tells") else "right")
        for run in self.runs:
            state = states[run.name]
            table.add_row(run.arm, str(run.seed), state, *self._cells(run, state), *[self.standings[run.name].told] * tells)
        return table

    def _line(self, states: dict[str, str], left: float | None) -> str:
        parts = []
        for run in self.runs:
            if states[run.name] == "running":
                (step, loss, exact, rate, eta), told = self._cells(run, "running"), self.standings[run.name].told
                parts.append(f"{run.name} step {step} loss {loss} exact {exact}, {rate} tokens/s, {eta} left{', ' * bool(told)}{told}")
        return f"{time.strftime('%H:%M:%S')} " + " · ".join([self._summary(states, left), *parts])

    def _summary(self, states: dict[str, str], left: float | None) -> str:
        finished = self.done + sum(state == "finished" for state in states.values())
        failed = sum(state == "failed" for state in states.values())
        text = f"{finished} of {self.done + len(states)} runs finished" + (f", {failed} failed" if failed else "")
        return text + ("" if left is None else f", about {span(left)} left")
