"""Factors over a base: what has been run is found by its configuration, what is missing is said, and nothing runs twice."""
import dataclasses
import importlib
import json
import sys

import pytest

from sleepnet import cli
from sleepnet.config import from_dict, RunConfig
from sleepnet.eval import paired
from sleepnet.study import ablations, outcomes, pool, report, resolve, spec as specs
from studies import outcome

BASE = '''
from sleepnet.study.pair import pair

def get_config():
    return pair("depo", title="Tiny", question="?", steps=100, batch_size=8, arguments=dict(nodes=10, hops=4, queries=10))
'''
FACTOR = '''
from sleepnet.study import factor

BASES = ("tiny",)
ARMS = factor.module(__file__, "tiny")["get_config"]().arms

def get_config(base="tiny"):
    arms = [*ARMS, dict(name="again", label="S reset", overrides={"model.sleep.passes": 4, "model.sleep.reset_fast_weights": True})]
    return factor.over(__file__, base, BASES, arms, title="A factor", question="Which?", seeds=(0, 1))
'''


@pytest.fixture
def house(tmp_path):
    """experiments/ with a base, a factor, and results of a study with other names: seeds 0 and 2 of N = 4, seed 0 of the reset."""
    folder, tree = tmp_path / "experiments" / "ablations", tmp_path / "experiments" / "results"
    folder.mkdir(parents=True)
    (tree / "other").mkdir(parents=True)
    (folder.parent / "tiny.py").write_text(BASE)
    (folder / "how.py").write_text(FACTOR)
    (folder / "SUMMARY.md").write_text("What it says by hand.\n")
    (study,) = ablations.suite(folder, tree)
    for arm, seed, at4, called in (("sleep4", 0, 0.9, "four"), ("sleep4", 2, 0.8, "four"), ("again", 0, 0.3, "wiped")):
        made = dataclasses.replace(outcome(study.spec, arm, seed, at4, passes=(1, 4) if seed == 2 else None), arm=called)
        (tree / "other" / f"{called}-seed{seed}.json").write_text(json.dumps(dataclasses.asdict(made)))
    return folder, tree


def call(monkeypatch, *arguments):
    import sleepnet.study.__main__ as module

    module = importlib.reload(module)  # fresh flags
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.run(module.main, module.FLAGS)
    return end.value.code


def test_runs_are_known_by_their_configuration(house):
    (study,) = ablations.suite(*house)
    assert [(one.arm, one.seed) for one in study.found] == [("sleep4", 0), ("sleep4", 2), ("again", 0)]
    assert study.name == "how_tiny" and study.seeds("sleep4") == [0, 1, 2] and study.seeds("once_matched") == [0, 1]
    path = house[1] / "other" / "wiped-seed0.json"
    values = json.loads(path.read_text())
    values["config"]["optim"]["learning_rate"] *= 2
    path.write_text(json.dumps(values))
    (study,) = ablations.suite(*house)
    assert [(one.arm, one.seed) for one in study.found] == [("sleep4", 0), ("sleep4", 2)]


def test_the_report_takes_what_is_there_and_says_what_is_missing(house, monkeypatch, capsys):
    folder, tree = house
    assert call(monkeypatch, f"--ablations={folder}") == 0
    text, runs = (folder / "REPORT.md").read_text(), (folder / "README.md").read_text()
    assert "What it says by hand." in text and "Not finished: sleep4/1, once_matched/0, once_matched/1, again/1." in text
    assert "`again` is behind `sleep4` at k = 4 in the one seed run (0), which says nothing of others; by 0.600" in text
    assert "7 runs, 3 done, 4 open" in runs
    line = next(line for line in runs.splitlines() if "| again | 1 |" in line)
    assert f"| open | `python -m sleepnet.study --config={folder}/how.py:tiny --only=again --seeds=1 --results={tree}/how_tiny --reuse={tree}`" in line
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("how_tiny_1.png", "how_tiny_2.png", "how_tiny_3.png"))
    assert "trained with one N (down), graded with another (across)" in text  # seed 2 was graded with N = 1 too
    rows = {line.split("(`")[1].split("`")[0]: line for line in text.splitlines() if line.startswith("| ") and "(`" in line}
    assert "| reference |" in rows["sleep4"] and "| FLOPs |" in rows["once_matched"] and "| steps and FLOPs |" in rows["again"]


def test_nothing_is_run_twice_nor_kept_twice(house, monkeypatch, tmp_path, capsys):
    folder, tree = house
    ran = []
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    monkeypatch.setattr(pool, "execute", lambda runs, *_: ran.extend(run.name for run in runs) or [])
    own = tree / "how_tiny"
    call(monkeypatch, f"--config={folder / 'how.py'}", f"--workdir={tmp_path / 'runs'}", f"--results={own}", f"--reuse={tree}")
    assert sorted(ran) == ["again/1", "once_matched/0", "once_matched/1", "sleep4/1"]
    assert [path.name for path in own.iterdir()] == ["study.json"]
    spec = specs.parse(json.loads((own / "study.json").read_text())["spec"])
    assert {one.arm for one in outcomes.load(tmp_path / "runs", spec)} == {"sleep4", "again"}


def test_an_unknown_base_and_an_empty_folder_are_refused(house, monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, f"--config={house[0] / 'how.py'}:toy", f"--workdir={tmp_path / 'runs'}") == 2
    assert "how.py:toy: there is tiny" in capsys.readouterr().err
    assert call(monkeypatch, f"--ablations={tmp_path}") == 2
    assert "no config file there says BASES" in capsys.readouterr().err


def test_outcomes_without_answers_are_read_as_before(house):
    """Those of earlier runs have no right_answers; with one that has, the contrast is unpaired."""
    (study,) = ablations.suite(*house)
    first, _, reset = study.found
    rows = [{**row, "right_answers": paired.pack([True] * row["answers"])} for row in first.rows]
    from sleepnet.study.contrasts import contrast

    assert contrast(reset, dataclasses.replace(first, rows=rows), "k", 4).p is None
    assert report.markdown(study.spec, study.found, [], [])
    assert from_dict(RunConfig, first.config) == resolve.for_seed(study.runs["sleep4"], 0)
