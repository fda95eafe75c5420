"""Training: stopped runs end where unbroken ones do, bit for bit; losses by hand; what a non-finite loss does."""
import dataclasses
import functools
import json
import os
import random
import re
import shutil
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sleepnet import build, checkpoint, cli, data, optim, trust
from sleepnet.config import RunConfig, from_dict, to_dict
from sleepnet.costs import passes_at
from sleepnet.errors import UsageError
from sleepnet.train import __main__ as command
from sleepnet.train import loop, metrics
from sleepnet.train.loop import train
from sleepnet.train.metrics import Seconds
from sleepnet.train.preempt import Preempted

STEPS = 40
VALUES = {
    "task": {"name": "depo", "arguments": {"nodes": 5, "hops": 2, "queries": 2, "names": 3, "name_tokens": (1, 2), "min_nodes": 2}},
    "model": {"pattern": "G", "width": 8, "heads": 1, "head_dim": 8, "mlp_width": 0, "sleep": {"passes": 2}},
    "optim": {"warmup": 2, "adam_rate": 0.01},
    "train": {
        "steps": STEPS, "batch_size": 8, "random_passes": (1, 2), "log_every": 1, "save_every": 10, "keep": 2, "eval_every": 20, "eval_examples": 8,
    },
    "eval": {"batch_size": 8},
}
CONFIG = from_dict(RunConfig, VALUES)
TASK = build.task_of(CONFIG)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of one configuration share their compiled step; runs in processes of their own (slow) do not.

    Optax's Muon divides a power of a float by an int32, so the optimiser alone is not held to strict promotion.
    """
    real = optim.optimizer

    @functools.cache
    def optimizer(config, steps):
        made = real(config, steps)

        def update(*arguments):
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                return made.update(*arguments)

        return made._replace(update=update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "optimizer", optimizer)
        patch.setattr(loop, "make_step", functools.cache(loop.make_step))
        yield


@pytest.fixture(scope="module")
def whole(compiled_once, tmp_path_factory):
    """The folder of an unbroken run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, workdir, quiet=True)
    return workdir


def parameters(workdir):
    state = nnx.to_pure_dict(nnx.split(checkpoint.load_model(workdir).model, nnx.Param)[1])
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key and key != "input_share"} for row in rows]


def assert_same_run(a, b):
    one, other = parameters(a), parameters(b)
    assert one.keys() == other.keys() and lines(a) == lines(b)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def steps_in(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def copied(workdir, to, *, without):
    """A run's folder as a stop before its end leaves it: no result, no newer checkpoints, metrics that ran on."""
    shutil.copytree(workdir, to)
    (to / "result.json").unlink()
    for step in without:
        shutil.rmtree(to / "checkpoints" / str(step))
    return to


def test_a_run_writes_what_it_says(whole):
    assert json.loads((whole / "config.json").read_text()) == json.loads(json.dumps(to_dict(CONFIG)))
    assert steps_in(whole) == [30, 40]  # keep = 2
    result, rows = json.loads((whole / "result.json").read_text()), lines(whole)
    assert result["steps"] == STEPS and result["tokens"] == STEPS * 8 * TASK.seq_len
    assert result["parameters"] == sum(leaf.size for leaf in parameters(whole).values())
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["split"] == "validation"] == [20, 40]
    assert rows[-1]["flops"] == result["flops"] and {"exact_accuracy_k1", "exact_accuracy_k2"} <= rows[-1].keys()
    assert train(CONFIG, whole, quiet=True) == result


def test_a_line_says_where_its_seconds_went(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row["split"] == "train"]
    kinds = ("input", "compute", "checkpoint", "evaluation")
    for row in train_rows:
        seconds = [row[f"{kind}_seconds"] for kind in kinds]
        assert min(seconds) >= 0 and row["input_share"] == pytest.approx(row["input_seconds"] / max(sum(seconds), 1e-9), abs=0.02)
    assert [row["step"] for row in train_rows if row["checkpoint_seconds"] > 0] == [11, 21, 31]  # the lines after a save
    assert [row["step"] for row in train_rows if row["evaluation_seconds"] > 0] == [21]
    spent = sum(row[f"{kind}_seconds"] for row in train_rows for kind in kinds)
    assert spent <= rows[-1]["seconds"] + 0.1 and spent >= train_rows[-1]["seconds"] - 0.5


