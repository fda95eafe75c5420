"""The study's folder and its processes: order, failures, resuming, progress."""
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from rich.console import Console

from sleepnet import lock
from sleepnet.errors import UsageError
from sleepnet.study import ledger, pool, worker
from sleepnet.study.progress import Board, Standing, remaining, span, standing
from sleepnet.study.worker import curve
from sleepnet.train import compiled
from sleepnet.train.preempt import Preempted
from studies import ARMS, fake, make, spec


def test_the_longest_runs_first_and_nothing_twice(tmp_path):
    study, log = spec(ARMS[:4], seeds=(0, 1)), tmp_path / "log"
    runs = make(tmp_path / "study", study)
    assert [run.arm for run in runs][-2:] == ["once", "once"] and runs[0].flops >= runs[-1].flops
    states = []
    assert pool.execute(runs, [(0,)], lambda state: states.append(dict(state)), fake(log)) == []
    assert [line.split() for line in log.read_text().splitlines()] == [[run.name, "0"] for run in runs]
    assert set(states[-1].values()) == {"finished"}
    assert make(tmp_path / "study", study) == []
    # the matrix grows by a seed and by an arm
    assert [run.name for run in make(tmp_path / "study", spec(ARMS[:5], seeds=(2,)), only=["sleep4"])] == ["sleep4/2"]
    assert ledger.read_study(tmp_path / "study")[0].seeds == (0, 1, 2)


def test_a_failure_is_shown_and_the_others_go_on(tmp_path):
    runs = make(tmp_path / "study", spec(ARMS[:2]))
    failures = pool.execute(runs, [(0,), (0,)], lambda _: None, fake(tmp_path / "log", fail="sleep4/0"))
    assert [(failure.run.name, failure.status, failure.tail) for failure in failures] == [("sleep4/0", 1, "the reason why")]
    assert [run.name for run in make(tmp_path / "study", spec(ARMS[:2]))] == ["sleep4/0"]


@pytest.mark.parametrize("change, message", [
    (dict(base={"model": {"width": 32}}), "base.model.width is 64 there and 32 here"),
    (dict(arms=[ARMS[0]]), "arm 'once' is there and not here"),
    (dict(arms=[ARMS[0], {**ARMS[1], "overrides": {"model.sleep.passes": 2}}]), "arm 'once' has overrides="),
])
def test_another_study_keeps_its_folder(tmp_path, change, message):
    make(tmp_path, spec(ARMS[:2]))
    before = (tmp_path / "study.json").read_text()
    with pytest.raises(UsageError, match=message):
        make(tmp_path, spec(**{"arms": ARMS[:2], **change}))
    assert (tmp_path / "study.json").read_text() == before
    make(tmp_path, spec(ARMS[:2], title="Other words", seeds=(5,)))


def test_folders_that_are_not_free(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no study"):
        make(tmp_path, spec())
    with lock.held(tmp_path, "a study"), pytest.raises(UsageError, match=f"is in use by a study, pid {os.getpid()} on "):
        make(tmp_path, spec())


def test_an_outcome_of_another_configuration_is_not_overwritten(tmp_path):
    run = make(tmp_path, spec(ARMS[:1]))[0]
    pool.execute([run], [(0,)], lambda _: None, fake(tmp_path / "log"))
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=9))
    with pytest.raises(UsageError, match="made with seed=0, this study asks for 9"):
        ledger.finished(other)


DRIVER = """
import sys, pathlib
from sleepnet.study import pool
sys.path.insert(0, {tests!r})
import studies as t
folder = pathlib.Path({folder!r})
script = '''
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "started").write_text(str(os.getpid()))
time.sleep(600)
'''
try:
    pool.execute(t.make(folder, t.spec(t.ARMS[:2])), [(0,), (0,)], lambda _: None, lambda run, cores: [sys.executable, "-c", script, str(run.folder)])
except KeyboardInterrupt:
    print("ended")
"""


def test_sigterm_ends_the_children_and_a_rerun_finishes(tmp_path):
    folder = tmp_path / "study"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(tests=str(Path(__file__).parent), folder=str(folder))], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while sum(bool(path.read_text()) for path in folder.glob("*/seed0/started")) < 2:
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(signal.SIGTERM)
    assert driver.communicate(timeout=30)[0] == "ended\n"
    for started in folder.glob("*/seed0/started"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)
    runs = make(folder, spec(ARMS[:2]))
    assert len(runs) == 2
    assert pool.execute(runs, [(0,)], lambda _: None, fake(tmp_path / "log")) == []
    assert make(folder, spec(ARMS[:2])) == []


def test_a_worker_told_to_stop_while_it_trains_ends_well(tmp_path, monkeypatch, capsys):
    def stopped(folder):
        raise Preempted(3, 9)

    monkeypatch.setattr(worker, "work", stopped)
    for name in ("pin", "end_with_parent"):  # of a process of its own
        monkeypatch.setattr(worker, name, lambda *_: None)
    worker.main([f"--folder={tmp_path}"])
    assert capsys.readouterr().out == "preempted at step 3 of 9; the same command goes on from there\n"


