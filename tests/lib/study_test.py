"""Studies: what an arm stands for, what is refused, matched compute, resuming, the verdict and the report."""
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_collections
import pytest
from rich.console import Console

from sleepnet import cli
from sleepnet.config import RunConfig, to_dict
from sleepnet.errors import UsageError
from sleepnet.study import ledger, outcomes, pool, report, resolve, spec as specs
from sleepnet.study.claim import verdict
from sleepnet.study.outcomes import Outcome
from sleepnet.study.progress import Standing, remaining, span, standing
from sleepnet.study.worker import curve

# every arm that a study of this library must be able to state
ARMS = [
    dict(name="sleep4", label="four passes", overrides={"model.sleep.passes": 4}),
    dict(name="once", label="one pass", overrides={"model.sleep.passes": 1}),
    dict(name="once_matched", label="one pass, as much compute", overrides={"model.sleep.passes": 1}, match="sleep4"),
    dict(name="deep", label="one pass, four times as deep", overrides={"model.sleep.passes": 1, "model.pattern": "AG" * 4}),
    dict(name="reset", label="four passes, S reset between them", overrides={"model.sleep.reset_fast_weights": True}),
    dict(name="predict", label="four passes where it predicts", overrides={"model.sleep.passes": 1, "model.sleep.predict_passes": 4}),
    dict(name="hebbian", label="four passes, Hebbian", overrides={"model.rule": "gated_hebbian"}),
    dict(name="paper", label="the paper's loop", overrides={"model.sleep.carry": "hidden"}, eval_passes=(1, 2, 8)),
]
CLAIM = {"axis": "k", "value": 4, "arm": "sleep4", "at_least": 0.95, "against": "once_matched", "at_most": 0.60}


def config(arms=ARMS, **values):
    """A small study, as a config file would write it."""
    study = specs.default()
    study.title, study.question = "Does sleep pay?", "Is N = 4 better than N = 1 with the same <compute> & data?"
    study.base.task.name = "depo"
    study.base.task.arguments = ml_collections.ConfigDict({"nodes": 10, "hops": 4, "queries": 10})
    study.base.train.steps = 100
    study.arms = list(arms)
    study.update(values)
    return study


def spec(arms=ARMS, **values):
    return specs.parse(config(arms, **values))


def arm(**values):
    return [ARMS[0], {"name": "other", "label": "another", "overrides": {}, **values}]


# What an arm stands for

def test_every_arm_is_a_run():
    runs = resolve.resolve(spec(claim=CLAIM))
    assert list(runs) == [arm["name"] for arm in ARMS]
    assert all(isinstance(run, RunConfig) for run in runs.values())
    assert runs["deep"].model.pattern == "AGAGAGAG"
    assert runs["reset"].model.sleep.reset_fast_weights and runs["reset"].model.sleep.passes == 4
    assert (runs["predict"].model.sleep.passes, runs["predict"].model.sleep.predict_passes) == (1, 4)
    assert runs["hebbian"].model.rule == "gated_hebbian"
    assert runs["paper"].model.sleep.carry == "hidden"
    assert runs["paper"].eval.passes == (1, 2, 4, 8), "its own N is always tested"
    assert {(run.seed, run.train.batch_size, str(run.task)) for run in runs.values()} == {(0, 64, str(runs["once"].task))}


def test_a_study_survives_json():
    study = spec(claim=CLAIM)
    assert specs.parse(ledger.plain(specs.to_dict(study))) == study


def test_overrides_may_be_nested():
    nested = ml_collections.ConfigDict({"name": "other", "overrides": {"model": {"sleep": {"passes": 2}}}})
    assert spec([ARMS[0], nested]).arm("other").overrides == {"model.sleep.passes": 2}


def test_matched_compute_is_within_a_step():
    runs = resolve.resolve(spec())
    gap = abs(resolve.train_flops(runs["once_matched"]) - resolve.train_flops(runs["sleep4"]))
    assert gap <= resolve.step_flops(runs["once_matched"])
    assert runs["sleep4"].train.steps == 100 < runs["once_matched"].train.steps < 400


