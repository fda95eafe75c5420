"""What an arm stands for, what is refused, matched compute."""
import dataclasses
import re

import ml_collections
import pytest

from sleepnet.config import RunConfig
from sleepnet.errors import UsageError
from sleepnet.study import ledger, resolve, spec as specs
from studies import ARMS, CLAIM, spec


def arm(**values):
    return [ARMS[0], {"name": "other", "label": "another", "overrides": {}, **values}]


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
