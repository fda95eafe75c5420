"""A run's folder: whose it is, what is refused, what comes back, and that a refusal overwrites nothing."""
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from sleepnet import build, checkpoint, orbax_log, origin
from sleepnet.checkpoint import Checkpoints, claim, load_model
from sleepnet.config import EvalConfig, ModelConfig, RunConfig, TaskConfig, TrainConfig
from sleepnet.errors import UsageError
from sleepnet.train.loop import train

ARGUMENTS = {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}
CONFIG = RunConfig(
    task=TaskConfig("depo", ARGUMENTS), model=ModelConfig(width=8, heads=1, head_dim=8, mlp_width=8), train=TrainConfig(steps=6, log_every=1, save_every=2)
)
TASK = build.task_of(CONFIG)


def params_at(step):
    """Stand-ins for trained parameters, other ones for each step."""
    abstract = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: build.model_of(CONFIG, TASK)), nnx.Param)[1])
    generator = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), jnp.float32), abstract)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints at steps 2 and 4; never to be written to."""
    workdir = tmp_path_factory.mktemp("saved") / "run"
    claim(workdir, CONFIG, TASK)
    checkpoints = Checkpoints(workdir, origin.card(CONFIG, TASK), keep=2)
    for step in (1, 2, 4):
        checkpoints.save(step, {"params": params_at(step), "other": jnp.ones(3)}, {"next_index": step})
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def fingerprint(folder):
    """Every file and what is in it."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def refused(workdir, match, action):
    before = fingerprint(workdir)
    with pytest.raises(UsageError, match=match):
        action()
    assert fingerprint(workdir) == before


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def test_what_was_saved_comes_back(saved):
    assert sorted(path.name for path in (saved / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "4"]
    checkpoints = Checkpoints(saved, create=False)
    assert checkpoints.latest() == 4
    for step in (2, 4):
        state, position = checkpoints.restore(step, {"params": params_at(0), "other": jnp.zeros(3)})
        assert position == {"next_index": step}
        jax.tree.map(np.testing.assert_array_equal, state, {"params": params_at(step), "other": jnp.ones(3)})
    checkpoints.close()


def test_multiples_of_the_period_are_kept_besides_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_period=4)
    for step in range(1, 11):
        checkpoints.save(step, {"params": jnp.ones(3)}, {"next_index": step})
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 8, 10]


def test_the_newest_model_comes_back_with_its_task(saved):
    loaded = load_model(saved)
    assert loaded.step == 4 and loaded.config == CONFIG and loaded.task == TASK
    got = nnx.to_pure_dict(nnx.split(loaded.model, nnx.Param)[1])
    jax.tree.map(np.testing.assert_array_equal, got, params_at(4))
    assert loaded.model.config == build.fit(CONFIG.model, TASK)


@pytest.mark.parametrize(
    "values, key, old, new",
    [
        ({"seed": 5}, "seed", "0", "5"),
        ({"model": dataclasses.replace(CONFIG.model, width=16)}, "model.width", "8", "16"),
        ({"train": dataclasses.replace(CONFIG.train, random_passes=(1, 2))}, "train.random_passes", r"\[\]", r"\[1, 2\]"),
    ],
)
def test_another_runs_folder_is_refused_by_the_key_that_differs(workdir, values, key, old, new):
    for action in (lambda: claim(workdir, changed(**values), TASK), lambda: train(changed(**values), workdir, quiet=True)):
        refused(workdir, rf"belongs to another run: {key} is {old} there and {new} here; give another --workdir", action)


def test_keys_that_change_nothing_computed_may_change(workdir):
    before = fingerprint(workdir)
    free = changed(train=dataclasses.replace(CONFIG.train, log_every=2, save_every=1, keep=7, eval_every=1, eval_examples=3), eval=EvalConfig(examples=5, passes=(1,)))
    claim(workdir, free, TASK)
    assert fingerprint(workdir) == before


def test_another_tasks_folder_is_refused(workdir):
    config = changed(task=TaskConfig("depo", {**ARGUMENTS, "hops": 3}))
    refused(workdir, "was trained on another task .* give another --workdir", lambda: claim(workdir, config, build.task_of(config)))


def test_a_task_that_has_changed_since_is_refused(workdir):
    known = json.loads((workdir / "task.json").read_text())
    (workdir / "task.json").write_text(json.dumps({**known, "version": 0, "hash": "0" * 64}))
    refused(workdir, "is not this package's", lambda: load_model(workdir))
    refused(workdir, "another task", lambda: train(CONFIG, workdir, quiet=True))


