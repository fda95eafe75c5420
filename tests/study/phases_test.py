"""Arms with phases: what runs they stand for, which are one, what they cost, and what is refused."""
import dataclasses
import re
from pathlib import Path

import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.study import chains, differences, ledger, resolve, spec as specs
from sleepnet.tasks.registry import task_class
from studies import ARMS, CHAINS, FIRST, LAST, TEACH, TESTS, outcome, spec


def arm(*phases, **values):
    return [CHAINS[1], dict(name="other", label="another", phases=list(phases), **values)]


def changed(phase, /, **overrides):
    return {**phase, "overrides": {**phase["overrides"], **{key.replace("__", "."): value for key, value in overrides.items()}}}


def test_a_phase_is_a_run_that_starts_from_the_one_before():
    first, teach, last = resolve.chains(spec(CHAINS, base={"start": "depo8_sleep4"}))["more"]
    assert (first.start, first.phase, first.train.steps, first.task.arguments["hops"]) == ("depo8_sleep4", "first", 50, 2)
    assert (teach.start, teach.phase, teach.train.steps, teach.task.arguments["hops"]) == (chains.home((first,)), "teach", 40, 4)
    assert last.start == chains.home((first, teach)) and re.fullmatch("phases/[0-9a-f]{8}-teach", last.start)
    blank, after = resolve.chains(spec([dict(name="blank", label="", phases=[changed(FIRST, start=""), TEACH])], base={"start": "depo8_sleep4"}))["blank"]
    assert blank.start == "" and after.start == chains.home((blank,)), "from nothing, whatever the base says"


def test_arms_without_phases_are_what_they_were():
    alone, beside = (resolve.chains(spec(arms)) for arms in (ARMS, [*ARMS, *CHAINS]))
    assert all(beside[name] == chain and len(chain) == 1 for name, chain in alone.items())
    assert {(run.start, run.phase, run.train.first_example, run.model.vocab_size) for (run,) in alone.values()} == {("", "", 0, 0)}


def test_every_phase_has_examples_of_its_own_and_those_of_its_name_in_every_arm():
    found = resolve.chains(spec(CHAINS))
    firsts = {name: [(run.phase, run.train.first_example) for run in chain] for name, chain in found.items()}
    assert firsts["more"] == firsts["slow"] == [("first", 0), ("teach", 2**32), ("last", 2 * 2**32)]
    assert firsts["detour"] == [("first", 0), ("teach", 2**32), ("detour", 3 * 2**32), ("last", 2 * 2**32)]
    said = resolve.chains(spec([dict(name="a", label="", phases=[FIRST, changed(TEACH, train__first_example=7)])]))["a"]
    assert [run.train.first_example for run in said] == [0, 7], "unless the arm says otherwise"
    task = tasks.get("depo", nodes=6, hops=2, queries=3)
    assert task.batch(0, "train", 2 * 2**32, 2)["tokens"].tolist() != task.batch(0, "train", 0, 2)["tokens"].tolist()


def test_equal_beginnings_have_one_home():
    found = resolve.chains(spec(CHAINS))
    homes = {name: [chains.home(chain[:k]) for k in range(1, len(chain) + 1)] for name, chain in found.items()}
    assert homes["taught"] == homes["more"][:2] == homes["slow"][:2] == homes["detour"][:2]
    assert homes["more"][2] != homes["slow"][2] and homes["detour"][3] != homes["more"][2], "the same phase after another past is another run"
    # what changes nothing, and the seed, make no other run of it; what does makes another one of all that follows
    run, *_ = chain = found["more"]
    free = dataclasses.replace(run, seed=5, compile_cache="off", eval=dataclasses.replace(run.eval, examples=7), train=dataclasses.replace(run.train, log_every=3))
    assert chains.home((free,)) == chains.home((run,))
    other = dataclasses.replace(run, optim=dataclasses.replace(run.optim, clip=2.0))
    assert all(chains.home((other, *chain[1:k])) != chains.home(chain[:k]) for k in (1, 2, 3))
    assert chains.home((dataclasses.replace(run, start="depo8_sleep4"),)) != chains.home((run,))


def test_a_key_that_is_new_at_its_default_moves_no_folder(monkeypatch):
    chain = resolve.chains(spec(CHAINS))["more"]
    before, to_dict = chains.home(chain), chains.to_dict
    monkeypatch.setattr(chains, "to_dict", lambda config: {**to_dict(config), "nights": 0})
    assert chains.home(chain) == before


def test_one_vocabulary_for_all_that_a_model_reads():
    sizes = {hops: tasks.get("depo", nodes=10, hops=hops, queries=10).vocab_size for hops in (1, 2, 4, 8)}
    assert len(set(sizes.values())) == 4
    vocabularies = lambda study: {run.model.vocab_size for chain in resolve.chains(study).values() for run in chain}
    assert vocabularies(spec(CHAINS)) == {sizes[4]} and vocabularies(spec(CHAINS, tests=TESTS)) == {sizes[8]}
    assert vocabularies(spec([dict(name="a", label="", phases=[TEACH, LAST])])) == {0}, "left open where every task fills it"
    assert vocabularies(spec(ARMS, tests=TESTS)) == {sizes[8]} and vocabularies(spec(ARMS, tests=TESTS[1:])) == {sizes[4]}


