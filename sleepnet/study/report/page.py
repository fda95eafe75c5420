"""The report as one HTML file: images inside, nothing from the network, light or dark, wide or narrow."""
import base64
import dataclasses
from html import escape

from sleepnet.study.claim import Verdict
from sleepnet.study.report.tables import Table

_META = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
CHAIN = "Phases that the arms go through"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fff; --line: #d8d8de; --soft: #f4f4f7; --good: #00704f; --bad: #b3440a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ec; --paper: #000; --line: #3a3a42; --soft: #17171b; --good: #4cc79a; --bad: #ff9a5c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.question { font-size: 1.15rem; }
.verdict { border-left: .35rem solid var(--line); background: var(--soft); padding: .75rem 1rem; }
.held { border-color: var(--good); } .failed { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; white-space: normal; min-width: 10rem; }
figure { margin: 1.5rem 0; } img { width: 100%; max-width: 50rem; height: auto; }
.note, figcaption { font-size: .85rem; opacity: .8; }
pre { overflow-x: auto; background: var(--soft); padding: .75rem; }
"""


@dataclasses.dataclass(frozen=True)
class Image:
    """A figure as PNG, for light and for dark pages."""

    caption: str
    light: bytes
    dark: bytes


def render(
    title: str, question: str, verdict: Verdict, tables: list[Table], images: list[Image], notes: list[str], commands: list[str], chain: str = ""
) -> str:
    """The whole page; `chain` is a drawing of the phases."""
    state = {True: "held", False: "failed", None: "open"}[verdict.held]
    accuracy, *others = tables
    newline = "\n"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="question">{escape(question)}</p>' if question else "",
        f'<p class="verdict {state}">{escape(verdict.sentence)}</p>',
        f"<h2>{CHAIN}</h2>\n<pre>{escape(chain)}</pre>" if chain else "",
        _table(accuracy),
        *map(_figure, images),
        *map(_table, others),
        f"<h2>How it was made</h2>\n<pre>{escape(newline.join(commands))}</pre>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>",
    ]
    head = f'{_META}\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n' + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"


def _table(table: Table) -> str:
    row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
    words = ' class="words"' if len(table.headers) == 2 else ""
    rows = "\n".join(row(cells, "td") for cells in table.rows)
    grid = f'<table{words}>\n<thead>{row(table.headers, "th")}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>'
    return f'<h2>{escape(table.title)}</h2>\n<div class="scroll">{grid}</div>\n<p class="note">{escape(table.note)}</p>'


def _figure(image: Image) -> str:
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (image.light, image.dark))
    source = f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
    caption = escape(image.caption)
    return f'<figure><picture>{source}<img src="{light}" alt="{caption}"></picture><figcaption>{caption}</figcaption></figure>'