def test_resume_false_wants_an_empty_folder(workdir, tmp_path):
    refused(workdir, r"holds a run already and resume=never: .* --config.resume=latest to go on", lambda: claim(workdir, changed(resume=False), TASK))
    claim(tmp_path / "new", changed(resume="never"), TASK)
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty", changed(resume=False), TASK)
    claim(tmp_path / "new", CONFIG, TASK)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    refused(tmp_path, "is not empty and holds no run: give an empty or new --workdir", lambda: train(CONFIG, tmp_path, quiet=True))


def test_a_folder_whose_claim_was_killed_half_way_can_be_claimed_again(tmp_path):
    folder = tmp_path / "run"
    claim(folder, CONFIG, TASK)
    (folder / "config.json").unlink()
    (folder / ".config.json.1.part").write_text("{")
    claim(folder, CONFIG, TASK)
    assert json.loads((folder / "config.json").read_text())["seed"] == CONFIG.seed


def test_a_checkpoint_of_another_run_is_refused_by_the_key_that_differs(workdir):
    known = json.loads((workdir / "config.json").read_text())
    known["model"]["mlp_width"] += 8
    (workdir / "config.json").write_text(json.dumps(known))
    refused(workdir, r"checkpoints/4 is another run's \(model.mlp_width is 8 there and 16 here\); --config.resume=latest-good goes on from step 2", lambda: load_model(workdir))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"tree_version": 7}, r"is of tree version 7, this package reads 1 \(sleepnet .* wrote it\)"),
        ({"task": {"name": "depo", "hash": "0" * 64}}, "is of another task \\(depo 000000000000, here depo"),
        ({}, r"is another model's \(params.blocks.0.mlp.down.kernel is \(8, 8\) there and \(16, 8\) here\)"),
    ],
    ids=["tree", "task", "shapes"],
)
def test_what_is_foreign_about_a_checkpoint_is_named(workdir, change, match):
    """Other cards beside the same weights; without a card, as earlier versions left them, the shapes tell."""
    path = workdir / "checkpoints/4/_CHECKPOINT_METADATA"
    known = json.loads(path.read_text())
    known["custom_metadata"] = {**known["custom_metadata"], **change} if change else {}
    path.write_text(json.dumps(known))
    if not change:
        config = json.loads((workdir / "config.json").read_text())
        config["model"]["mlp_width"] += 8
        (workdir / "config.json").write_text(json.dumps(config))
    refused(workdir, match, lambda: load_model(workdir))


def test_a_loaded_model_runs_under_jit(workdir):
    model = load_model(workdir).model
    tokens = jnp.ones((1, TASK.seq_len), jnp.int32)
    assert jax.eval_shape(lambda t: model.forward(t, predicts=TASK.predicts), tokens).shape == (1, TASK.seq_len, TASK.vocab_size)


def test_a_disk_without_room_is_refused_before_the_save(workdir, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    checkpoints = Checkpoints(workdir)
    refused(workdir, "no space left on the disk, the checkpoint of step 9 takes .*the same command goes on from step 4", lambda: checkpoints.save(9, {"params": params_at(9)}, {"next_index": 9}))
    checkpoints.close()


def test_a_save_that_fails_in_the_background_is_told_at_once(tmp_path, monkeypatch, capfd):
    """In Orbax's thread, where the only line about it would be a traceback."""
    told = []
    checkpoints = Checkpoints(tmp_path, failed=told.append)
    checkpoints.save(2, {"params": jnp.ones(5)}, {"next_index": 2})
    checkpoints.wait()
    checkpoints.check()

    def full(source, *rest, **options):
        raise OSError(28, "No space left on device")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, full)
    checkpoints.save(4, {"params": jnp.ones(5)}, {"next_index": 4})
    until = time.monotonic() + 60
    while not told:
        assert time.monotonic() < until
        time.sleep(0.01)
    match = "checkpoints: no space left on the disk, a checkpoint could not be written; free some space, the same command goes on from step 2"
    assert match in str(told[0])
    for action in (checkpoints.check, checkpoints.wait):
        with pytest.raises(UsageError, match=match):
            action()
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err
    assert Checkpoints(tmp_path, create=False).latest() == 2


