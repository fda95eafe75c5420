"""Chains of runs in a study's folder: what is run once, in which order, what a failure takes with it, what is left out, and what another study gives."""
import dataclasses
import json

import jax
import pytest

from sleepnet.errors import UsageError
from sleepnet.study import chains, ledger, outcomes, pool, resolve, reuse, worker
from sleepnet.study.progress import Standing, remaining
from sleepnet.train import compiled
from sleepnet.train.preempt import Preempted
from studies import ARMS, CHAINS, FIRST, LAST, TEACH, TESTS, fake, make, outcome, spec

CHAINS_AND_TESTS = dict(arms=CHAINS, tests=TESTS)


def homes(study):
    """Phase → home, of the arm that goes through all."""
    chain = resolve.chains(study)["detour"]
    return {run.phase: chains.home(chain[:k]) for k, run in enumerate(chain, 1)}


def ran(log):
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def execute(folder, study, log, only=(), slots=2, fail=""):
    return pool.execute(make(folder, study, only), [(0,)] * slots, lambda _: None, fake(log, fail))


@pytest.mark.parametrize("slots", [1, 3])
def test_equal_beginnings_are_trained_once_and_before_what_follows(tmp_path, slots):
    study, log = spec(**CHAINS_AND_TESTS), tmp_path / "log"
    assert execute(tmp_path / "study", study, log, slots=slots) == []
    order, home = ran(log), homes(study)
    # the second phase is where an arm ends: it lies there, and the others start from it
    assert sorted(order) == sorted([f"{home['first']}/0", "taught/0", "more/0", "slow/0", f"{home['detour']}/0", "detour/0"])
    first = order.index(f"{home['first']}/0")
    assert first < order.index("taught/0") < min(order.index("more/0"), order.index("slow/0")) and order.index(f"{home['detour']}/0") < order.index("detour/0")
    if slots == 1:  # else they write side by side
        assert order[2] == f"{home['detour']}/0", "the longest chain first"
    run = json.loads((tmp_path / "study/detour/seed0/run.json").read_text())
    assert run["start"] == str(tmp_path / "study" / home["detour"] / "seed0/train") and run["config"]["start"] == home["detour"]
    assert [(one["arm"], one["steps"], one["config"]["phase"]) for one in run["before"]] == [(home["first"], 50, "first"), ("taught", 40, "teach"), (home["detour"], 30, "detour")]
    assert "before" not in json.loads((tmp_path / "study" / home["first"] / "seed0/run.json").read_text())
    assert make(tmp_path / "study", study) == []


def test_arms_without_phases_have_the_files_of_before(tmp_path):
    (run,) = make(tmp_path, spec(ARMS[:1]))
    ledger.prepare(run)
    assert json.loads((run.folder / "run.json").read_text()).keys() == {"arm", "seed", "flops", "config"} and run.folder == tmp_path / "sleep4/seed0"
    assert not {"before", "tests"} & outcome(spec(ARMS), "sleep4", 0, 0.9).to_dict().keys()


def test_a_failed_phase_fails_what_starts_from_it_with_its_own_words(tmp_path):
    study, states = spec([*CHAINS, ARMS[1]]), []
    home = homes(study)
    failures = pool.execute(make(tmp_path / "study", study), [(0,)], lambda state: states.append(dict(state)), fake(tmp_path / "log", f"{home['detour']}/0"))
    assert [(failure.run.name, failure.cause and failure.cause.name, failure.status, failure.tail) for failure in failures] == [
        (f"{home['detour']}/0", None, 1, "the reason why"), ("detour/0", f"{home['detour']}/0", 1, "the reason why"),
    ]
    assert states[-1] == {**{run: "finished" for run in (f"{home['first']}/0", "taught/0", "more/0", "slow/0", "once/0")}, f"{home['detour']}/0": "failed", "detour/0": "failed"}
    assert [run.name for run in make(tmp_path / "study", study)] == [f"{home['detour']}/0", "detour/0"]
    failures = execute(tmp_path / "other", study, tmp_path / "second", fail=f"{home['first']}/0")
    assert len(failures) == 6 and ran(tmp_path / "second").count("more/0") == 0 and "once/0" in ran(tmp_path / "second")


def test_a_phase_is_run_only_for_what_is_not_finished(tmp_path):
    study, log, home = spec(CHAINS, seeds=(0, 1)), tmp_path / "log", homes(spec(CHAINS))
    names = lambda only=(): {run.name for run in make(tmp_path / "study", study, only)}
    assert names(["more"]) == {f"{home['first']}/{seed}" for seed in (0, 1)} | {f"{arm}/{seed}" for arm in ("taught", "more") for seed in (0, 1)}
    execute(tmp_path / "study", study, log, ["more"])
    assert names(["taught", "more"]) == set() and names(["slow"]) == {"slow/0", "slow/1"}
    # an outcome alone is nothing to start from: the weights are made again, but only where something is to start from them
    for run in ledger.runs(tmp_path / "study", study):
        (run.trained / "result.json").unlink(missing_ok=True)
    assert names(["more"]) == set() and names(["slow"]) == {f"{run}/{seed}" for run in (home["first"], "taught", "slow") for seed in (0, 1)}