def test_match_balances_whole_chains():
    arms = [*CHAINS, dict(name="matched", label="", phases=[FIRST, changed(TEACH, train__random_passes=(1, 2)), LAST], match="detour")]
    arms.append(dict(name="alone", label="", overrides={"model.sleep.passes": 1}, match="detour"))
    found = resolve.chains(spec(arms[::-1], reference="more"))
    price = lambda run: resolve.step_flops(run) * run.train.steps  # counted here, run by run
    whole = {name: sum(map(price, chain)) for name, chain in found.items()}
    for name in ("matched", "alone"):
        assert abs(whole[name] - whole["detour"]) <= resolve.step_flops(found[name][-1]) / 2
    assert [run.train.steps for run in found["matched"]][:2] == [50, 40] and found["matched"][2].train.steps > 60
    assert whole["more"] == pytest.approx(whole["taught"] + price(found["more"][2]))


def test_a_chain_that_has_spent_more_than_its_match_is_refused():
    with pytest.raises(UsageError, match="arm 'other' has spent .* FLOPs before its last phase, 'last', and match='more' .*nothing is left for it; give"):
        resolve.resolve(spec(arm(changed(FIRST, train__steps=900) | {"name": "long"}, LAST, match="more")))


def test_a_study_goes_on_on_another_mesh():
    here, there = spec(CHAINS), spec(CHAINS, base={"mesh": {"data": 2, "fsdp": 2}})
    assert differences.studies(*(ledger.plain(specs.to_dict(study)) for study in (there, here))) == ""
    assert differences.outcome(outcome(here, "taught", 0, 0.9).to_dict(), resolve.chains(there)["taught"], Path("outcome.json"), {"seed"}) is None
    other = spec(CHAINS, base={"optim": {"clip": 2.0}})
    assert "base.optim.clip" in differences.studies(*(ledger.plain(specs.to_dict(study)) for study in (other, here)))


def test_a_study_of_chains_survives_json():
    study = spec(CHAINS, tests=TESTS)
    assert specs.parse(ledger.plain(specs.to_dict(study))) == study


def test_overrides_of_an_arm_hold_for_all_its_phases():
    study = spec([dict(name="a", label="", overrides={"optim": {"clip": 2.0, "adam_rate": 1e-3}}, phases=[FIRST, changed(TEACH, optim__clip=3.0)], eval_passes=(1,))])
    chain = resolve.chains(study)["a"]
    assert [(run.optim.clip, run.optim.adam_rate) for run in chain] == [(2.0, 1e-3), (3.0, 1e-3)]
    assert [run.eval.passes for run in chain] == [(), (1, 4)], "an arm's N are those of its end"


def test_another_task_or_method_has_arguments_of_its_own():
    base = spec(ARMS).base
    assert specs.apply(base, {"task.arguments.width": 12, "task.name": "rule110"}).task.arguments == {"width": 12}
    taught = specs.apply(base, {"method.name": "my_methods:Odd", "method.arguments.often": 3}, {"task.name": "depo", "task.arguments.hops": 3})
    assert taught.task.arguments == {"nodes": 10, "hops": 3, "queries": 10} and taught.method.arguments == {"often": 3}
    assert specs.apply(taught, {"method.name": "answers"}).method.arguments == {}


def test_only_the_order_may_differ(monkeypatch):
    """A task names the arguments that reorder what it is made of; arms may set those, with and without phases."""
    monkeypatch.setattr(task_class("depo"), "reorders", ("names",))
    shuffled = changed(LAST, task__arguments__names=40)
    assert resolve.resolve(spec(arm(FIRST, TEACH, shuffled)))["other"].task.arguments["names"] == 40
    plain = [ARMS[0], dict(name="other", label="", overrides={"task.arguments.names": 40})]
    assert resolve.resolve(spec(plain))["other"].task.arguments["names"] == 40
    monkeypatch.setattr(task_class("depo"), "reorders", ())
    for arms in (arm(FIRST, TEACH, shuffled), plain):
        with pytest.raises(UsageError, match="arm 'other'.*task.arguments.names=.*same data"):
            resolve.resolve(spec(arms))