def test_a_folder_without_checkpoint_says_so(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        load_model(tmp_path)
    claim(tmp_path / "run", CONFIG, TASK)
    refused(tmp_path / "run", "has no checkpoint yet: train it first", lambda: load_model(tmp_path / "run"))
    (tmp_path / "run/checkpoints").mkdir()
    refused(tmp_path / "run", "has no checkpoint yet: train it first", lambda: load_model(tmp_path / "run"))


def test_a_damaged_config_says_which_file(workdir):
    (workdir / "config.json").write_text('{"seed": ')
    refused(workdir, r"config.json can't be read .* the run's folder is damaged", lambda: load_model(workdir))
    refused(workdir, "config.json can't be read", lambda: claim(workdir, CONFIG, TASK))
    (workdir / "config.json").write_text("[1]")
    refused(workdir, r"config.json can't be read \(list where a JSON object should be\)", lambda: load_model(workdir))


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def damage(workdir, step, how):
    folder = workdir / "checkpoints" / str(step)
    if how == "arrays":
        for path in folder.glob("state/**/d/*"):
            cut(path)
    elif how == "gone":
        shutil.rmtree(folder / "state")
    else:
        cut(folder / how)


DAMAGES = {
    "arrays": r"truncated or damaged \(.+\)",
    "state/_METADATA": r"truncated or damaged \(state/_METADATA: .+\)",
    "_CHECKPOINT_METADATA": r"truncated or damaged \(4/_CHECKPOINT_METADATA: .+\)",
    "gone": r"incomplete \(there is no state/ in it\)",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_with_the_fix(workdir, how):
    damage(workdir, 4, how)
    match = f"checkpoint .*checkpoints/4 is {DAMAGES[how]}; --config.resume=latest-good goes on from step 2, or remove that folder"
    refused(workdir, match, lambda: load_model(workdir))
    refused(workdir, match, lambda: train(CONFIG, workdir, quiet=True))
    shutil.rmtree(workdir / "checkpoints/4")
    assert load_model(workdir).step == 2


def test_the_newest_good_one_is_used_when_asked(workdir):
    """The others are set aside whole, each with what is wrong with it."""
    like = {"params": params_at(0), "other": jnp.zeros(3)}
    shutil.copytree(workdir / "checkpoints/4", workdir / "checkpoints/6")
    (workdir / "checkpoints/6/data/metadata").write_text('{"next_index": 6}')
    (workdir / "damaged/4").mkdir(parents=True)
    damage(workdir, 4, "arrays")
    damage(workdir, 6, "gone")
    bad = {f"damaged/{to}": fingerprint(workdir / "checkpoints" / step) for step, to in (("6", "6"), ("4", "4.2"))}
    checkpoints = Checkpoints(workdir, origin.card(CONFIG, TASK))
    step, (state, position), lines = checkpoints.restore_good(like)
    assert step == 2 == checkpoints.latest() and position == {"next_index": 2}
    jax.tree.map(np.testing.assert_array_equal, state["params"], params_at(2))
    assert len(lines) == 2 and "checkpoints/6 is incomplete" in lines[0] and "checkpoints/4 is truncated" in lines[1] and "damaged/4.2" in lines[1]
    assert {place: fingerprint(workdir / place) for place in bad} == bad
    checkpoints.save(4, like, {"next_index": 4})
    checkpoints.close()
    assert Checkpoints(workdir, create=False).latest() == 4


def test_without_a_good_one_there_is_none(workdir):
    for step in (2, 4):
        damage(workdir, step, "gone")
    checkpoints = Checkpoints(workdir, origin.card(CONFIG, TASK))
    step, found, lines = checkpoints.restore_good({"params": params_at(0), "other": jnp.zeros(3)})
    assert step is None and found is None and len(lines) == 2 and checkpoints.latest() is None
    checkpoints.close()


def test_the_best_by_a_metric_is_kept_besides_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best="exact_accuracy")
    for step, value in ((1, 0.2), (2, 0.9), (3, 0.4), (4, 0.9), (5, 0.1), (6, None)):
        checkpoints.save(step, {"params": jnp.ones(3)}, {"next_index": step}, None if value is None else {"exact_accuracy": value, "label_accuracy": 1 - value})
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 6]


