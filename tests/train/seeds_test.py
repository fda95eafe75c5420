"""Seeds: every one that is taken makes parameters and data of its own; the others are refused wherever one can be given."""
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from sleepnet import build, cli, tasks
from sleepnet.config import ModelConfig, RunConfig, from_dict
from sleepnet.errors import UsageError
from sleepnet.eval import __main__ as evaluation
from sleepnet.models import zoo
from sleepnet.models.hybrid import Hybrid
from sleepnet.study import spec as specs
from sleepnet.tasks.__main__ import main as tasks_command
from sleepnet.costs import passes_at

TINY = dict(vocab_size=4, window=4, pattern="G", width=4, heads=1, head_dim=2, mlp_width=0)
# of both 32-bit words, and where an integer of 32, 63 or 64 bits would end
SEEDS = (0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63 - 1, 2**63, 2**64 - 1)
NONE = (-1, 2**64, 1.0, True, "1")


def flat(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(nnx.split(model, nnx.Param)[1])])


def test_every_seed_makes_other_parameters_and_other_data():
    task = tasks.get("mqar", pairs=2, length=16, vocabulary=16)
    runs = [from_dict(RunConfig, {"seed": seed, "train": {"random_passes": (1, 2, 3, 4)}}) for seed in SEEDS]
    for made in (
        [flat(zoo.create("cpu_gdn", seed, **TINY)).tobytes() for seed in SEEDS],
        [flat(build.model_of(from_dict(RunConfig, {"seed": seed, "model": TINY | {"window": task.window, "vocab_size": 0}}), task)).tobytes() for seed in SEEDS],
        [task.batch(seed, "train", 0, 4)["tokens"].tobytes() for seed in SEEDS],
        [tuple(passes_at(run, step) for step in range(40)) for run in runs],
    ):
        assert len(set(made)) == len(SEEDS)
    for seed in SEEDS:  # the plain path, on numpy's own generator
        np.testing.assert_array_equal(task.example(seed, "train", 3)["tokens"], task.batch(seed, "train", 0, 4)["tokens"][3])


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_a_seed_of_32_bits_makes_what_jax_makes_of_it(seed):
    """Checkpoints and outcomes of earlier versions were made so."""
    np.testing.assert_array_equal(flat(zoo.create("cpu_gdn", seed, **TINY)), flat(Hybrid(ModelConfig(**TINY), nnx.Rngs(seed))))


@pytest.mark.parametrize("seed", NONE)
def test_what_is_no_seed_is_refused_by_whatever_takes_one(seed):
    task = tasks.get("mqar", pairs=2, length=16, vocabulary=16)
    for call in (
        lambda: zoo.create("cpu_gdn", seed, **TINY),
        lambda: RunConfig(seed=seed),
        lambda: task.example(seed, "test", 0),
        lambda: task.batch(seed, "test", 0, 1),
        lambda: specs.seeds((0, seed)),
    ):
        with pytest.raises(UsageError, match=r"^seeds?=.* must be a whole number from 0 to 18446744073709551615$"):
            call()


def test_seeds_of_numpy_are_seeds():
    assert specs.seeds(np.arange(3)) == (0, 1, 2) and type(specs.seeds(np.arange(3))[0]) is int
    np.testing.assert_array_equal(flat(zoo.create("cpu_gdn", np.uint32(5), **TINY)), flat(zoo.create("cpu_gdn", 5, **TINY)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_commands_refuse_it_in_one_line(seed, monkeypatch, capsys):
    for command in ("sample", "check", "stats", "export"):
        more = ["--format=npz", "-n=1", "--out=never"] if command == "export" else []
        assert tasks_command([command, "depo", f"--seed={seed}", *more]) == 2
        assert capsys.readouterr().err == f"python -m sleepnet.tasks: --seed={seed} must be a whole number from 0 to {2**64 - 1}\n"
    monkeypatch.setattr(sys, "argv", ["eval", "--model=depo8_sleep4", f"--seed={seed}"])
    with pytest.raises(SystemExit) as stop:
        cli.run(evaluation.main, evaluation.FLAGS)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: flag --seed={seed}: {seed} is not ") and error.count("\n") == 1
