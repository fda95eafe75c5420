"""What a report says of phases and named tests."""
import json

import pytest
from rich.console import Console

from sleepnet.study import chains, ledger, outcomes, overview, report, resolve
from sleepnet.study.report import phases
from studies import ARMS, CHAINS, FIRST, TEACH, TESTS, outcome, spec

ARMS_OF_BOTH_KINDS = [*CHAINS, dict(name="alone", label="never taught", overrides={}, match="detour")]
DRAWN = """first (50 steps, 5.95e11 FLOPs)
└── teach (40 steps, 4.76e11 FLOPs) → taught
    ├── last (30 steps, 3.57e11 FLOPs) → more
    ├── last (30 steps, 3.57e11 FLOPs) → slow
    └── detour (30 steps, 3.57e11 FLOPs)
        └── last (30 steps, 3.57e11 FLOPs) → detour
one run (150 steps, 1.79e12 FLOPs) → alone"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on chains of which one phase and three arms are finished, by way of a folder of results."""
    study, folder = spec(ARMS_OF_BOTH_KINDS, tests=TESTS, seeds=(0, 1)), tmp_path_factory.mktemp("study")
    found = [outcome(study, "taught", seed, 0.5) for seed in (0, 1)] + [outcome(study, "more", 0, 0.6), outcome(study, "alone", 0, 0.4)]
    found.append(outcome(study, "taught", 0, 0.2, upto=1))
    found[0].tests["far"]["rows"][0].update(exact_accuracy=0.125)
    outcomes.collect(found, study, ["command"], folder / "results")
    study, commands = ledger.read_study(folder / "results")
    report.write(folder / "out", study, outcomes.load(folder / "results", study), commands, outcomes.load_phases(folder / "results", study))
    return study, folder


def rows_of(text, title):
    """First cell → the others, of a Markdown table."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    return {cells[0]: cells[1:] for line in lines for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]}


def test_the_chains_are_drawn_with_what_is_shared_once(written):
    _, folder = written
    assert phases.drawing(spec(ARMS_OF_BOTH_KINDS, tests=TESTS)) == DRAWN and phases.drawing(spec(ARMS)) == ""
    assert f"```text\n{DRAWN}\n```" in (folder / "out/report.md").read_text() and f"<pre>{DRAWN}</pre>" in (folder / "out/report.html").read_text()
    begun = phases.drawing(spec([dict(name="a", label="", phases=[{**FIRST, "start": "depo8_sleep4"}, TEACH])]))
    assert begun.startswith("first from depo8_sleep4 (50 steps")


def test_a_table_by_phase(written):
    study, folder = written
    rows = rows_of((folder / "out/report.md").read_text(), "Phases")
    home = chains.home(resolve.chains(study)["taught"][:1])
    assert list(rows)[0] == "phase" and len(rows) == 2 + 7
    tokens = 50 * 64 * 120
    assert rows[f"first ({home})"] == ["taught, more, slow, detour", "50", f"{tokens:,}", "5.95e11", "5.95e11", "321", "1", "0.750 [0.733–0.763]"]
    assert rows["teach → taught"][3:] == ["4.76e11", "1.07e12", "321", "2", "0.750 [0.750–0.750]"]
    assert rows["last → more"][3:5] == ["3.57e11", "1.43e12"] and rows["last → slow"][5:] == ["–", "0", "–"]
    assert rows["last → detour"][4] == rows["alone"][4] == "1.79e12", "matched"


def test_every_phase_on_every_test(written):
    _, folder = written
    text = (folder / "out/report.md").read_text()
    rows = rows_of(text, "Exact accuracy on the test sets")
    assert rows["phase"] == ["seeds", "far", "near"] and "far: hops = 8; near: hops = 1." in text
    assert rows["teach → taught"] == ["2", "0.438 [0.125–0.750]", "0.750 [0.750–0.750]"]
    assert rows["alone"] == ["1", "0.750 [0.733–0.763]", "0.750 [0.733–0.763]"] and rows["last → slow"] == ["0", "–", "–"]
    lines = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    assert {(line["arm"].split("-")[-1], line["test"]) for line in lines if "test" in line} == {(arm, test) for arm in ("first", "taught", "more", "alone") for test in ("far", "near")}


def test_an_arm_costs_what_its_chain_does(written):
    _, folder = written
    rows = rows_of((folder / "out/report.md").read_text(), "Cost of one run")
    more = next(cells for name, cells in rows.items() if "(more" in name)
    assert more[:4] == ["120", "7.66e6", "1.43e12", "1.333"] and next(cells for name, cells in rows.items() if "(alone" in name)[2] == "1.79e12"
    table = {row[1]: row for row in overview.overview(folder).rows}
    assert table["more"][4:6] == ("7.66e6", "1.43e12")
    changes = rows_of((folder / "out/report.md").read_text(), "What each arm changes")
    assert next(cells for name, cells in changes.items() if "(slow)" in name) == [
        "first: train.steps = 50, task.arguments.hops = 2; teach: train.steps = 40; last: train.steps = 30, optim.adam_rate = 0.0001"
    ]


def test_the_screen_says_it_too(written):
    study, folder = written
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    with console.file:
        report.show(console, study, outcomes.load(folder / "results", study), outcomes.load_phases(folder / "results", study))
    text = console.export_text()
    assert DRAWN in text and "FLOPs with the past" in text and "0.438 [0.125–0.750]" in text


def test_a_task_with_a_chain_of_thought_has_a_screen_too():
    study = spec(ARMS[:1], tests=TESTS[:1])
    found = outcome(study, "sleep4", 0, 0.9)
    for row in (*found.rows, *found.tests["far"]["rows"]):
        row |= {"own_chain_exact_accuracy": 0.25, "own_chain_exact_interval": [0.2, 0.3]}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    with console.file:
        report.show(console, study, [found])
    text = " ".join(console.export_text().split())
    assert "on the test sets, after the model's own chain of thought" in text and "0.250 [0.200–0.300]" in text


def test_arms_that_end_on_other_data_are_not_measured_against_one_another():
    """Phases of names of their own may see what they like; the report sets no such figures side by side."""
    ends = {"name": "elsewhere", "overrides": {"train.steps": 30, "task.arguments.hops": 3}}
    study = spec([CHAINS[0], dict(name="other", label="", phases=[FIRST, ends])])
    found = [outcome(study, "taught", 0, 0.5), outcome(study, "other", 0, 0.9)]
    text = report.markdown(study, found, [], [])
    assert "other: graded on the task of the last phase, which is not the base's" in text
    assert next(cells for name, cells in rows_of(text, "Exact accuracy on the test split").items() if "(other)" in name)[-1] == "–"
    from sleepnet.study.contrasts import contrast

    assert contrast(found[1], found[0]) is None and contrast(found[0], found[0]).gap == 0
