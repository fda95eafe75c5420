"""A run that learns from rewards goes on bit for bit where it was stopped; and one whose rewards are no numbers stops by itself and says so."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from exprl_test import run_of
from sleepnet import build, start
from sleepnet.checkpoint import load_model
from sleepnet.methods.rl.exprl import ExpRL
from sleepnet.origin import named
from sleepnet.train import loop
from sleepnet.train.step import draw


def test_what_a_step_draws_hangs_on_seed_phase_and_step_alone():
    """So that nothing of it need be saved: the whole of what a run that goes on needs to say the same again is the number of its step."""
    assert draw(3, "rl", 5).tolist() == draw(3, "rl", 5).tolist() == [3, 0, draw(0, "rl", 0)[2], 5]
    assert len({draw(*each).tobytes() for each in ((3, "rl", 5), (4, "rl", 5), (3, "sft", 5), (3, "rl", 6), (3 + (1 << 32), "rl", 5))}) == 5


@pytest.fixture
def config(monkeypatch):
    """A run of four steps of stage I from a model that is in no folder."""
    config = run_of(method={"arguments": {"group": 3, "tried": 0, "reward": "sound"}}, train={"batch_size": 2, "steps": 4, "save_every": 2, "log_every": 1, "eval_every": 0})
    params = nnx.to_pure_dict(jax.jit(lambda: nnx.split(build.model_of(config, build.task_of(config)), nnx.Param)[1])())
    monkeypatch.setattr(start, "_elsewhere", lambda key, where: (params, {"start": where, "kind": "run", "flops": 0, "tokens": 0, "chain": []}))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon
        yield dataclasses.replace(config, compile_cache="off")


def ended(folder):
    """Bytes of the parameters, and what the steps told but the clock's."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = {line["step"]: {key: value for key, value in line.items() if "seconds" not in key and key != "input_share"} for line in lines}
    return {name: np.asarray(leaf).tobytes() for name, leaf in named(nnx.to_pure_dict(nnx.split(load_model(folder).model, nnx.Param)[1])).items()}, told


@pytest.mark.slow  # a step of it is compiled twice; its twin is above
def test_a_killed_run_ends_as_one_that_was_not(config, tmp_path, monkeypatch):
    loop.train(config, tmp_path / "whole", quiet=True)
    write = loop.Metrics.write

    def dies(self, step, split, values):
        write(self, step, split, values)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Metrics, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "killed", quiet=True)
    monkeypatch.setattr(loop.Metrics, "write", write)
    loop.train(config, tmp_path / "killed", quiet=True)
    whole, killed = ended(tmp_path / "whole"), ended(tmp_path / "killed")
    assert whole == killed and {line["reward"] for line in whole[1].values()} and len(whole[1]) == 4


@pytest.mark.slow  # as above
def test_rewards_that_are_no_numbers_stop_the_run_and_are_named(config, tmp_path, monkeypatch):
    judgement = ExpRL.judgement
    spoilt = lambda told: {**told, "rewards": told["rewards"] / 0.0 * 0.0, "advantages": told["advantages"] * np.nan}
    monkeypatch.setattr(ExpRL, "judgement", lambda self, *given: spoilt(judgement(self, *given)))
    with pytest.raises(FloatingPointError, match=r"step 0 .* first in prepared (rewards|advantages)"):
        loop.train(config, tmp_path / "bad", quiet=True)