def test_no_more_than_two_steps_are_on_their_way(tmp_path, monkeypatch):
    """A step's numbers are waited for before the third step after it is sent, however seldom a line is written."""
    sent, waited, real = [], set(), loop.make_step

    def make_step(*arguments):
        step = real(*arguments)

        def one(state, *rest):
            assert len(sent) < 3 or id(sent[-3]) in waited
            state, numbers = step(state, *rest)
            sent.append(numbers)
            return state, numbers

        return one

    monkeypatch.setattr(loop, "make_step", make_step)
    monkeypatch.setattr(loop.jax, "block_until_ready", lambda tree: waited.update(id(leaf) for leaf in tree) if isinstance(tree, list) else tree)
    settings = dataclasses.replace(CONFIG.train, steps=10, log_every=10, save_every=10, eval_every=0)
    train(dataclasses.replace(CONFIG, train=settings), tmp_path / "run", quiet=True)
    assert len(sent) == 10


def test_waiting_for_slow_input_is_seen(whole, tmp_path, monkeypatch, capsys):
    def share(workdir):
        train(CONFIG, workdir)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row["split"] == "train" and row["step"] > 31]
        return sum(row["input_seconds"] for row in rows) / sum(row["input_seconds"] + row["compute_seconds"] for row in rows)

    fast = share(copied(whole, tmp_path / "fast", without=(40,)))
    real = data.BatchSource.__getitem__
    monkeypatch.setattr(data.BatchSource, "__getitem__", lambda self, index: (time.sleep(0.1), real(self, index))[1])
    slow = share(copied(whole, tmp_path / "slow", without=(40,)))
    assert slow > 0.6 and slow > 2 * fast
    assert re.search(r"step 40/40  train .* waits for input \d+%", capsys.readouterr().err)


def test_seconds_are_counted_once():
    class Busy:
        is_ready = staticmethod(lambda: False)

    seconds = Seconds()
    with seconds.of("input"):
        time.sleep(0.02)
    with pytest.MonkeyPatch.context() as patch, seconds.of("input", [Busy()]):
        patch.setattr(metrics.jax, "Array", Busy)
        time.sleep(0.1)
    taken = seconds.take()
    assert 0.02 <= taken["input_seconds"] < 0.09 and taken["compute_seconds"] >= 0.1 and taken["checkpoint_seconds"] == 0
    assert seconds.take()["input_seconds"] == 0


