"""tools/inspect_checkpoint.py: what it takes, what it refuses, and its help; `tests/multidevice/restore_test.py` reads real states with it."""
import re
import shutil

import inspect_checkpoint
import jax.numpy as jnp
import pytest

from sleepnet import build, origin
from sleepnet.checkpoint import Checkpoints
from sleepnet.config import ModelConfig, RunConfig

CONFIG = RunConfig(seed=7, model=ModelConfig(width=48))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints with a card, one without."""
    folder = tmp_path_factory.mktemp("run")
    for steps, card in (((2, 4), origin.card(CONFIG, build.task_of(CONFIG))), ((6,), {})):
        checkpoints = Checkpoints(folder, card, keep_best="exact_accuracy")
        for step in steps:
            state = {"params": {"w": jnp.ones((3, 5), jnp.bfloat16)}, "opt_state": (jnp.ones(7), jnp.int32(1))}
            checkpoints.save(step, state, {"next_index": step}, {"exact_accuracy": step / 10})
        checkpoints.close()
    return folder


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def run(*arguments):
        code = inspect_checkpoint.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_tree_config_and_origin_are_shown(call, workdir, tmp_path):
    code, said, _ = call(workdir, "--step", 4)
    lines = [line.split() for line in said.splitlines()]
    assert code == 0 and ["params.w", "(3,", "5)", "bfloat16", "one", "device", "30"] in lines and ["opt_state.0", "(7,)", "float32", "one", "device", "28"] in lines
    assert "parameters 30 bytes, optimiser 32 bytes, all 62 bytes in 3 arrays" in said
    assert "seed = 7" in said and "model.width = 48" in said and "model.heads" not in said
    assert build.task_of(CONFIG).spec_hash in said and "tree version  1" in said and "exact_accuracy 0.4000" in said
    copy = shutil.copytree(workdir / "checkpoints/4", tmp_path / "kept/4")
    assert call(copy)[1].splitlines()[1:] == said.splitlines()[1:]


def test_the_newest_is_shown_without_a_step(call, workdir):
    _, said, _ = call(workdir)
    assert f"{workdir}/checkpoints/6 (there are 2, 4, 6)" in said and "not recorded: written by an earlier version" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["{}/checkpoints/2/data"], "holds no checkpoint: give a run's folder"),
        (["{}", "--step", "3"], "--step 3: .*/checkpoints holds 2, 4, 6"),
        (["{}/checkpoints/4", "--step", "2"], "is the checkpoint of step 4; give the run's folder"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line(call, workdir, arguments, message):
    code, said, error = call(*(argument.format(workdir) for argument in arguments))
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert re.search(message, error)


def test_help_teaches(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call("--help")
    said = capsys.readouterr().out
    assert not stop.value.code and "WORKDIR_OR_CHECKPOINT" in said and "--step" in said and "inspect_checkpoint.py runs/depo --step 3200" in said