@pytest.mark.parametrize("change, message", [
    (dict(arms=arm(FIRST, changed(TEACH, adapters__kind="low_rank", adapters__names=r"blocks\.1\.mpl"))),
     "arm 'other', phase 'teach': adapters.names='blocks\\\\.1\\\\.mpl' matches no matrix of the model; did you mean 'blocks.1.mlp'"),
    (dict(arms=arm(FIRST, FIRST)), "arm 'other' has two phases called 'first'"),
    (dict(arms=arm({**FIRST, "name": "a/b"})), "arm 'other', phase 'a/b': its name must be letters"),
    (dict(arms=arm({**FIRST, "overides": {}})), "arm 'other', phase 'first': unknown key 'overides'; did you mean 'overrides'"),
    (dict(arms=[dict(name="other", phases=FIRST)]), "arm 'other': phases={"),
    (dict(arms=arm("first")), "arm 'other': a phase must be a dict with name and overrides, not 'first'"),
    (dict(arms=arm(FIRST, {**LAST, "start": "depo8_sleep4"})), "arm 'other', phase 'last': start='depo8_sleep4', but a phase starts from the one before it, 'first': drop start"),
    (dict(arms=arm({**FIRST, "start": 3})), "arm 'other', phase 'first': start=3 must be a str"),
    (dict(arms=arm(changed(FIRST, phase="x"))), "arm 'other', phase 'first' sets phase='x'"),
    (dict(arms=arm(changed(FIRST, model__width=32), LAST)), "arm 'other', phase 'last' sets model.width=64: a model stays what it is from phase to phase; set it in the arm's overrides"),
    (dict(arms=arm(changed(FIRST, train__stps=3))), "arm 'other', phase 'first': unknown config key 'train.stps'; did you mean 'train.steps'"),
    (dict(arms=arm(changed(FIRST, method__name="anwsers"))), "arm 'other', phase 'first': method.name='anwsers' is unknown; did you mean 'answers'"),
    (dict(arms=arm(changed(FIRST, train__steps=0))), "arm 'other', phase 'first': train.steps=0"),
    (dict(arms=arm(changed(FIRST, task__arguments__hops=3))), "arm 'other', phase 'first' has task.arguments.hops=3, that of arm 'more' 2: phases of one name must see the same data"),
    (dict(arms=arm(FIRST, changed(TEACH, train__batch_size=8))), "arm 'other', phase 'teach' has train.batch_size=8, that of arm 'more' 64"),
    (dict(arms=arm(FIRST, changed(TEACH, train__first_example=8))), "arm 'other', phase 'teach' has train.first_example=8"),
    (dict(arms=arm(changed(FIRST, seed=3))), "arm 'other', phase 'first' sets seed"),
    (dict(arms=arm(changed(FIRST, task__arguments__queries=4) | {"name": "few"}, LAST)), "arm 'other', phase 'few' has windows of 40 tokens, arm 'other', phase 'last' of 60"),
    (dict(arms=arm(FIRST, LAST), base={"model": {"vocab_size": 105}}), "arm 'more', phase 'teach': model.vocab_size=105 is smaller than the 107 tokens"),
    (dict(arms=[dict(name="phases", label="", overrides={})]), "an arm can't be called 'phases'"),
    (dict(tests=[dict(name="far", task={"hops": 8})]), "test 'far': task has no key 'hops': it has name and arguments"),
    (dict(tests=[dict(name="far", task={"arguments.hps": 8})]), "test 'far': task 'depo' has no argument 'hps'; did you mean 'hops'"),
    (dict(tests=[dict(name="far", examples=-1)]), "test 'far': examples=-1"),
    (dict(tests=[dict(name="far"), dict(name="far")]), "two tests are called 'far'"),
    (dict(tests=[dict(name="few", task={"arguments.queries": 4})]), "has windows of 60 tokens, test 'few' of 40"),
    (dict(tests=[dict(nam="far")]), "unknown key 'nam'; did you mean 'name'"),
])  # fmt: skip
def test_refused(change, message):
    with pytest.raises(UsageError) as refused:
        resolve.resolve(spec(**{"arms": CHAINS, **change}))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_tests_are_over_the_base_s_task():
    told = chains.tests(spec(CHAINS, tests=[*TESTS, dict(name="same")]))
    assert {name: (test["task"]["arguments"]["hops"], test["task"]["arguments"]["nodes"], test["examples"]) for name, test in told.items()} == {
        "far": (8, 10, 64), "near": (1, 10, 2048), "same": (4, 10, 2048),
    }


def test_the_example_of_the_page_is_a_study():
    page = (Path(specs.__file__).parent / "README.md").read_text(encoding="utf-8")
    made = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], made)
    found = resolve.chains(specs.parse(made["get_config"]()))
    assert chains.home(found["whole"][:1]) == chains.home(found["adapter"][:1]) != chains.home(found["untaught"])
    assert found["untaught"][0].train.steps == pytest.approx(2000, abs=1) and found["adapter"][1].adapters.kind == "low_rank"
    listed = {name for line in page.splitlines() if line.startswith("| `") for name in re.findall(r"`([\w/]+(?:\.py)?)`", line.split("|")[1])}
    assert {path.name + "/" * path.is_dir() for path in Path(specs.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()} - {"__init__.py", "__main__.py", "__pycache__/"} == listed
