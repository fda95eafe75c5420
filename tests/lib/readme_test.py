"""What strangers read first: pictures from committed outcomes, figures that are those of the outcomes, links that lead somewhere, short paragraphs."""
import json
import re
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments/results"
PICTURES = sorted((ROOT / "tools/readme").glob("*.svg"))
README, MEASURED, SUMMARY = (ROOT / name for name in ("README.md", "experiments/README.md", "experiments/ablations/SUMMARY.md"))
PAGES = [README, MEASURED, SUMMARY, *(ROOT / folder / "README.md" for folder in ("sleepnet", "tools", "tests"))]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


# Pictures

@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The pictures, drawn again."""
    sys.path.insert(0, str(ROOT / "tools"))
    import draw_boundary
    import draw_days
    import draw_readme
    import draw_taught

    out = tmp_path_factory.mktemp("pictures")
    for tool in (draw_boundary, draw_days, draw_readme, draw_taught):
        tool.FLAGS([tool.__name__, f"--out={out}"])
        tool.main([])
    return out


def test_the_committed_pictures_are_those_of_the_script(drawn):
    assert {path.name for path in PICTURES} == {f"{name}-{theme}.svg" for name in ("sleep", "curve", "taught", "days", "boundary") for theme in ("light", "dark")}
    for path in PICTURES:
        assert path.read_bytes() == (drawn / path.name).read_bytes(), f"{path.name}: draw it again with python tools/draw_readme.py, draw_taught.py, draw_days.py, draw_boundary.py"
        assert path.stat().st_size <= 100_000


def elements(path, tag):
    return ElementTree.parse(path).getroot().findall(f"{{http://www.w3.org/2000/svg}}{tag}")


def words_of(path):
    """(words, left, top, right, bottom) of every upright text, as wide as DejaVu sets it, which is wider than what browsers choose first."""
    found = []
    for text in elements(path, "text"):
        if text.get("transform") is None:
            x, y, size = (float(text.get(key)) for key in ("x", "y", "font-size"))
            font = FontProperties(family="DejaVu Sans", weight="bold" if int(text.get("font-weight")) >= 600 else "normal")
            extents = TextPath((0, 0), text.text, size=size, prop=font).get_extents()
            left = x - extents.width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            found.append((text.text, left, y - extents.y1, left + extents.width, y - extents.y0))
    return found


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_words_stay_in_their_boxes_and_apart(path):
    boxes = [tuple(float(box.get(key)) for key in ("x", "y", "width", "height")) for box in elements(path, "rect")]
    words = words_of(path)
    assert len(words) > 3 and min(float(text.get("font-size")) for text in elements(path, "text")) >= 12
    for said, left, top, right, bottom in words:
        for x, y, width, height in boxes:
            if x < (left + right) / 2 < x + width and y < (top + bottom) / 2 < y + height:
                assert x <= left and right <= x + width and y <= top and bottom <= y + height, f"{said!r} sticks out of a box"
        for other, *place in words:
            apart = place[0] >= right or place[2] <= left or place[1] >= bottom or place[3] <= top
            assert apart or (other, *place) == (said, left, top, right, bottom), f"{said!r} touches {other!r}"


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_brings_its_own_ground(path):
    """A card without holes below everything, and words that differ enough from what they stand on (WCAG's 4.5 : 1)."""
    card, *boxes = [(*(float(box.get(key)) for key in ("x", "y", "width", "height")), box.get("fill")) for box in elements(path, "rect")]
    size = [float(side) for side in ElementTree.parse(path).getroot().get("viewBox").split()[2:]]
    assert card[2:4] == (size[0] - 1, size[1] - 1)

    def light(colour):
        values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(share * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for share, v in zip((0.2126, 0.7152, 0.0722), values))

    colours = {(text.text, text.get("fill")) for text in elements(path, "text")}
    for said, left, top, right, bottom in words_of(path):
        x, y = (left + right) / 2, (top + bottom) / 2
        ground = [fill for bx, by, width, height, fill in (card, *boxes) if bx < x < bx + width and by < y < by + height and fill != "none"][-1]
        for colour in (colour for words, colour in colours if words == said):
            dark, bright = sorted((light(colour), light(ground)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{said!r}: {colour} on {ground}"


def outcomes(study, arm):
    return [json.loads(path.read_text()) for path in sorted((RESULTS / study).glob(f"{arm}-seed?.json"))]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_curves_are_the_outcomes(theme):
    """Their ends, read off the axis that the picture itself labels."""
    path = ROOT / f"tools/readme/curve-{theme}.svg"
    height = {text.text: float(text.get("y")) - 4.5 for text in elements(path, "text") if re.fullmatch(r"[01]\.\d\d", text.text or "")}
    share = lambda y: (height["0.00"] - y) / (height["0.00"] - height["1.00"])
    lines = [line.get("points").split() for line in elements(path, "polyline") if line.get("stroke-width") == "2.5"]
    for points, arm in zip(lines, ("once_matched", "sleep4"), strict=True):
        curves = [outcome["curve"] for outcome in outcomes("quickstart", arm)]
        assert len(points) == len(curves[0]) and len(curves) == 3
        for i in (0, len(points) // 2, -1):
            wanted = sum(curve[i]["exact_accuracy"] for curve in curves) / 3
            assert share(float(points[i].split(",")[1])) == pytest.approx(wanted, abs=1e-3)


# Figures

# a row's first cell, as far as it needs → (study, arm asleep, its control, axis, hardest value)
ROWS = {
    "Depo: 4 hops": ("quickstart", "sleep4", "once_matched", "k", 4), "Depo, 8 names": ("quickstart", "sleep4", "once_matched", "k", 4),
    "Depo, 12 names": ("depo_staircase", "sleep8", "once_matched", "k", 8),
    "Selective copying": ("selective_copy_cpu", "sleep4", "once_matched", "copies", 16),
    "`selective_copy`": ("selective_copy_cpu", "sleep4", "once_matched", "copies", 16),
    "Variable tracking": ("variables_cpu", "sleep4", "once_matched", "hops", 3), "`variables`": ("variables_cpu", "sleep4", "once_matched", "hops", 3),
    "k-hop induction": ("khop_cpu", "sleep4", "once_matched", "k", 6), "`khop`": ("khop_cpu", "sleep4", "once_matched", "k", 6),
    "`mqar`": ("mqar_cpu", "sleep4", "once_matched", "pairs", 16), "`group`": ("group_cpu", "sleep4", "once_matched", "k", 4),
    "`gsm`": ("gsm_cpu", "sleep4", "once_matched", "ops", 2),
    "Rule 110, N = 8": ("rule110_cpu", "sleep8", "once_matched8", "steps", 6), "Rule 110: 6 steps, N = 8": ("rule110_cpu", "sleep8", "once_matched8", "steps", 6),
    "Rule 110": ("rule110_cpu", "sleep4", "once_matched", "steps", 6),
}
# the further columns of the summary's table: row → column → (study, arm, key)
FURTHER = {
    "Depo, 8 names": {"S reset": ("quickstart", "reset"), "Hebbian": ("quickstart", "hebbian"), "full cache": ("memory_quickstart", "hybrid_cache_matched")},
    "`selective_copy`": {"full cache": ("memory_selective_copy_cpu", "full_cache_matched")},
    "`variables`": {"S reset": ("loop_variables_cpu", "reset"), "Hebbian": ("rule_variables_cpu", "hebbian"), "full cache": ("memory_variables_cpu", "full_cache_matched")},
    "`group`": {"own chain": ("task_group_cpu_thought", "once_matched")}, "`gsm`": {"own chain": ("task_gsm_cpu_thought", "once_matched")},
    "Rule 110": {"own chain": ("task_rule110_cpu_thought", "once_matched")}, "Rule 110, N = 8": {"own chain": ("task_rule110_cpu_thought", "once_matched")},
}


def short(score):
    return f"{score:.3f}".removeprefix("0")


def hardest(study, arm, axis, value, key="exact_accuracy"):
    """The cell: one figure a seed, each with the N of training."""
    rows = [(outcome["config"]["model"]["sleep"]["passes"], row) for outcome in outcomes(study, arm) for row in outcome["rows"]]
    return ", ".join(short(row[key]) for passes, row in rows if (row["passes"], row["axis"], row["value"]) == (passes, axis, value))


def guesses(study, arm, axis, value):
    found = next(row["baselines"] for row in outcomes(study, arm)[0]["rows"] if (row["axis"], row["value"]) == (axis, value))
    return short(found["chance"]["exact"]), short(max(score["exact"] for score in found.values()))


def first_table(path, heading):
    """Header → cell, for each row of the first table whose first header is `heading`; spaces made plain, links taken off."""
    lines = path.read_text().replace("\u00a0", " ").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([re.sub(r"\[(.*)\]\(.*\)", r"\1", cell).strip(" *") for cell in line.strip("|").split(" | ")])
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


@pytest.mark.parametrize("path, heading, asleep, once, rows", [
    (README, "hardest question", "N = 4 asleep", "N = 1, same compute", 5),
    (MEASURED, "task", "N = 4 asleep", "N = 1, same compute", 10),
    (SUMMARY, "task", "N = 4 asleep", "one pass", 10),
], ids=["README", "experiments", "ablations"])
def test_the_tables_figures_are_those_of_the_outcomes(path, heading, asleep, once, rows):
    table = first_table(path, heading)
    assert len(table) == rows
    for row in table:
        name = max((known for known in ROWS if row[heading].startswith(known)), key=len)
        study, arm, control, axis, value = ROWS[name]
        assert (row[asleep], row[once]) == (hardest(study, arm, axis, value), hardest(study, control, axis, value)), name
        chance, best = guesses(study, arm, axis, value)
        assert f"{chance}, {best}" in row.values() or row.get("guess") == best, name
        if "FILE" in row:
            assert row["FILE"].strip("`") == study and (ROOT / f"experiments/{study}.py").is_file()
        if "data" in row:
            steps = [outcomes(study, which)[0]["steps"] for which in (control, arm)]
            assert row["data"] == f"×{steps[0] / steps[1]:.1f}"
        if path == SUMMARY:
            for column in ("S reset", "Hebbian", "full cache", "own chain"):
                key = "own_chain_exact_accuracy" if column == "own chain" else "exact_accuracy"
                found = FURTHER.get(name, {}).get(column)
                assert row[column] == (hardest(*found, axis, value, key) if found else "–"), (name, column)


# Pages

@page
def test_no_paragraph_is_over_five_lines(path):
    """Of about 120 letters, as wide as a page of the repository shows them."""
    plain = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    paragraph = ""
    for line in [*plain.splitlines(), ""]:
        line = line.removeprefix(">").strip()
        if line and not line.startswith(("|", "#", "<", "- ")):
            paragraph += f" {line}"
            continue
        shown = re.sub(r"\]\([^)]*\)", "]", paragraph)
        assert len(textwrap.wrap(shown, 120)) <= 5, paragraph
        paragraph = line if line.startswith("- ") else ""


def anchors(path):
    """The headings of a page as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page
def test_links_lead_somewhere(path):
    text = path.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", [MEASURED, SUMMARY], ids=["experiments", "ablations"])
def test_a_page_of_findings_begins_with_what_holds(path):
    box = [line.removeprefix("> ") for line in path.read_text().splitlines()[2:] if line.startswith(">")]
    words = [re.match(r"\*\*(What [\w ]+)\*\*", line)[1] for line in box if line.startswith("**What")]
    assert words == ["What holds", "What was withdrawn", "What nobody knows yet"] and path.read_text().splitlines()[2].startswith("> **What holds**")


def test_the_first_two_shell_blocks_are_the_main_job_and_the_tests():
    """CI and whoever is new run them as they stand."""
    blocks = re.findall(r"^```(?:bash|sh|shell|console)[ \t]*\n(.*?)^```", README.read_text(), re.M | re.S)
    assert [block.split("&&")[-1].split()[0:3] for block in blocks] == [["python", "-m", "sleepnet.study"], ["pytest", "-n", "2"]]