def test_the_runs_of_a_study_share_what_they_compile(tmp_path, monkeypatch):
    seen = []

    def train(config, workdir, quiet):
        with compiled.cached(config.compile_cache, workdir):
            seen.append(jax.config.jax_compilation_cache_dir)
        raise Preempted(1, 2)

    monkeypatch.setattr("sleepnet.train.loop.train", train)
    before = jax.config.jax_compilation_cache_dir
    for run in make(tmp_path / "study", spec(ARMS[:1], seeds=(0, 1))):
        ledger.prepare(run)
        with pytest.raises(Preempted):
            worker.work(run.folder)
    assert seen == [str(tmp_path / "study/compiled")] * 2 and jax.config.jax_compilation_cache_dir == before


def test_slots_never_depend_on_jobs(monkeypatch):
    monkeypatch.setattr(pool, "_accelerated", lambda: False)
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    assert pool.slots(0, 1) == [(0,), (1,), (2,), (3,), (4,)]
    assert pool.slots(0, 2) == [(0, 1), (2, 3)]
    assert pool.slots(3, 2) == [(0, 1), (2, 3), (0, 1)]
    assert {len(cores) for jobs in (1, 2, 9) for cores in pool.slots(jobs, 1)} == {1}
    with pytest.raises(UsageError, match="may use 5 cores"):
        pool.slots(0, 6)
    monkeypatch.setattr(pool, "_accelerated", lambda: True)
    assert pool.slots(0, 1) == [()]


def test_cores_are_chosen_before_jax():
    code = (
        "import os, sys; from sleepnet.study import worker; core = sorted(os.sched_getaffinity(0))[0]; worker.pin([core]); "
        "assert 'jax' not in sys.modules; print(os.sched_getaffinity(0) == {core}, os.environ['XLA_FLAGS'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] == "True" and out[-1] == "--xla_cpu_multi_thread_eigen=false"


def metrics(run, lines):
    run.metrics.parent.mkdir(parents=True)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')


def test_progress_is_read_from_the_metrics(tmp_path):
    runs = make(tmp_path, spec(ARMS[:2]))
    train = lambda step: {"step": step, "split": "train", "loss": 2.0 - step / 100, "exact_accuracy": 0.1, "tokens": step * 100, "flops": step, "seconds": step * 2.0}
    metrics(runs[0], [train(10), {**train(10), "split": "validation", "exact_accuracy": 0.42}, train(20)])
    now = standing(runs[0])
    assert now == Standing(step=20, loss=1.8, exact=0.42, tokens_per_second=50.0, steps_per_second=0.5)
    assert standing(runs[1]) == Standing()
    states = {runs[0].name: "running", runs[1].name: "waiting"}
    standings = {runs[0].name: now, runs[1].name: Standing()}
    rest = 80 / 0.5
    share = runs[1].flops / runs[0].flops
    assert remaining(runs, states, standings, 1) == pytest.approx(rest + 200 * share)
    assert remaining(runs, states, standings, 2) == pytest.approx(max(rest, 200 * share))
    assert [span(s) for s in (None, 12, 600, 7500)] == ["–", "12 s", "10 min", "2 h 05 min"]


def test_a_repeated_step_counts_once(tmp_path):
    lines = [{"step": step, "split": "validation", "exact_accuracy": value, "loss": 1, "flops": 1, "tokens": 1} for step, value in ((5, 0.1), (10, 0.2), (5, 0.3))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(line["step"], line["exact_accuracy"]) for line in curve(tmp_path / "metrics.jsonl")] == [(5, 0.3), (10, 0.2)]


def test_what_a_method_tells_is_on_the_board_and_in_the_curve(tmp_path):
    heart = spec([dict(name="ot", label="", overrides={"method.name": "memft"}), ARMS[0]], reference="ot")
    runs = make(tmp_path, heart)
    train = lambda step, share: {"step": step, "split": "train", "loss": 1.0, "active_share": share, "gradient_norm": 3.0, "tokens": step * 100, "flops": step, "seconds": step * 2.0}
    seen = lambda step: {"step": step, "split": "validation", "exact_accuracy": 0.5, "flops": step, "tokens": step, "seconds": step * 2.0}
    for run in runs:
        metrics(run, [train(10, 0.9), train(20, 0.25), seen(20), seen(30), train(40, 0.125)])
    told = {run.arm: standing(run).told for run in runs}
    assert told == {"ot": "active_share 0.125", "sleep4": ""}
    path = runs[0].metrics
    assert [(line["step"], line["active_share"]) for line in curve(path, ("active_share",))] == [(20, 0.25), (30, 0.25)]
    assert all(line.keys() == {"step", "flops", "tokens", "loss", "exact_accuracy"} for line in curve(path))
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
        with Board(console, runs, 0, 2) as board:
            board({run.name: "running" for run in runs})
        assert "active_share 0.125" in console.file.getvalue()
