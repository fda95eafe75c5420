"""What is dreamt of, by day: by hand, and of a model whose dreams are known one word at a time."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seeding_test import run_of
from sleepnet import build, decode, tasks
from sleepnet.errors import UsageError
from sleepnet.eval import dreamt


def test_dreams_are_counted_by_day():
    facts = np.array([[[1, 2, 7, 5], [3, 4, 8, 5]], [[1, 4, 9, 5], [6, 9, 5, 0]]])  # END is 5; the last key has one word
    words = np.array([[1, 2, 7, 5], [1, 2, 8, 5], [3, 4, 8, 5], [1, 4, 7, 5], [6, 9, 5, 0], [6, 8, 5, 0], [9, 9, 9, 5], [3, 2, 7, 5]])
    keys, whole = dreamt.by_day(words, facts, np.where(words[:, :1] == 6, 1, 2))
    assert keys.tolist() == [3 / 8, 3 / 8] and whole.tolist() == [2 / 8, 1 / 8]


@pytest.fixture(scope="module")
def loaded():
    config = run_of()
    task = build.task_of(config)
    return types.SimpleNamespace(model=build.model_of(config, task), task=task, config=config)


def test_dreams_are_what_the_model_says_word_by_word(loaded):
    """Greedily, with S = 0 and no text, behind the word that asks."""
    words = dreamt.drawn(loaded.model, loaded.task, 3, decode.GREEDY)
    state, token, said = loaded.model.init_state(3), jnp.full((3, 1), loaded.task.ask, jnp.int32), []
    wake = jax.jit(lambda graph, params, token, state: nnx.merge(graph, params).wake(token, state), static_argnums=0)
    for _ in range(words.shape[1]):
        logits, state = wake(*nnx.split(loaded.model, nnx.Param), token, state)
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        said.append(np.asarray(token[:, 0]))
    said = np.stack(said, axis=1)
    ends = np.cumsum(said == loaded.task.end, axis=1) - (said == loaded.task.end)
    assert words.tolist() == np.where(ends > 0, 0, said).tolist()


def test_a_run_is_told_by_day(loaded, monkeypatch, capsys):
    monkeypatch.setattr(dreamt.checkpoint, "load_model", lambda path: loaded)
    dreamt.FLAGS(["dreamt", "--workdir=run", "--dreams=16"])
    dreamt.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| day | its keys | its facts, whole |" and len(lines) == 2 + loaded.task.days + 3 and "16 dreams with S = 0" in lines[-1]
    for arguments, message in ((["--dreams=0"], "--dreams=0"), (["--workdir=run"], "asks for no facts of days")):
        dreamt.FLAGS.unparse_flags()
        monkeypatch.setattr(dreamt.checkpoint, "load_model", lambda path: types.SimpleNamespace(task=tasks.get("rule110"), model=None))
        dreamt.FLAGS(["dreamt", "--workdir=run", "--dreams=16", *arguments])
        with pytest.raises(UsageError, match=message):
            dreamt.main([])