def test_a_profile_of_some_steps_is_written_and_changes_nothing(whole, tmp_path):
    workdir = copied(whole, tmp_path / "run", without=(40,))
    train(dataclasses.replace(CONFIG, profile="31:33"), workdir, quiet=True)
    assert len(list((workdir / "profile").glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert_same_run(workdir, whole)
    assert not (whole / "profile").exists()


@pytest.mark.slow
def test_a_resumed_run_finds_what_is_compiled_and_ends_the_same(whole, tmp_path):
    """Executables that come from the disk compute the same bits; outside a run nothing is cached."""
    events, kept = [], jax.config.jax_persistent_cache_min_compile_time_secs
    listen = lambda event, **_: events.append(event)
    jax.monitoring.register_event_listener(listen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    def hits(name, cache):
        workdir = copied(whole, tmp_path / name, without=(40,))
        shutil.rmtree(workdir / "compiled", ignore_errors=True)
        return hits_again(workdir, cache)

    def hits_again(workdir, cache):
        events.clear()
        train(dataclasses.replace(CONFIG, compile_cache=cache), workdir, quiet=True)
        told = {"step": 30, "split": "config", "changed": {"compile_cache": ["workdir", cache]}}  # the one line that the other run has not
        assert [row for row in lines(workdir) if row["split"] == "config"] == ([told] if cache != "workdir" else [])
        path = workdir / "metrics.jsonl"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"split": "config"' not in line))
        assert_same_run(workdir, whole)
        return events.count("/jax/compilation_cache/cache_hits")

    try:
        jax.clear_caches()
        assert hits("run", "workdir") == 0 and any((tmp_path / "run/compiled").glob("jit_step-*"))
        jax.clear_caches()
        (tmp_path / "run/result.json").unlink()
        shutil.rmtree(tmp_path / "run/checkpoints/40")
        found = hits_again(tmp_path / "run", "workdir")  # the step with either N and the validation; a run that goes on has no beginning to compile
        assert found >= 3 and events.count("/jax/compilation_cache/cache_misses") == 0 and not any((tmp_path / "run/compiled").glob("jit_begin-*"))
        assert hits("off", "off") == 0 and not (tmp_path / "off/compiled").exists()
        hits("own", str(tmp_path / "folder"))
        assert (tmp_path / "folder").is_dir() and not (tmp_path / "own/compiled").exists()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)
        jax.monitoring.unregister_event_listener(listen)


def test_the_loss_decreases(whole):
    losses = [row["loss"] for row in lines(whole) if row["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


def test_a_second_run_is_the_same_bit_for_bit(whole, tmp_path):
    """Nothing of a run stays behind in the process."""
    train(CONFIG, tmp_path / "again", quiet=True)
    assert_same_run(tmp_path / "again", whole)


@pytest.mark.parametrize("lost", [(40,), (30, 40)], ids=["newest", "all"])
def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path, lost):
    workdir = copied(whole, tmp_path / "run", without=lost)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "spl')  # cut by the stop
    train(CONFIG, workdir, quiet=True)
    assert_same_run(workdir, whole)
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, workdir)]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}


@pytest.mark.parametrize("lost, line", [((40,), "goes on from the checkpoint of step 30"), ((30, 40), "holds no checkpoint: begins again at step 0")])
def test_a_stopped_run_says_where_it_goes_on(whole, tmp_path, capsys, lost, line):
    train(CONFIG, copied(whole, tmp_path / "run", without=lost))
    assert line in capsys.readouterr().err
    train(CONFIG, tmp_path / "new")
    assert "goes on" not in (said := capsys.readouterr().err) and "begins again" not in said


def test_a_run_goes_on_from_the_newest_good_checkpoint_when_asked(whole, tmp_path, capsys):
    workdir = copied(whole, tmp_path / "run", without=())
    shutil.rmtree(workdir / "checkpoints/40/data")
    with pytest.raises(UsageError, match=r"checkpoints/40 is incomplete .*--config.resume=latest-good goes on from step 30"):
        train(CONFIG, workdir, quiet=True)
    train(dataclasses.replace(CONFIG, resume="latest-good"), workdir, quiet=True)
    assert capsys.readouterr().err == f"resume=latest-good: checkpoint {workdir}/checkpoints/40 is incomplete (there is no data/ in it); set aside as {workdir}/damaged/40\n"
    assert_same_run(workdir, whole)