def test_a_study_that_grows_trains_nothing_again(tmp_path):
    log, small, home = tmp_path / "log", spec([CHAINS[1]]), homes(spec(CHAINS))
    execute(tmp_path / "study", small, log)
    assert sorted(ran(log)) == sorted([f"{home['first']}/0", f"{home['teach']}/0", "more/0"])
    # an arm that ends where another went through: the phase stays where it is, and what came of it is the arm's
    grown = spec([CHAINS[1], CHAINS[0]])
    assert [run.name for run in make(tmp_path / "study", grown)] == ["taught/0"]
    runs = {run.name: run for run in ledger.runs(tmp_path / "study", grown)}
    assert runs["more/0"].after.name == f"{home['teach']}/0"
    assert [run.name for run in ledger.share(tmp_path / "study", runs.values())] == ["taught/0"] and ledger.waiting(runs.values()) == []
    assert json.loads(runs["taught/0"].outcome.read_text())["arm"] == "taught"
    # and the other way round
    execute(tmp_path / "other", spec(CHAINS[:1]), tmp_path / "second")
    assert [run.name for run in make(tmp_path / "other", spec(CHAINS[:2]))] == ["more/0"]


def test_outcomes_of_phases_travel(tmp_path):
    study, log, home = spec(**CHAINS_AND_TESTS), tmp_path / "log", homes(spec(**CHAINS_AND_TESTS))
    for name, upto in (("more", None), ("detour", None), ("detour", 1)):
        made = outcome(study, name, 0, 0.9, upto=upto)
        outcomes.collect([made], study, ["command"], tmp_path / "kept")
    assert (tmp_path / "kept" / f"{home['first']}-seed0.json").exists() and str(tmp_path) not in (tmp_path / "kept/more-seed0.json").read_text()
    make(tmp_path / "study", study)
    runs = ledger.runs(tmp_path / "study", study)
    assert {run.name for run in ledger.adopt(tmp_path / "kept", runs)} == {f"{home['first']}/0", "more/0", "detour/0"}
    assert {run.name for run in ledger.waiting(runs)} == {f"{home['first']}/0", "taught/0", "slow/0"}, "its weights did not travel"
    assert [run.arm for run in outcomes.load(tmp_path / "kept", study)] == ["more", "detour"] and [run.arm for run in outcomes.load_phases(tmp_path / "kept", study)] == [home["first"]]
    assert outcomes.load(tmp_path / "kept", study)[0] == outcome(study, "more", 0, 0.9), "nothing is lost on the way"
    # by their configuration, in a study of other names; a phase after another past is not the same
    arms = [{**CHAINS[1], "name": "renamed"}, dict(name="fresh", label="", phases=[LAST]), dict(name="after", label="", phases=[TEACH, LAST])]
    other = spec([arms[0], *[dict(arm, overrides={"train.first_example": 0}) for arm in arms[1:]]], tests=TESTS)
    found = reuse.elsewhere(tmp_path / "kept", spec([arms[0]], tests=TESTS))
    assert {one.arm for one in found} == {"renamed", home["first"]}
    with pytest.raises(UsageError, match="arm 'fresh', phase 'last' has train.first_example=0"):
        reuse.elsewhere(tmp_path / "kept", other)
    assert {one.arm for one in reuse.elsewhere(tmp_path / "kept", spec(arms[2:], tests=TESTS))} == set()


def test_an_outcome_s_past_is_part_of_what_it_is(tmp_path):
    study = spec(CHAINS)
    made = outcome(study, "more", 0, 0.9)
    slower = json.loads(json.dumps(made.to_dict()))
    slower["before"][0]["config"]["optim"]["adam_rate"] = 1e-5
    free = json.loads(json.dumps(made.to_dict()))
    free["before"][1]["config"]["eval"]["examples"] = 5
    assert len({reuse.key(values["config"], [run["config"] for run in values["before"]]) for values in (made.to_dict(), slower, free)}) == 2
    make(tmp_path, study)
    run = next(run for run in ledger.runs(tmp_path, study) if run.arm == "more")
    ledger.write_json(run.outcome, free)
    assert ledger.finished(run)
    for values, message in ((slower, "made with phase first: optim.adam_rate=1e-05, this study asks for"), ({**slower, "before": []}, "made with phases=1, this study asks for 3")):
        ledger.write_json(run.outcome, values)
        with pytest.raises(UsageError, match=message):
            ledger.finished(run)


