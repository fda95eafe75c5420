"""Draws the README's two pictures as SVG, each for a light and a dark page: what sleep is, and the quickstart's curve.

Examples:
  python tools/draw_readme.py
  python tools/draw_readme.py --results=experiments/results/quickstart --out=runs/pictures

Trains nothing: the curve is that of the outcomes in --results, arms `sleep4` and `once_matched`. The cycle of names in the first picture is an
example; what S holds there is drawn as the hops that it can answer, one more with every pass, as depo8_sleep4 was measured to do
(experiments/README.md).
"""
import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from absl import flags

from sleepnet import cli, paths
from sleepnet.files import write_text
from sleepnet.study import ledger, outcomes
from sleepnet.study.outcomes import Outcome

ROOT = Path(__file__).resolve().parents[1]
FLAGS = flags.FlagValues()
flags.DEFINE_string("results", str(ROOT / "experiments/results/quickstart"), "folder of the quickstart's outcomes", flag_values=FLAGS)
flags.DEFINE_string("out", str(ROOT / "tools/readme"), "folder for the pictures", flag_values=FLAGS)

FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
CYCLE = "ADGBHECF"  # who comes after whom, in a circle
TOLD = "DHAFBCGE"  # the edges by their first name, in the order they are told
HOPS = ("#7f98ff", "#35c3e0", "#6fe08f", "#ffd166")  # one more for each pass
NIGHT, NIGHT_EDGE, NIGHT_TEXT, NIGHT_MUTED, NIGHT_BOX = "#191d45", "#3a4187", "#eef0ff", "#b3baf0", "#272d63"


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a page: card and its edge, text, what matters less, panels, and the two arms."""

    card: str
    edge: str
    text: str
    muted: str
    panel: str
    chip: str
    cache: str
    sun: str
    asleep: str
    awake: str
    right: str


THEMES = {
    "light": Theme("#f6f8fa", "#d0d7de", "#1f2328", "#59636e", "#ffffff", "#eaeef2", "#8aa4c0", "#e3a008", "#4f46c8", "#b54708", "#1a7f37"),
    "dark": Theme("#161b22", "#30363d", "#e6edf3", "#9aa4ae", "#1d232b", "#30363d", "#6f8cab", "#f0b429", "#a5a9ff", "#f0883e", "#56d364"),
}


def text(x: float, y: float, words: str, colour: str, size: float = 13, *, weight: int = 400, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size:g}" font-weight="{weight}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, *, edge: str = "none", radius: float = 6, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" stroke="{edge}"{dashed}/>'


def line(points: Iterable[tuple[float, float]], colour: str, width: float = 1.5, *, dash: str = "", head: bool = False) -> str:
    """A line through points, with an arrow's head at its end if asked."""
    points = list(points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
    if not head:
        return drawn
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    corners = [(x + 3 * dx, y + 3 * dy), (x - 5 * dx - 4 * dy, y - 5 * dy - 4 * dx), (x - 5 * dx + 4 * dy, y - 5 * dy + 4 * dx)]
    return drawn + f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" fill="{colour}"/>'


def svg(width: int, height: int, theme: Theme, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" font-family="{FONT}">'
    card = box(0.5, 0.5, width - 1, height - 1, theme.card, edge=theme.edge, radius=10)
    return "\n".join([head, f"<title>{escape(title)}</title>", card, *parts, "</svg>"]) + "\n"


# What sleep is

def sun(x: float, y: float, colour: str) -> str:
    rays = [(0, -1), (0.7, -0.7), (1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7)]
    return f'<circle cx="{x}" cy="{y}" r="5.5" fill="{colour}"/>' + "".join(line([(x + 8 * a, y + 8 * b), (x + 11 * a, y + 11 * b)], colour, 2) for a, b in rays)


def moon(x: float, y: float) -> str:
    return f'<path d="M{x + 4},{y - 9} a9.5,9.5 0 1 0 6,13 a7.5,7.5 0 1 1 -6,-13 z" fill="{HOPS[3]}"/>'


def weights(x: float, y: float, passes: int, cell: float) -> str:
    """S as who leads to whom, names in the order of the cycle: a diagonal for each hop it can answer."""
    side = len(CYCLE) * cell
    cells = [box(x, y, side, side, NIGHT_BOX, edge=NIGHT_EDGE, radius=2)]
    for hop in range(1, passes + 1):
        for row in range(len(CYCLE)):
            column = (row + hop) % len(CYCLE)
            cells.append(box(x + column * cell + 0.5, y + row * cell + 0.5, cell - 1, cell - 1, HOPS[hop - 1], radius=1))
    return "".join(cells)


def cache(x: float, y: float, theme: Theme, *, full: bool) -> str:
    one = lambda i: box(x + 10.6 * i, y, 8, 20, theme.cache if full else "none", edge="none" if full else theme.muted, radius=2, dash="" if full else "2 2")
    return "".join(map(one, range(16)))


def header(x: float, y: float, icon: str, number: int, words: str, colour: str) -> str:
    return icon + text(x + 24, y, f"{number}  {words}", colour, 14.5, weight=650)


def reads(x: float, theme: Theme) -> list[str]:
    """A window that is full, and its KV cache."""
    parts = [box(x, 14, 200, 300, theme.panel, edge=theme.edge, radius=8), header(x + 16, 42, sun(x + 25, 37, theme.sun), 1, "Awake: reads", theme.text)]
    parts.append(text(x + 16, 68, "who comes after whom,", theme.muted) + text(x + 16, 85, "until its window is full", theme.muted))
    for i, name in enumerate(TOLD):
        left, top = x + 16 + 88 * (i % 2), 98 + 31 * (i // 2)
        after = CYCLE[(CYCLE.index(name) + 1) % len(CYCLE)]
        parts += [box(left, top, 80, 25, theme.chip), text(left + 40, top + 17.5, f"{name} → {after}", theme.text, 14, anchor="middle")]
    parts += [text(x + 16, 250, "KV cache: grows with", theme.muted), text(x + 16, 267, "every token read", theme.muted), cache(x + 16, 278, theme, full=True)]
    return parts


def sleeps(x: float, theme: Theme) -> list[str]:
    """N passes over the window, and S after each."""
    parts = [box(x, 14, 324, 300, NIGHT, edge=NIGHT_EDGE, radius=8), header(x + 16, 42, moon(x + 20, 37), 2, "Asleep: N passes over it", NIGHT_TEXT)]
    stars = ((304, 28, 1.2), (292, 58, 0.9), (314, 80, 0.9), (262, 62, 0.7), (7, 136, 0.8))
    parts += [f'<circle cx="{x + a}" cy="{b}" r="{r}" fill="{NIGHT_MUTED}"/>' for a, b, r in stars]
    parts += [box(x + 14, 84, 84, 40, NIGHT_BOX, edge=NIGHT_EDGE), text(x + 56, 109, "window", NIGHT_TEXT, anchor="middle")]
    parts += [box(x + 134, 84, 176, 40, NIGHT_BOX, edge=NIGHT_EDGE), text(x + 222, 101, "attention and", NIGHT_TEXT, anchor="middle")]
    parts.append(text(x + 222, 117, "fast-weight blocks", NIGHT_TEXT, anchor="middle"))
    parts.append(line([(x + 102, 104), (x + 127, 104)], NIGHT_MUTED, head=True))
    parts += [line([(x + 222, 84), (x + 222, 66), (x + 56, 66), (x + 56, 79)], NIGHT_MUTED, head=True), box(x + 104, 57, 70, 18, NIGHT, radius=0)]
    parts += [text(x + 139, 71, "N times", HOPS[3], weight=650, anchor="middle"), line([(x + 222, 124), (x + 222, 139)], NIGHT_MUTED, head=True)]
    parts.append(text(x + 14, 157, "write fast weights S by a learned rule:", NIGHT_TEXT))
    for i, words in enumerate(("1 hop", "2 hops", "3 hops", "4 hops")):
        left = x + 14 + 80 * i
        parts += [weights(left, 168, i + 1, 7), text(left + 28, 241, f"pass {i + 1}", NIGHT_TEXT, anchor="middle")]
        parts.append(text(left + 28, 257, words, HOPS[i], weight=650, anchor="middle"))
        if i < 3:
            parts.append(line([(left + 60, 196), (left + 72, 196)], NIGHT_MUTED, head=True))
    parts.append(text(x + 162, 275, "can then be answered: about one more a pass", NIGHT_MUTED, 12.5, anchor="middle"))
    parts.append(text(x + 162, 299, "Then the KV cache is cleared. S stays.", NIGHT_TEXT, 13.5, weight=650, anchor="middle"))
    return parts


def answers(x: float, theme: Theme) -> list[str]:
    """An empty cache, and an answer from S in one pass."""
    parts = [box(x, 14, 200, 300, theme.panel, edge=theme.edge, radius=8), header(x + 16, 42, sun(x + 25, 37, theme.sun), 3, "Awake: answers", theme.text)]
    parts += [text(x + 16, 68, "KV cache: empty again", theme.muted), cache(x + 16, 78, theme, full=False)]
    parts += [box(x + 16, 114, 168, 27, theme.chip), text(x + 100, 132.5, "4 hops after A?", theme.text, 14, anchor="middle")]
    parts += [line([(x + 100, 141), (x + 100, 155)], theme.muted, head=True), box(x + 16, 160, 168, 62, "none", edge=theme.asleep, radius=6)]
    parts.append(weights(x + 24, 169, 4, 5.5))
    parts += [text(x + 80, 181 + 16 * i, words, theme.text) for i, words in enumerate(("one ordinary", "forward pass,", "reading S"))]
    after = CYCLE[(CYCLE.index("A") + 4) % len(CYCLE)]
    parts += [line([(x + 100, 222), (x + 100, 236)], theme.muted, head=True), box(x + 66, 241, 68, 27, theme.panel, edge=theme.right)]
    parts.append(text(x + 100, 260, after, theme.right, 15, weight=700, anchor="middle"))
    parts.append(text(x + 100, 295, "same cost, whatever N was", theme.muted, 12.5, anchor="middle"))
    return parts


def mechanism(theme: Theme) -> str:
    """The window, N passes, S, the cleared cache, one pass a token."""
    parts = [*reads(14, theme), *sleeps(238, theme), *answers(586, theme)]
    parts += [line([(219, 104), (230, 104)], theme.text, 2, head=True), line([(567, 196), (578, 196)], theme.text, 2, head=True)]
    parts.append(text(400, 337, "The thinking is done before the question comes. The trained weights stay as they are; S has a fixed size,", theme.text, anchor="middle"))
    parts.append(text(400, 355, "belongs to this one sequence, and is all that goes from a window to the next.", theme.text, anchor="middle"))
    return svg(800, 370, theme, "A model reads a window, sleeps N passes over it, clears its cache and answers in one pass", parts)


# The quickstart's curve

LEFT, RIGHT, TOP, BOTTOM = 64, 504, 54, 236


def curve(theme: Theme, asleep: Sequence[Outcome], once: Sequence[Outcome]) -> str:
    """Exact accuracy on the validation split over training FLOPs: mean over seeds, and their range; then what guessing scores."""
    most = max(run.flops for run in (*asleep, *once))
    across = lambda flops: LEFT + (RIGHT - LEFT) * flops / most
    up = lambda share: BOTTOM - (BOTTOM - TOP) * share
    parts = [text(20, 30, "Does sleep pay? Cycles of names never seen, 1 to 4 hops, equal training compute", theme.text, 14.5, weight=650)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts += [line([(LEFT, up(share)), (RIGHT, up(share))], theme.edge, 1), text(LEFT - 8, up(share) + 4.5, f"{share:.2f}", theme.muted, 12, anchor="end")]
    for trillions in range(int(most / 1e12) + 1):
        parts.append(text(across(1e12 * trillions), BOTTOM + 18, str(trillions), theme.muted, 12, anchor="middle"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 37, "training, 10¹² floating-point operations", theme.muted, 12.5, anchor="middle"))
    parts.append(f'<text transform="translate(18 {(TOP + BOTTOM) / 2:g}) rotate(-90)" fill="{theme.muted}" font-size="12.5" text-anchor="middle">exact accuracy</text>')
    guesses = asleep[0].row(asleep[0].passes)["baselines"]
    for name, words in (("in_context", "a guess among the names told"), ("chance", "chance")):
        score = guesses[name]["exact"]
        parts.append(line([(LEFT, up(score)), (RIGHT, up(score))], theme.muted, 1.2, dash="1 4"))
        parts.append(text(RIGHT + 12, up(score) + 4.5, f"{words}: {share_of(score)}", theme.muted, 12.5))
    for runs, colour, title in ((once, theme.awake, "N = 1, as much compute"), (asleep, theme.asleep, "N = 4 passes of sleep")):
        lines = list(zip(*(run.curve for run in runs)))
        x = [across(points[0]["flops"]) for points in lines]
        scores = [[up(point["exact_accuracy"]) for point in points] for points in lines]
        band = [*zip(x, map(min, scores)), *reversed([*zip(x, map(max, scores))])]
        mean = [*zip(x, map(statistics.fmean, scores))]
        parts.append(f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in band)}" fill="{colour}" fill-opacity="0.22"/>')
        parts.append(line(mean, colour, 2.5))
        arguments, batch = runs[0].config["task"]["arguments"], runs[0].config["train"]["batch_size"]
        asked = [point for point, points in zip(mean, lines) if points[0]["step"] * batch == arguments["hops_rise"][-1]]
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{theme.card}" stroke="{colour}" stroke-width="2"/>' for a, b in asked]
        last, hardest = mean[-1][1], [run.row(run.passes, "k", arguments["hops"])["exact_accuracy"] for run in runs]
        seeds = ", ".join(str(run.seed) for run in runs)
        parts.append(text(RIGHT + 12, last + 4, title, colour, 13.5, weight=650))
        parts.append(text(RIGHT + 12, last + 22, f"{runs[0].steps:,} steps; at {arguments['hops']} hops (seeds {seeds}):", theme.text))
        parts.append(text(RIGHT + 12, last + 39, ", ".join(map(share_of, hardest)), theme.text))
    parts.append(text(20, BOTTOM + 62, "Mean and range of three seeds; all hops together, validation split.", theme.muted, 12.5))
    parts.append(text(20, BOTTOM + 80, "○ From here on training asks for all four hops; before, for one or two.", theme.muted, 12.5))
    return svg(800, 330, theme, "Exact accuracy over training compute: four passes of sleep against one pass at equal compute", parts)


def share_of(score: float) -> str:
    """A share with three digits, as the tables have it: .993, 1.000."""
    return f"{score:.3f}".removeprefix("0")


def main(argv: list[str]) -> None:
    """Writes the pictures."""
    del argv
    results, out = paths.plain(FLAGS.results, "results"), paths.plain(FLAGS.out, "out")
    spec, _ = ledger.read_study(results)
    found = outcomes.load(results, spec)
    arms = [outcomes.of_arm(found, name) for name in ("sleep4", "once_matched")]
    for name, theme in THEMES.items():
        for picture, drawn in (("sleep", mechanism(theme)), ("curve", curve(theme, *arms))):
            write_text(out / f"{picture}-{name}.svg", drawn)
            print(f"wrote {paths.shown(out / f'{picture}-{name}.svg')}")


if __name__ == "__main__":
    cli.run(main, FLAGS)
