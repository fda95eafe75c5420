"""Keys that may be others when a run goes on: it ends as if they had always been so, and says what it changed; where that can't be, it is refused."""
import dataclasses
import json
import shutil

import numpy as np
import pytest

import checkpoint_test
from checkpoint_test import refused, saved, workdir  # noqa: F401, fixtures among them
from sleepnet import optim, origin
from sleepnet.checkpoint import load_model
from sleepnet.config import OptimConfig, to_dict
from sleepnet.files import write_json
from sleepnet.train.loop import train
from train_test import CONFIG, compiled_once, lines, parameters  # noqa: F401, fixtures among them

HALF, STEPS = 3, 6


def told(config, **values):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))


ONCE = dataclasses.replace(CONFIG.model, sleep=dataclasses.replace(CONFIG.model.sleep, passes=1))
FLAT = dataclasses.replace(CONFIG, model=ONCE, optim=dataclasses.replace(CONFIG.optim, decay=0.0))
FLAT = told(FLAT, steps=STEPS, random_passes=(), save_every=3, eval_every=0, batch_size=2)


def test_a_longer_run_with_other_saves_is_the_one_that_was_always_so(compiled_once, tmp_path, capsys):  # noqa: F811
    unbroken, grown = tmp_path / "unbroken", tmp_path / "grown"
    train(FLAT, unbroken, quiet=True)
    train(told(FLAT, steps=HALF), grown, quiet=True)
    assert json.loads((grown / "result.json").read_text())["steps"] == HALF
    more = told(FLAT, save_every=2)
    assert train(more, grown)["steps"] == STEPS
    assert f"goes on from the checkpoint of step {HALF}; train.save_every was 3, is 2; train.steps was {HALF}, is {STEPS}\n" in capsys.readouterr().err
    assert json.loads((grown / "config.json").read_text()) == json.loads(json.dumps(to_dict(more)))
    log, notes = lines(grown), [line for line in lines(grown) if line["split"] == "config"]
    assert notes == [{"step": HALF, "split": "config", "changed": {"train.save_every": [3, 2], "train.steps": [HALF, STEPS]}}]
    assert [line for line in log if line["split"] != "config"] == lines(unbroken)
    one, other = parameters(grown), parameters(unbroken)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    # a leg that changes nothing says nothing, and what was before the change is still this run's
    shutil.rmtree(grown / "checkpoints" / str(STEPS))
    (grown / "result.json").unlink()
    train(more, grown, quiet=True)
    assert lines(grown) == log
    refused(grown, rf"train.steps is {STEPS} there and 5 here, where {STEPS} are taken", lambda: train(told(more, steps=5), grown, quiet=True))
    assert load_model(grown).config == more


def test_one_whose_rates_would_have_been_others_is_refused(workdir):  # noqa: F811
    """Six steps of which the warm-up has all, and four are taken."""
    config = told(checkpoint_test.CONFIG, steps=9)
    message = r"train.steps is 6 there and 9 here, and 4 are taken: the warm-up would be another from the first on \(optim.warmup\)\); --config.resume="
    refused(workdir, message, lambda: train(config, workdir, quiet=True))
    assert load_model(workdir).step == 4


def test_one_that_has_ended_without_checkpoints_is_not_begun_again(workdir):  # noqa: F811
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()
    write_json(workdir / "result.json", {key: 6 for key in ("steps", "tokens", "flops", "seconds", "device")})
    (workdir / "metrics.jsonl").write_text("{}\n")
    config = told(checkpoint_test.CONFIG, steps=9)
    message = "holds a run that has ended, and no checkpoint to go on from to train.steps=9: give another --workdir"
    refused(workdir, message, lambda: train(config, workdir, quiet=True))


def test_a_step_that_has_fallen_is_named():
    there, here = (to_dict(told(CONFIG, steps=steps)) for steps in (40, 60))  # decay 0.3: the last twelve
    assert origin.difference(there, here, 28) == "" == origin.difference(here, there, 28)
    why = "since step 28 the learning rate would be another (optim.decay), so a checkpoint of that step at most can go on"
    assert origin.difference(there, here, 29) == f"train.steps is 40 there and 60 here, and 29 are taken: {why}"


@pytest.mark.parametrize("final", [0.01, 1.0])
def test_rates_are_alike_as_long_as_they_are(final):
    """Against the schedules themselves, step by step."""
    for warmup, decay in ((0, 0.0), (3, 0.3), (9, 0.5), (4, 1.0)):
        config = OptimConfig(warmup=warmup, decay=decay, final=final)
        rates = {steps: [float(optim.schedule(0.5, config, steps)(step)) for step in range(steps)] for steps in (6, 8, 16)}
        for one, other in ((6, 8), (8, 6), (8, 16), (16, 6), (8, 8)):
            same = optim.alike(config, one, other)
            assert rates[one][:same] == rates[other][:same]
            differ = next((step for step, pair in enumerate(zip(rates[one], rates[other])) if pair[0] != pair[1]), None)
            assert differ is None or differ - 1 <= same <= differ or same == 0 and optim.phases(config, one)[0] != optim.phases(config, other)[0]


def test_only_what_changes_no_step_may_be_another():
    mine = to_dict(CONFIG)
    for key, value in origin.flat(mine).items():
        if type(value) in (int, float) and key != "train.steps":
            *sections, last = key.split(".")
            place = other = json.loads(json.dumps(mine))
            for section in sections:
                place = place[section]
            place[last] = value + 1
            assert bool(origin.difference(other, mine, 5)) != key.startswith(origin.FREE), key


