"""`python -m sleepnet.study`: runs, results that travel, one-line refusals."""
import importlib
import sys

import pytest

from sleepnet import cli
from sleepnet.study import ledger, outcomes, pool
from studies import TINY

CONFIG = TINY + """    config.arms = [
        dict(name="sleep2", label="two passes", overrides={"model.sleep.passes": 2}, eval_passes=(1, 2)),
        dict(name="once", label="one pass", overrides={"model.sleep.passes": 1}, match="sleep2"),
    ]
    config.claim = dict(arm="sleep2", at_least=0.0, axis="k", value=2, against="once", at_most=1.0)
    return config
"""
LEAVE_OUTCOME = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
run = json.loads((folder / "run.json").read_text())
row = {"passes": 2 if run["arm"] == "sleep2" else 1, "axis": "k", "value": 2, "answers": 10, "exact_accuracy": 0.5, "exact_interval": [0.4, 0.6]}
row |= {"label_accuracy": 0.5, "label_interval": [0.4, 0.6], "baselines": {}}
rest = {"steps": 12, "result": {}, "rows": [row, row | {"axis": "all", "value": None}], "curve": [], "versions": {}, "device": "none"}
(folder / "outcome.json").write_text(json.dumps(run | rest))
"""


@pytest.fixture
def run_study(monkeypatch, tmp_path, capsys):
    """`python -m sleepnet.study` in this process: (exit code, what it printed)."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        import sleepnet.study.__main__ as module

        module = importlib.reload(module)  # fresh flags
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.run(module.main, module.FLAGS)
        captured = capsys.readouterr()
        return end.value.code, captured.out + captured.err

    return call


def test_the_command_line(run_study, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    monkeypatch.setattr(pool, "worker_command", lambda run, cores: [sys.executable, "-c", LEAVE_OUTCOME, str(run.folder)])
    here = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'runs'}"]
    code, text = run_study(*here, "--seeds=3,4", "--jobs=2", "--only=sleep2")
    assert code == 0 and "2 of 2 runs finished" in text and "not decided" in text
    code, text = run_study(*here, f"--results={tmp_path / 'kept'}", "--config.claim.at_least=0.4")
    assert code == 0 and "The claim is held" in text, text
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["once-seed0.json", "sleep2-seed0.json", "sleep2-seed3.json", "sleep2-seed4.json", "study.json"]
    monkeypatch.setattr(pool, "worker_command", None)
    assert run_study(*here)[0] == 0, "nothing is left to run"
    code, text = run_study("--report_only", f"--results={tmp_path / 'kept'}", f"--out={tmp_path / 'out'}")
    assert code == 0 and "The claim is held" in text
    made = (tmp_path / "out" / "report.md").read_text()
    assert "python -m sleepnet.study --config=tiny.py --workdir=runs --seeds=3,4 --jobs=2 --only=sleep2" in made
    assert str(tmp_path) not in made, "a report names no machine's folders"


