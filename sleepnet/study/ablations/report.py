"""The ablations' written report and list of runs, from outcomes alone: whatever is there, and what is missing."""
import shlex
from pathlib import Path

from sleepnet import paths
from sleepnet.files import write_bytes, write_text
from sleepnet.study import report
from sleepnet.study.ablations import figures, tables
from sleepnet.study.ablations.studies import Study, speed, suite
from sleepnet.study.outcomes import binned
from sleepnet.study.overview import hardest
from sleepnet.study.report.tables import Table, missing

SUMMARY = "SUMMARY.md"


def write(folder: Path, tree: Path, out: Path) -> list[Path]:
    """Writes README.md, REPORT.md and its PNG files to `out`, and returns their paths.

    Args:
      folder: of the factors, with the hand-written SUMMARY.md if there is one; see `suite`.
      tree: of outcomes.
      out: where to.

    Raises:
      UsageError: as `suite`.
    """
    studies = suite(folder, tree)
    there, held = paths.shown(folder), paths.shown(tree)
    again = shlex.join(["python", "-m", "sleepnet.study", f"--ablations={there}", *([f"--reuse={held}"] if tree != folder.parent / "results" else [])])
    written = [out / "README.md", out / "REPORT.md"]
    pace = speed(studies)
    into, beside = shlex.quote(held), shlex.quote(there)
    command = f"python -m sleepnet.study --config={beside}/{{factor}}.py:{{base}} --only={{arm}} --seeds={{seed}} --results={into}/{{name}} --reuse={into}"
    listed = tables.runs(studies, pace, command)
    write_text(written[0], "\n\n".join([
        "# Ablations: the runs",
        f"One factor at a time around the default, each a study of its own. Made by `{again}`, with [the report](REPORT.md); both take what is there.",
        report.markdown_table(listed),
    ]) + "\n")
    parts = ["# Ablations", f"Made by `{again}` from the outcomes in `{held}`; [the list of runs](README.md). {listed.note}"]
    if (folder / SUMMARY).exists():
        parts.append((folder / SUMMARY).read_text(encoding="utf-8").strip())
    for study in studies:
        text, images = _section(study)
        parts.append(text)
        for name, image in images.items():
            write_bytes(out / name, image)
            written.append(out / name)
    write_text(written[1], "\n\n".join(parts) + "\n")
    return written


def _section(study: Study) -> tuple[str, dict[str, bytes]]:
    """One study's part of the report, and its pictures by file name."""
    found, absent = binned(study.found), missing(study.spec, study.found)
    parts = [f"## {study.factor}: {study.base}", f"{study.spec.title}. {study.spec.question}"]
    images = {}
    if found:
        told, said = tables.beside(study, found)
        parts.append("\n".join(f"- {line}" for line in said) or _silence(study, found))
        parts += map(_table, tables.accuracies(found))
        compared = len({outcome.arm for outcome in found}) > 1
        for i, (caption, image) in enumerate(figures.draw(study.spec, found).items() if compared else (), 1):
            images[f"{study.name}_{i}.png"] = image
            parts.append(f"![{caption}]({study.name}_{i}.png)\n\n{caption}.")
        parts += [_table(told)] if told.rows else []
    parts.append(_table(tables.cost(study)))
    parts.append(f"Not finished: {', '.join(absent)}." if absent else "All runs are finished.")
    return "\n\n".join(parts), images


def _silence(study: Study, found) -> str:
    axis, value = hardest(study.spec, found)
    return f"Nothing can be said {tables.where(axis, value)} yet: no arm has a seed in common with `{study.spec.reference}`."


def _table(table: Table) -> str:
    return report.markdown_table(table).replace("## ", "### ", 1)
