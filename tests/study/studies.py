"""A small study, made-up outcomes of it and made-up workers: what the tests of sleepnet.study share."""
import sys
import textwrap

import ml_collections

from sleepnet import lock
from sleepnet.config import to_dict
from sleepnet.study import chains, ledger, resolve, spec as specs
from sleepnet.study.outcomes import Outcome

# how the file of a study of seconds begins; what follows gives arms and returns the config
TINY = """
from sleepnet.study import spec

def get_config():
    config = spec.default()
    config.title, config.question = "Tiny", "Does it run?"
    config.base.task.arguments = dict(nodes=6, hops=2, queries=3, names=12, name_tokens=(1, 1))
    config.base.model.update(width=16, mlp_width=16, head_dim=8)
    config.base.train.update(steps=12, batch_size=8, log_every=2, save_every=4, eval_every=4, eval_examples=16)
    config.base.eval.update(examples=32, batch_size=16)
"""
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
# phases of the chains below: what is learned first is easier, what comes last may be learned at another rate
FIRST = dict(name="first", overrides={"train.steps": 50, "task.arguments.hops": 2})
TEACH = dict(name="teach", overrides={"train.steps": 40})
LAST = dict(name="last", overrides={"train.steps": 30})
CHAINS = [
    dict(name="taught", label="taught", phases=[FIRST, TEACH]),
    dict(name="more", label="and some more", phases=[FIRST, TEACH, LAST]),
    dict(name="slow", label="the same, slowly", phases=[FIRST, TEACH, {**LAST, "overrides": {"train.steps": 30, "optim.adam_rate": 1e-4}}]),
    dict(name="detour", label="by way of a fourth", phases=[FIRST, TEACH, {**LAST, "name": "detour"}, LAST]),
]
TESTS = [dict(name="far", task={"arguments.hops": 8}, examples=64), dict(name="near", task={"arguments.hops": 1})]
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


def outcome(study, name, seed, at4, passes=None, upto=None):
    """A synthetic outcome whose exact accuracy is 0.75 over all and `at4` at k = 4; of an arm's first `upto` phases, all if None."""
    chain = resolve.chains(study)[name][:upto]
    run = resolve.for_seed(chain[-1], seed)
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
    before = [
        {"arm": chains.home(chain[:k]), "steps": one.train.steps, "tokens": 1000, "flops": resolve.train_flops(one), "config": ledger.plain(to_dict(one))}
        for k, one in enumerate(chain[:-1], 1)
    ]
    tests = {test: {**told, "rows": [dict(rows[0])]} for test, told in chains.tests(study).items()}
    return Outcome(
        arm=name if upto is None else chains.home(chain), seed=seed, config=ledger.plain(to_dict(run)), steps=run.train.steps, flops=resolve.train_flops(run),
        result={"tokens": 7654321, "seconds": 321.0, "parameters": 54321}, rows=rows, curve=[line(50), line(100)],
        versions={"python": "3.11", "jax": "0.10.2"}, device="a test's CPU", before=before, tests=tests,
    )


def make(folder, study, only=()):
    with lock.held(folder, "a study"):
        ledger.claim(folder, study, ["command"])
        return ledger.waiting(ledger.runs(folder, study, only))


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
        (folder / "train").mkdir(exist_ok=True)
        (folder / "train" / "result.json").write_text("{}")
        told = {key: run[key] for key in ("arm", "seed", "config", "flops", "before", "tests") if key in run}
        rest = {"steps": 1, "result": {}, "rows": [], "curve": [], "versions": {}, "device": ""}
        (folder / "outcome.json").write_text(json.dumps(told | rest))
    """)
    return lambda run, cores: [sys.executable, "-c", script, str(run.folder), ",".join(map(str, cores)), fail, str(log)]