def test_a_file_cut_short_is_refused_or_was_not_needed(workdir, capfd):
    """Whichever file it is: one line or the same parameters, never others."""
    folder, outcomes = workdir / "checkpoints/4/state", []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        cut(path)
        try:
            got = nnx.to_pure_dict(nnx.split(load_model(workdir).model, nnx.Param)[1])
            jax.tree.map(np.testing.assert_array_equal, got, params_at(4))
            outcomes.append("same")
        except UsageError as error:
            assert "checkpoints/4 is truncated or damaged" in str(error)
            outcomes.append("refused")
        path.write_bytes(whole)
    assert outcomes.count("refused") >= 3 and "Traceback" not in capfd.readouterr().err


def test_the_only_checkpoint_damaged_leaves_no_other(workdir):
    shutil.rmtree(workdir / "checkpoints/2")
    damage(workdir, 4, "arrays")
    refused(workdir, "checkpoints/4 is truncated.*; there is no older one: start again in a new workdir", lambda: load_model(workdir))


def moves_on(monkeypatch, place, times):
    """The run saves its next checkpoint and deletes the newest just before, or after, `place` looks into it; `times` times. Returns those deleted."""
    owner, name, after = place
    real, deleted = getattr(owner, name), []

    def raced(*arguments, **options):
        def move():
            folder = next(path for path in CHECKPOINTS() if path.name == str(max(int(path.name) for path in CHECKPOINTS())))
            newer = folder.with_name(f"{int(folder.name) + 2}")
            shutil.copytree(folder, newer)
            (newer / "data/metadata").write_text(json.dumps({"next_index": int(newer.name)}))
            shutil.rmtree(folder)
            deleted.append(int(folder.name))

        more = len(deleted) < times
        if more and not after:
            move()
        found = real(*arguments, **options)
        if more and after:
            move()
        return found

    CHECKPOINTS = lambda: [path for path in raced.folder.iterdir() if path.name.isdigit()]
    monkeypatch.setattr(owner, name, raced)
    return raced, deleted


PLACES = {
    "before a look at it": (origin, "contents", False),
    "after it": (origin, "contents", True),
    "before the arrays are read": (ocp.CheckpointManager, "restore", False),
    "while they are read": (ocp.CheckpointManager, "restore", True),
    "after the folder is listed": (ocp.CheckpointManager, "__init__", True),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_deletes_what_is_being_read_is_read_at_its_newest(workdir, place, monkeypatch):
    raced, deleted = moves_on(monkeypatch, PLACES[place], times=3)
    raced.folder = workdir / "checkpoints"
    loaded = load_model(workdir)
    assert deleted == [4, 6, 8] and loaded.step == 10
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.split(loaded.model, nnx.Param)[1]), params_at(4))


def test_one_that_always_does_is_said_to(workdir, monkeypatch):
    raced, deleted = moves_on(monkeypatch, (origin, "contents", False), times=1000)
    raced.folder = workdir / "checkpoints"
    monkeypatch.setattr(origin, "_TRIES", 5)
    with pytest.raises(UsageError, match="its run deleted the newest checkpoint each of the 5 times that it was being read; wait for its end"):
        load_model(workdir)


def test_answers_that_come_too_late_are_not_printed(monkeypatch, capsys):
    """tensorstore's, to whoever asked for the arrays of a folder that was deleted meanwhile; all others are."""
    monkeypatch.setattr(orbax_log, "_hooks", [])
    monkeypatch.setattr(sys, "unraisablehook", lambda what: print(what.exc_value))
    orbax_log.expect_late_answers()
    orbax_log.expect_late_answers()
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), ValueError("Event loop is closed")):
        sys.unraisablehook(types.SimpleNamespace(exc_type=type(error), exc_value=error))
    assert capsys.readouterr().out == "another\nEvent loop is closed\n"


def test_what_is_left_of_a_save_that_was_killed_is_no_checkpoint(workdir):
    shutil.copytree(workdir / "checkpoints/4", workdir / "checkpoints/6.orbax-checkpoint-tmp")
    assert load_model(workdir).step == 4
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest() == 4
    checkpoints.close()


def test_only_whole_json_is_ever_seen(tmp_path, monkeypatch):
    claim(tmp_path / "run", CONFIG, TASK)
    before = fingerprint(tmp_path / "run")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="config.json") as error:
        checkpoint.write_json(tmp_path / "run/config.json", {})
    assert error.value.errno == 28 and fingerprint(tmp_path / "run") == before