def test_the_best_checkpoint_by_validation_is_kept(whole, tmp_path):
    """The validation's numbers are the test's own, best in the middle; a checkpoint that SIGTERM saves has none and is no candidate."""
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, eval_every=10, keep=1, keep_best="label_accuracy"))
    values = {10: 0.1, 20: 0.8, 30: 0.5, 40: 0.3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_validate", lambda leg, state, step, spent: {"exact_accuracy": 1 - values[step], "label_accuracy": values[step]})
        patch.setattr(loop, "make_step", stopping(loop.make_step, 24))
        with pytest.raises(Preempted):
            train(config, tmp_path / "run", quiet=True)
        assert steps_in(tmp_path / "run") == [20, 25]
        train(config, tmp_path / "run", quiet=True)
    assert steps_in(tmp_path / "run") == [20, 40]


@pytest.mark.parametrize("step", [0, 30])
def test_the_loss_of_a_step_is_that_of_its_batch_by_hand(whole, tmp_path, step):
    """Parameters before the step, batch `step` of the task, N of the step: forward, then cross entropy in float64."""
    model = build.model_of(CONFIG, TASK)
    if step:
        model = checkpoint.load_model(copied(whole, tmp_path / "run", without=(40,))).model
    batch, passes = TASK.batch(CONFIG.seed, "train", step * 8, 8), passes_at(CONFIG, step)
    graph, params = nnx.split(model, nnx.Param)
    forward = jax.jit(lambda params, tokens: nnx.merge(graph, params).forward(tokens, passes=passes, predicts=TASK.predicts))
    logits = np.asarray(forward(params, batch["tokens"]), np.float64)
    at = np.nonzero(batch["loss_mask"])
    scores = logits[at]
    loss = np.mean(np.log(np.exp(scores).sum(axis=-1)) - scores[np.arange(len(scores)), batch["targets"][at]])
    row = [row for row in lines(whole) if row["split"] == "train"][step]
    assert row["step"] == step + 1 and row["loss"] == pytest.approx(loss, rel=1e-5)
    hits = logits.argmax(axis=-1) == batch["targets"]
    answers = [hits[b][batch["answer"][b] == a] for b in range(8) for a in range(TASK.answers)]
    assert row["exact_accuracy"] == np.mean([hit.all() for hit in answers if hit.size])


def poisoned(params, name):
    """Parameters with one number of one tensor gone."""
    def spoil(path, leaf):
        return leaf.at[(0,) * leaf.ndim].set(jnp.nan) if jax.tree_util.keystr(path, simple=True, separator=".") == name else leaf

    return jax.tree_util.tree_map_with_path(spoil, params)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(whole, tmp_path, monkeypatch):
    workdir, real = copied(whole, tmp_path / "run", without=(40,)), loop.make_step

    def make_step(*arguments):
        def step(state, *rest):
            if int(state.step) == 34:
                state = dataclasses.replace(state, params=poisoned(state.params, "blocks.0.mixer.beta.kernel"))
            return real(*arguments)(state, *rest)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_step", make_step)
        with pytest.raises(FloatingPointError, match=r"step 34 \(batch 34 of seed 0\) is not finite, first in parameter blocks.0.mixer.beta.kernel; the checkpoint of step 30 is kept in "):
            train(CONFIG, workdir, quiet=True)
    assert steps_in(workdir) == [30] and not (workdir / "result.json").exists()
    assert lines(workdir) == lines(whole)[:lines(workdir)[-1]["step"] + 1] and lines(workdir)[-1]["step"] == 34
    train(CONFIG, workdir, quiet=True)
    assert_same_run(workdir, whole)


def config_file(folder: Path) -> Path:
    path = folder / "config.py"
    path.write_text(
        f"from sleepnet.config import default\n\n\ndef get_config():\n    config = default()\n    config.update({VALUES!r})\n    return config\n"
    )
    return path


def test_a_loss_that_is_not_finite_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    real = build.model_of

    def model_of(config, task):
        model = real(config, task)
        graph, state = nnx.split(model, nnx.Param)
        nnx.replace_by_pure_dict(state, poisoned(nnx.to_pure_dict(state), "head.kernel"))
        return nnx.merge(graph, state)

    monkeypatch.setattr(loop.build, "model_of", model_of)
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file(tmp_path)}", f"--workdir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main, command.FLAGS)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "Traceback" not in error
    assert error.startswith("error: step 0 (batch 0 of seed 0) is not finite, first in parameter head.kernel; no checkpoint had been saved before. ")
    assert steps_in(tmp_path / "run") == []


def test_the_command_that_is_proposed_can_be_pasted(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "a folder's"
    done = {"steps": 1, "tokens": 1, "flops": 1, "seconds": 1, "device": "cpu"}
    monkeypatch.setattr(trust, "_NAMED", set())  # of other tests in this process
    monkeypatch.setattr(loop, "train", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file(tmp_path)}", f"--workdir={workdir}"])
    with pytest.raises(SystemExit):
        cli.run(command.main, command.FLAGS)
    proposed = capsys.readouterr().out.partition("grade it with: ")[2]
    assert shlex.split(proposed) == ["python", "-m", "sleepnet.eval", f"--workdir={workdir}"]


def test_an_update_that_is_not_finite_is_never_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(optim, "optimizer", lambda config, steps: optax.scale(float("inf")))
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, log_every=1, save_every=1, keep=1))
    with pytest.raises(FloatingPointError, match=r"step 0 .* is not finite, first in update of "):
        train(config, tmp_path / "run", quiet=True)
    assert steps_in(tmp_path / "run") == []