def test_matches_follow_each_other():
    chain = [*ARMS[:3], dict(name="again", label="", overrides={"model.pattern": "AGAG", "model.sleep.passes": 1}, match="once_matched")]
    runs = resolve.resolve(spec(chain[::-1]))
    assert resolve.train_flops(runs["again"]) == pytest.approx(resolve.train_flops(runs["sleep4"]), rel=0.02)


def test_random_passes_cost_their_mean():
    run = resolve.resolve(spec())["sleep4"]
    random = dataclasses.replace(run, train=dataclasses.replace(run.train, random_passes=(1, 7)))
    assert resolve.step_flops(random) == pytest.approx(resolve.step_flops(run), rel=1e-9)


@pytest.mark.parametrize("change, message", [
    (dict(arms=[]), "no arms"),
    (dict(arms=[ARMS[0], ARMS[0]]), "two arms are called 'sleep4'"),
    (dict(reference="slep4"), "reference='slep4' is not an arm; did you mean 'sleep4'"),
    (dict(seeds=(0, 0)), "seeds"),
    (dict(arms=arm(name="a/b")), "names a folder"),
    (dict(arms=arm(label_="x")), "unknown key 'label_'; did you mean 'label'"),
    (dict(arms=arm(match="slep4")), "match='slep4' is not an arm; did you mean 'sleep4'"),
    (dict(arms=arm(match="sleep4", overrides={"train.steps": 7})), "drop one"),
    (dict(arms=arm(match="other")), "circle: other → other"),
    (dict(arms=arm(overrides={"model.sleep.pases": 1})), "'model.sleep.pases'; did you mean 'model.sleep.passes'"),
    (dict(arms=arm(overrides={"model.sleep.passes.x": 1})), "unknown config key"),
    (dict(arms=arm(overrides={"model.sleep.passes": 1.5})), "arm 'other': model.sleep.passes=1.5 must be a int"),
    (dict(arms=arm(overrides={"model.sleep.passes": 0})), "arm 'other': sleep.passes=0"),
    (dict(arms=arm(overrides={"task.arguments.nodes": 12})), "same data"),
    (dict(arms=arm(overrides={"task.arguments.nods": 12})), "no argument 'nods'; did you mean 'nodes'"),
    (dict(arms=arm(overrides={"train.batch_size": 32})), "same data"),
    (dict(arms=arm(overrides={"seed": 3})), "config.seeds"),
    (dict(arms=arm(eval_passes=(0,))), "eval_passes"),
    (dict(claim={**CLAIM, "arm": "slep4"}), "claim.arm='slep4'"),
    (dict(claim={"arm": "sleep4", "at_lest": 0.5}), "claim.at_lest; did you mean 'at_least'"),
    (dict(claim={"arm": "sleep4", "at_least": 95}), "share between 0 and 1"),
    (dict(claim={"arm": "sleep4", "at_least": 0.9, "at_most": 0.1}), "needs claim.against"),
    (dict(claim={"arm": "sleep4", "at_least": 0.9, "axis": "k"}), "go together"),
])
def test_refused(change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve.resolve(spec(**{"claim": {}, **change}))


def test_a_batch_size_like_the_bases_is_no_change():
    resolve.resolve(spec(arm(overrides={"train.batch_size": 64})))


# Outcomes, the verdict, the report

def outcome(study, name, seed, at4, passes=None):
    """A synthetic outcome whose exact accuracy is 0.75 over all and `at4` at k = 4."""
    run = resolve.for_seed(resolve.resolve(study)[name], seed)
    baselines = {"chance": {"label": 0.0135, "exact": 0.0004}, "in_context": {"label": 0.399, "exact": 0.111}}
    rows = []
    for n in passes or run.eval.passes or (run.model.sleep.passes,):
        for axis, value, exact in (("all", None, 0.75), ("k", 1, 0.987), ("k", 4, at4), ("n", 10, 0.75)):
            rows.append({
                "passes": n, "split": "test", "axis": axis, "value": value, "answers": 1000, "label_accuracy": exact + 0.01,
                "label_interval": [exact, exact + 0.02], "exact_accuracy": exact, "exact_interval": [exact - 0.017, exact + 0.013],
                "baselines": baselines, "tokens": 10, "flops_sleep": 5, "flops_wake_token": 123456, "flops": 99,
            })
    line = lambda step: {"step": step, "flops": step * 1e9, "tokens": step * 60, "loss": 1.0, "exact_accuracy": at4 * step / 100}
    return Outcome(
        arm=name, seed=seed, config=ledger.plain(to_dict(run)), steps=run.train.steps, flops=resolve.train_flops(run),
        result={"tokens": 7654321, "seconds": 321.0, "parameters": 54321}, rows=rows, curve=[line(50), line(100)],
        versions={"python": "3.11", "jax": "0.10.2"}, device="a test's CPU",
    )


@pytest.mark.parametrize("sleep, control, held, words", [
    ([0.97, 0.96], [0.3, 0.4], True, "held: at k = 4, four passes (sleep4) scores 0.965 (2 seeds, 0.960–0.970)"),
    ([0.99, 0.93], [0.3, 0.4], True, "true of 1 of 2 seeds"),
    ([0.94, 0.94], [0.3, 0.4], False, "NOT held"),
    ([0.97, 0.96], [0.7, 0.6], False, "once_matched) scores 0.650 (2 seeds, 0.600–0.700), where at most 0.600 was claimed"),
    ([0.97], [0.3], True, "0.970 (one seed, 95 % interval 0.953–0.983)"),
    ([0.97], [], None, "not decided: there is no finished run of arm 'once_matched'"),
])
def test_the_verdict_is_plain(sleep, control, held, words):
    study = spec(claim=CLAIM)
    found = [outcome(study, "sleep4", seed, at4) for seed, at4 in enumerate(sleep)]
    found += [outcome(study, "once_matched", seed, at4) for seed, at4 in enumerate(control)]
    result = verdict(study, found)
    assert result.held is held
    assert words in result.sentence


def test_a_study_may_claim_nothing():
    assert verdict(spec(), []).held is None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on three arms of a study, two of them finished, by way of a folder of results."""
    study, folder = spec(ARMS[:4], claim=CLAIM, seeds=(0, 1)), tmp_path_factory.mktemp("study")
    found = [outcome(study, "sleep4", 0, 0.961), outcome(study, "sleep4", 1, 0.973), outcome(study, "once_matched", 0, 0.317)]
    found.append(outcome(study, "once", 0, 0.222, passes=(1, 4)))
    outcomes.collect(found, study, ["python -m sleepnet.study --config=a.py --workdir=b"], folder / "results")
    study, commands = ledger.read_study(folder / "results")
    report.write(folder / "out", study, outcomes.load(folder / "results", study), commands)
    return study, folder


def test_the_report_has_the_figures(written):
    study, folder = written
    matched = resolve.resolve(study)["once_matched"]
    for name in ("report.md", "report.html"):
        text = (folder / "out" / name).read_text()
        for words in (
            "0.967 [0.961–0.973]",  # two seeds: mean, least, greatest
            "0.317 [0.300–0.330]",  # one seed: its interval
            "Wilson", "The claim is held", "reference", "control: training compute of sleep4",
            "baseline: chance", "baseline: in context", "0.111", "0.399", "4 (trained with 1)",
            f"train.steps = {matched.train.steps}", "model.pattern = AGAGAGAG", "7.65e6", "321", "123,456", "54,321",
            "python -m sleepnet.study --config=a.py --workdir=b", "jax 0.10.2", "a test&#x27;s CPU" if "html" in name else "a test's CPU",
            "Not finished: once/1, once_matched/1, deep/0, deep/1", "k = 4",
        ):
            assert words in text, (name, words)
    assert "n = 10" not in (folder / "out" / "report.md").read_text().split("## How")[0], "an axis with one value says nothing"
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * 4 and {"arm", "seed", "exact_accuracy", "baselines"} <= set(lines[0])


def test_the_page_is_one_file(written):
    _, folder = written
    text = (folder / "out" / "report.html").read_text()
    assert "same &lt;compute&gt; &amp; data" in text and "<compute>" not in text
    assert text.count("<picture>") == 3
    assert not re.search(r'(src|href|srcset)="(?!data:)', text) and "http" not in text and "url(" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    for name in ("validation_over_flops", "validation_over_steps", "accuracy_by_k"):
        assert (folder / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_screen_says_it_too(written):
    study, folder = written
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    with console.file:
        report.show(console, study, outcomes.load(folder / "results", study))
    text = console.export_text()
    assert "0.967 [0.961–0.973]" in text and "Mean over seeds [least–most]" in text and "The claim is held" in text


def test_a_report_before_anything_has_finished(tmp_path):
    report.write(tmp_path, spec(claim=CLAIM), [], ["command"])
    assert "not decided" in (tmp_path / "report.md").read_text()


def test_foreign_outcomes_are_refused(written, tmp_path):
    study, folder = written
    other = spec(ARMS[:4], base={"model": {"width": 32}})
    with pytest.raises(UsageError, match="model.width=64, the study says 32"):
        outcomes.load(folder / "results", other)
    (tmp_path / "sleep4-seed0.json").write_text("{}")
    with pytest.raises(UsageError, match="not the outcome of a run"):
        outcomes.load(tmp_path, study)


# The folder and the processes

def make(folder, study, only=()):
    with ledger.lock(folder):
        ledger.claim(folder, study, "command")
        return [run for run in ledger.runs(folder, study, only) if not ledger.finished(run)]


def fake(log, fail=""):
    """A worker that writes down that it ran and leaves an outcome, or fails."""
    script = textwrap.dedent("""
        import json, pathlib, sys
        folder, cores, fail = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        run = json.loads((folder / "run.json").read_text())
        name = f"{run['arm']}/{run['seed']}"
        with open(sys.argv[4], "a") as log:
            print(name, cores, file=log)
        if name == fail:
            sys.exit("the reason why")
        (folder / "outcome.json").write_text(json.dumps({"config": run["config"]}))
    """)
    return lambda run, cores: [sys.executable, "-c", script, str(run.folder), ",".join(map(str, cores)), fail, str(log)]


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
    with ledger.lock(tmp_path), pytest.raises(UsageError, match="another study is running"):
        ledger.lock(tmp_path)


def test_an_outcome_of_another_configuration_is_not_overwritten(tmp_path):
    run = make(tmp_path, spec(ARMS[:1]))[0]
    pool.execute([run], [(0,)], lambda _: None, fake(tmp_path / "log"))
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=9))
    with pytest.raises(UsageError, match="made with seed=0, this study asks for 9"):
        ledger.finished(other)


DRIVER = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import study_test as t
folder = pathlib.Path({folder!r})
script = '''
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "started").write_text(str(os.getpid()))
time.sleep(600)
'''
try:
    t.pool.execute(t.make(folder, t.spec(t.ARMS[:2])), [(0,), (0,)], lambda _: None, lambda run, cores: [sys.executable, "-c", script, str(run.folder)])
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


# The command line

CONFIG = """
from sleepnet.study import spec

def get_config():
    config = spec.default()
    config.title, config.question = "Tiny", "Does it run?"
    config.base.task.arguments = dict(nodes=6, hops=2, queries=3, names=12, name_tokens=(1, 1))
    config.base.model.update(width=16, mlp_width=16, head_dim=8)
    config.base.train.update(steps=12, batch_size=8, log_every=2, save_every=4, eval_every=4, eval_examples=16)
    config.base.eval.update(examples=32, batch_size=16)
    config.arms = [
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
row = {"passes": 2 if run["arm"] == "sleep2" else 1, "axis": "k", "value": 2, "exact_accuracy": 0.5, "exact_interval": [0.4, 0.6]}
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
def test_from_end_to_end(run_study, tmp_path):
    here = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'runs'}"]
    code, text = run_study(*here, "--seeds=0,1")
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


# Progress

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