def test_a_test_that_joins_is_graded_and_one_that_changes_is_refused(tmp_path):
    log = tmp_path / "log"
    execute(tmp_path / "study", spec(CHAINS[:1], tests=TESTS[1:]), log)
    more = spec(CHAINS[:1], tests=[*TESTS[1:], dict(name="few", task={"arguments.hops": 3}, examples=9)])
    assert [run.name.split("-")[-1] for run in make(tmp_path / "study", more)] == ["first/0", "taught/0"], "grading alone is left of them: their weights are there"
    known = [outcome(more, "taught", 0, 0.5)]
    runs = ledger.runs(tmp_path / "new", more)
    fewer = {**known[0].tests, "few": {**known[0].tests["few"], "examples": 8}}
    assert all(ledger.take([dataclasses.replace(known[0], tests=tests)], runs) == [] for tests in ({}, fewer))
    assert [run.name for run in ledger.take(known, runs)] == ["taught/0"]
    for tests, message in (
        (TESTS[1:], "test 'few' is there and not here"),
        ([*TESTS[1:], dict(name="few", task={"arguments.hops": 4}, examples=9)], "test 'few' has task={'arguments.hops': 3} there and {'arguments.hops': 4} here"),
    ):
        with pytest.raises(UsageError, match=message):
            make(tmp_path / "study", spec(CHAINS[:1], tests=tests))


@pytest.mark.parametrize("phases, message", [
    ([FIRST, {**TEACH, "overrides": {"train.steps": 41}}], "arm 'taught', phase 'teach', has train.steps=40 there and 41 here; give another --workdir"),
    ([FIRST], "arm 'taught' has the phases first, teach there and first here"),
    ([], "arm 'taught' has the phases first, teach there and (none) here"),
    ([{**FIRST, "start": "depo8_sleep4"}, TEACH], "arm 'taught', phase 'first', has start='' there and 'depo8_sleep4' here"),
])  # fmt: skip
def test_another_chain_is_another_study(tmp_path, phases, message):
    make(tmp_path, spec(CHAINS[:1]))
    with pytest.raises(UsageError) as refused:
        make(tmp_path, spec([{**CHAINS[0], "phases": phases}]))
    assert message in str(refused.value)


def test_a_worker_starts_where_the_one_before_ended_and_shares_what_is_compiled(tmp_path, monkeypatch):
    study, seen = spec(CHAINS), []

    def train(config, workdir, quiet):
        with compiled.cached(config.compile_cache, workdir):
            seen.append((config.start, jax.config.jax_compilation_cache_dir))
        raise Preempted(1, 2)

    monkeypatch.setattr("sleepnet.train.loop.train", train)
    monkeypatch.setattr(worker, "_before", lambda config, folder, chains: [])  # there is nothing to start from
    runs = {run.name: run for run in make(tmp_path / "study", study)}
    home = homes(study)
    for name in (f"{home['first']}/0", f"{home['detour']}/0", "detour/0"):
        ledger.prepare(runs[name])
        with pytest.raises(Preempted):
            worker.work(runs[name].folder)
    starts = ["", str(tmp_path / "study/taught/seed0/train"), str(tmp_path / "study" / home["detour"] / "seed0/train")]
    assert seen == [(start, str(tmp_path / "study/compiled")) for start in starts]


def test_what_a_run_starts_from_is_graded_once_before_its_first_step(tmp_path, monkeypatch):
    run, graded = spec(ARMS[:1]).base, []
    rows = lambda model, task, examples, **rest: graded.append((model, examples)) or [{"axis": "all", "label_loss": 2.0}, {"axis": "k", "value": 1}]
    monkeypatch.setattr("sleepnet.eval.runner.evaluate", rows)
    monkeypatch.setattr("sleepnet.start.model", lambda config, task: config.start)
    assert worker._before(run, tmp_path) == [] == graded
    begun = dataclasses.replace(run, start="somewhere")
    assert worker._before(begun, tmp_path) == worker._before(begun, tmp_path) == [{"axis": "all", "label_loss": 2.0}] and graded == [("somewhere", run.eval.examples)]
    longer = dataclasses.replace(begun, eval=dataclasses.replace(run.eval, examples=7))
    assert worker._before(longer, tmp_path) and graded[1:] == [("somewhere", 7)]

    def gone(config, task):
        raise UsageError("start='somewhere' is neither")

    monkeypatch.setattr("sleepnet.start.model", gone)
    with pytest.raises(UsageError, match="is neither"):
        worker._before(begun, tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/start.json").write_text("{}")
    assert worker._before(begun, tmp_path) == [], "it has begun, and needs its start no more"


def test_what_is_left_counts_a_shared_phase_once_and_waits_for_it(tmp_path):
    runs = {run.name.split("-")[-1]: run for run in make(tmp_path, spec(CHAINS[1:3]))}
    states = {run.name: "waiting" for run in runs.values()} | {runs["first/0"].name: "running"}
    standings = {run.name: Standing() for run in runs.values()} | {runs["first/0"].name: Standing(step=25, steps_per_second=1.0)}
    ordered = list(runs.values())
    assert [run.name.split("-")[-1] for run in ordered] == ["first/0", "teach/0", "more/0", "slow/0"]
    # seconds are steps: all phases have the same model, task and batch
    assert remaining(ordered, states, standings, 1) == pytest.approx(25 + 40 + 30 + 30)
    assert remaining(ordered, states, standings, 2) == pytest.approx(25 + 40 + 30) == remaining(ordered, states, standings, 9)