def stopping(real, at):
    """`make_step` of a process that gets SIGTERM while it takes the step `at`."""
    def make_step(*arguments):
        def step(state, *rest):
            if int(state.step) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments)(state, *rest)

        return step

    return make_step


def test_sigterm_saves_the_step_reached_and_the_run_goes_on_bit_for_bit(compiled_once, tmp_path, monkeypatch):
    """Stops that are no multiple of log_every or save_every: a line of metrics and an evaluation span them."""
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, log_every=7, save_every=9, eval_every=13))
    train(config, tmp_path / "unbroken", quiet=True)
    workdir, real = tmp_path / "run", loop.make_step
    for at in (0, 10, 24, 25):
        with monkeypatch.context() as patch, pytest.raises(Preempted, match=f"preempted at step {at + 1} of 40") as stop:
            patch.setattr(loop, "make_step", stopping(real, at))
            train(config, workdir, quiet=True)
        assert stop.value.step == at + 1 == steps_in(workdir)[-1]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(config, workdir, quiet=True)
    assert_same_run(workdir, tmp_path / "unbroken")
    assert [row["step"] for row in lines(workdir) if row["split"] == "train"] == [7, 14, 21, 28, 35, 40]


def test_sigterm_on_the_command_line_exits_with_0(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "make_step", stopping(loop.make_step, 4))
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file(tmp_path)}", f"--workdir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main, command.FLAGS)
    assert not stop.value.code and capsys.readouterr().out == "preempted at step 5 of 40; the same command goes on from there\n"
    assert steps_in(tmp_path / "run") == [5] and not (tmp_path / "run/result.json").exists()


def test_sigterm_at_the_last_step_ends_the_run_as_ever(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_step", stopping(loop.make_step, STEPS - 1))
    workdir = copied(whole, tmp_path / "run", without=(40,))
    train(CONFIG, workdir, quiet=True)
    assert_same_run(workdir, whole)


def test_a_second_sigterm_is_as_it_was():
    script = (
        "import os, signal\nfrom sleepnet.train import preempt\nwith preempt.watch() as told:\n    assert not told(3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    assert told(3)\n    print('told', flush=True)\n    os.kill(os.getpid(), signal.SIGTERM)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "told\n"), ended.stderr


@pytest.mark.slow
def test_a_killed_process_started_again_ends_with_the_same_parameters(tmp_path):
    """SIGKILL at random steps, several times, then the same command to the end."""
    path, generator = config_file(tmp_path), random.Random(0)

    def start(workdir):
        arguments = [sys.executable, "-m", "sleepnet.train", f"--config={path}", f"--workdir={workdir}"]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    unbroken = start(tmp_path / "whole")
    _, error = unbroken.communicate(timeout=600)
    assert unbroken.returncode == 0, error
    workdir, kills = tmp_path / "run", 0
    for wanted in (0, *sorted(generator.sample(range(1, STEPS), 3))):
        process = start(workdir)
        metrics = workdir / "metrics.jsonl"
        while process.poll() is None:
            written = [json.loads(line)["step"] for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")] if metrics.exists() else []
            if (written and written[-1] >= wanted) or (wanted == 0 and (workdir / "config.json").exists()):
                time.sleep(generator.random() * 0.05)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    last = start(workdir)
    _, error = last.communicate(timeout=600)
    assert last.returncode == 0, error
    assert kills >= 2
    assert_same_run(workdir, tmp_path / "whole")


def test_a_run_of_a_task_that_cannot_be_is_refused_before_a_folder_is_made(tmp_path):
    config = dataclasses.replace(CONFIG, task=dataclasses.replace(CONFIG.task, arguments={"nods": 5}))
    with pytest.raises(ValueError, match="did you mean 'nodes'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
