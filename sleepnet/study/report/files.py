"""A study's report: Markdown, a page, JSON lines, PNG, and tables for the screen; all from outcomes alone."""
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as ScreenTable
from rich.text import Text

from sleepnet.files import write_bytes, write_text
from sleepnet.study import outcomes as results
from sleepnet.study.claim import verdict
from sleepnet.study.outcomes import Outcome, binned
from sleepnet.study.report import drawn, figures, kept, looked, nights, page, phases
from sleepnet.study.report.tables import Table, accuracy, cost, missing, tables
from sleepnet.study.spec import StudySpec

_CAPTIONS = {
    "validation_over_flops": "Validation accuracy over training FLOPs; the band reaches from the least to the greatest seed.",
    "validation_over_steps": "The same over training steps.",
}


def write(folder: Path, spec: StudySpec, found: list[Outcome], commands: list[str], inner: Sequence[Outcome] = ()) -> None:
    """Writes report.md, report.html, results.jsonl and the PNG curves to `folder`.

    Args:
      folder: where to.
      spec: the study.
      found: outcomes of its arms.
      commands: that made them.
      inner: outcomes of phases that others start from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for outcome in (*inner, *found) for line in _lines(outcome)]
    write_text(folder / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = binned(found)
    images = figures.draw(spec, found)
    for name, image in images.items():
        write_bytes(folder / f"{name}.png", image)
    write_text(folder / "report.md", markdown(spec, found, commands, list(images), inner))
    dark = figures.draw(spec, found, dark=True)
    shown = [page.Image(_caption(name), images[name], dark[name]) for name in images]
    write_text(folder / "report.html", page.render(
        spec.title, spec.question, verdict(spec, found), _tables(spec, found, inner), shown, _notes(spec, found), commands, phases.drawing(spec)
    ))


def _lines(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """What was graded, a line a row; `test` names a test set where it is not the run's own."""
    run = {"arm": outcome.arm, "seed": outcome.seed, "steps": outcome.steps, "train_flops": outcome.flops}
    run |= {"phase": outcome.phase, "past_flops": outcome.past_flops} if outcome.phase else {}
    yield from (run | row for row in outcome.rows)
    for name, test in outcome.tests.items():
        yield from (run | {"test": name} | row for row in test["rows"])


def _tables(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> list[Table]:
    first, *others = tables(spec, found)
    return [first, *_between(spec, found, inner), *others]


def _between(spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome]) -> list[Table]:
    """What stands behind accuracy and before cost, on paper as on the screen."""
    return [*phases.tables(spec, found, list(inner)), *kept.tables(spec, found, inner), *nights.tables(spec, found), *drawn.tables(spec, found, inner), *looked.tables(spec, found)]


def markdown(spec: StudySpec, found: list[Outcome], commands: list[str], images: list[str], inner: Sequence[Outcome] = ()) -> str:
    """The report as Markdown; `images` are the names of PNG files beside it. See `write`."""
    parts = [f"# {spec.title}"]
    if spec.question:
        parts.append(f"**{spec.question}**")
    parts.append(verdict(spec, found).sentence)
    if chain := phases.drawing(spec):
        parts.append(f"## {page.CHAIN}\n\n```text\n{chain}\n```")
    accuracy, *others = [markdown_table(table) for table in _tables(spec, found, inner)]
    parts += [accuracy, *(f"![{_caption(name)}]({name}.png)\n\n{_caption(name)}" for name in images), *others]
    parts.append("## How it was made\n\n```bash\n" + "\n".join(commands) + "\n```")
    parts.append("\n".join(f"- {note}" for note in _notes(spec, found)))
    return "\n\n".join(parts) + "\n"


def show(console: Console, spec: StudySpec, found: list[Outcome], inner: Sequence[Outcome] = ()) -> None:
    """Prints the chain of phases, accuracy and cost, and the verdict in one sentence."""
    found = binned(found)
    if chain := phases.drawing(spec):
        console.print(chain, highlight=False, markup=False, soft_wrap=True)
    for table in (accuracy(spec, found), *_between(spec, found, inner), cost(spec, found)):
        screen = ScreenTable(
            title=Text(table.title), title_justify="left", caption=Text(table.note), caption_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )
        for i, (header, *cells) in enumerate(zip(table.headers, *table.rows)):
            # a figure is never broken, whatever the terminal's width
            longest = max(len(word) for cell in (header, *cells) for word in cell.split())
            screen.add_column(header, justify="right" if i else "left", min_width=longest)
        for row in table.rows:
            screen.add_row(*map(Text, row))  # Text: square brackets are no markup here
        console.print(screen, width=max(console.width, Measurement.get(console, console.options, screen).minimum), crop=False)
    console.print(verdict(spec, found).sentence, style="bold", highlight=False, markup=False)


def markdown_table(table: Table) -> str:
    """The table in Markdown, under its title, with its note."""
    clean = lambda cell: cell.replace("|", "\\|")
    rule = ["---"] + ["---:"] * (len(table.headers) - 1) if len(table.headers) > 2 else ["---"] * 2
    rows = [table.headers, rule, *table.rows]
    lines = "\n".join(f"| {' | '.join(map(clean, row))} |" for row in rows)
    return f"## {table.title}\n\n{lines}\n\n{table.note}"


def _caption(name: str) -> str:
    if name.startswith("kept_by_"):
        return f"Accuracy of {name.removeprefix('kept_by_')} on each day after each day, validation, mean over seeds."
    if name.startswith("heat_by_"):
        return f"Test accuracy by {name.removeprefix('heat_by_')}, mean over seeds, of each arm with each N; what guessing scores below."
    axis = name.removeprefix("accuracy_by_")
    return _CAPTIONS.get(name, f"Test accuracy by {axis}, each arm with its own N; the bars are the intervals of the table.")


def _notes(spec: StudySpec, found: list[Outcome]) -> list[str]:
    """What the runs were made with, and what is missing."""
    made = sorted({", ".join(f"{name} {version}" for name, version in outcome.versions.items()) for outcome in found})
    notes = [f"Versions: {versions}." for versions in made]
    if found:
        notes.append(f"Hardware: {'; '.join(sorted({outcome.device for outcome in found}))}.")
        arguments = ", ".join(f"{key}={value}" for key, value in spec.base.task.arguments.items())
        size, examples = spec.base.train.batch_size, found[0].config["eval"]["examples"]
        notes.append(f"Task: {spec.base.task.name}({arguments}), batches of {size}, test of {examples} examples.")
    others = [arm.name for arm in spec.arms for run in results.of_arm(found, arm.name)[:1] if not results.same_test(run, spec)]
    if others:
        notes.append(f"{', '.join(others)}: graded on the task of the last phase, which is not the base's; its figures stand beside no other arm's.")
    if absent := missing(spec, found):
        notes.append(f"Not finished: {', '.join(absent)}.")
    if len(made) > 1:
        notes.append("The runs were made with different versions: compare with care.")
    return notes