def test_results_are_kept_as_soon_as_a_run_has_finished(run_study, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    others = f"\nfound = list(pathlib.Path({str(kept)!r}).glob('*-seed0.json'))\n(folder / 'seen.txt').write_text(str(len(found)))\n"
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    monkeypatch.setattr(pool, "worker_command", lambda run, cores: [sys.executable, "-c", LEAVE_OUTCOME + others, str(run.folder)])
    assert run_study(f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'runs'}", f"--results={kept}", "--jobs=1")[0] == 0
    assert sorted(path.read_text() for path in (tmp_path / "runs").rglob("seen.txt")) == ["0", "1"], "the second run finds what the first has left"


def test_results_travel_to_another_workdir(run_study, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    worker = lambda run, cores: [sys.executable, "-c", LEAVE_OUTCOME, str(run.folder)]
    monkeypatch.setattr(pool, "worker_command", worker)
    here = [f"--config={tmp_path / 'tiny.py'}", f"--results={tmp_path / 'kept'}"]
    assert run_study(*here, f"--workdir={tmp_path / 'one'}", "--seeds=3")[0] == 0
    started = []
    monkeypatch.setattr(pool, "worker_command", lambda run, cores: started.append(run.name) or worker(run, cores))
    code, text = run_study(*here, f"--workdir={tmp_path / 'two'}", "--seeds=3,4")
    assert code == 0 and f"2 finished runs taken from {tmp_path / 'kept'}" in text and sorted(started) == ["once/4", "sleep2/4"]
    kept, commands = ledger.read_study(tmp_path / "kept")
    assert kept.seeds == (3, 4) and len(commands) == 2 and len(outcomes.load(tmp_path / "kept", kept)) == 4
    assert ledger.read_study(tmp_path / "two")[1] == commands, "the report says how each of its runs was made"
    # those of another study are neither taken nor overwritten
    before = {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    code, text = run_study(*here, f"--workdir={tmp_path / 'three'}", "--config.base.train.steps=13")
    assert code == 2 and "base.train.steps is 12 there and 13 here; give another --results" in text and text.count("\n") == 1
    (tmp_path / "kept" / "sleep2-seed3.json").write_bytes(before[tmp_path / "kept" / "sleep2-seed3.json"].replace(b'"width": 16', b'"width": 8', 1))
    code, text = run_study(*here, f"--workdir={tmp_path / 'four'}", "--seeds=3")
    assert code == 2 and "model.width=8, this study asks for 16: give another --results" in text
    assert len(started) == 2 and before.keys() == set((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("arguments, message", [
    ([], "--config=FILE is needed"),
    (["--report_only"], "--report_only needs --workdir=DIR, or --results=FOLDER and --out=DIR"),
    (["--config=TINY", "--workdir=W", "--only=onse"], "did you mean 'once'"),
    (["--config=TINY", "--workdir=W", "--seeds=x"], "--seeds=x must be whole numbers"),
    (["--config=TINY", "--workdir=W", "--config.base.train.step=1"], "did you mean '--config.base.train.steps'"),
    (["--config=TINY", "--workdir=W", "--cores_per_run=1000"], "--cores_per_run=1000, but"),
    (["--workdir=W", "--report_only"], "holds no study"),
])
def test_a_bad_command_is_one_line(run_study, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    code, text = run_study(*(a.replace("TINY", str(tmp_path / "tiny.py")).replace("=W", f"={tmp_path / 'w'}") for a in arguments))
    assert code == 2 and message in text and text.count("\n") == 1


@pytest.mark.slow
def test_from_end_to_end(run_study, tmp_path, monkeypatch):
    here = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'runs'}"]
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # all that is compiled is kept, and so counted
    kept = lambda: {path.name for path in (tmp_path / "runs/compiled").glob("*-cache")}
    assert run_study(*here, "--seeds=0")[0] == 0 and (first := kept())
    code, text = run_study(*here, "--seeds=0,1")
    assert kept() == first, "a second run of the same shapes compiles nothing"
    assert code == 0 and "The claim is held" in text, text
    study, _ = ledger.read_study(tmp_path / "runs")
    found = outcomes.load(tmp_path / "runs", study)
    assert [(run.arm, run.seed) for run in found] == [("sleep2", 0), ("sleep2", 1), ("once", 0), ("once", 1)]
    for run in found:
        assert [line["step"] for line in run.curve][-1] == run.steps and run.result["seconds"] > 0 and run.result["parameters"] > 0
        assert run.result["flops"] == pytest.approx(run.flops)
        assert {row["passes"] for row in run.rows} == ({1, 2} if run.arm == "sleep2" else {1})
    # one run killed half-way, the other's outcome lost: both end where they would have
    (tmp_path / "runs/sleep2/seed0/outcome.json").unlink()
    code, text = run_study(*here, "--seeds=0,1", "--jobs=1")
    again = outcomes.load(tmp_path / "runs", study)
    assert code == 0 and [run.rows for run in again] == [run.rows for run in found]
