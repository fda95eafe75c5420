"""A small study, made-up outcomes of it and made-up workers: what the tests of sleepnet.study share."""
import sys
import textwrap

import ml_collections

from sleepnet import lock
from sleepnet.config import to_dict
from sleepnet.study import ledger, resolve, spec as specs
from sleepnet.study.outcomes import Outcome

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


def make(folder, study, only=()):
    with lock.held(folder, "a study"):
        ledger.claim(folder, study, ["command"])
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
