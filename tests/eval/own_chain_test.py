"""A model's own chain of thought against plain forward passes over the sequence as it grows, and against models whose chains are known."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import tasks
from sleepnet.config import ModelConfig, SleepConfig, SparseConfig
from sleepnet.errors import UsageError
from sleepnet.eval import bins, own_chain, report, runner
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.base import PAD

GROUP = tasks.get("group", group="Z60", length=(2, 6), chain_of_thought=True, window=4)  # two windows sleep, the chain spans two more
GSM = tasks.get("gsm", ops=(1, 2), length=(40, 66), places=8, things=8, limit=60, fillers="alike", chain_of_thought=True, window=44)


class Follows(nnx.Module):
    """Predicts for a token what `table` [V] says, whatever was read before."""

    def __init__(self, task, table):
        self.config = ModelConfig(vocab_size=task.vocab_size, window=task.window)
        self.table = nnx.Param(jnp.asarray(table, jnp.float32))

    def init_state(self, batch_size):
        return jnp.zeros((batch_size,))

    def wake(self, tokens, state):
        said = self.table[...][tokens]
        return jnp.where(said[..., None] < 0, jnp.nan, jax.nn.one_hot(said.astype(jnp.int32), self.config.vocab_size)), state

    def sleep(self, state, passes, halt=0.0):
        return state

    def forward(self, tokens, passes, predicts):
        return self.wake(tokens, None)[0]


def test_what_is_written_is_what_forward_passes_over_the_growing_sequence_say():
    passes = 3
    config = ModelConfig(
        pattern="AG", width=16, heads=2, head_dim=8, mlp_width=16, vocab_size=GROUP.vocab_size, window=4, sleep=SleepConfig(passes=passes)
    )
    model = Hybrid(config, nnx.Rngs(3))
    batch = GROUP.batch(0, "test", 0, 12)
    own = own_chain.written(*(jnp.asarray(batch[key]) for key in ("tokens", "targets", "loss_mask")))
    assert np.asarray(own).sum(1).tolist() == (batch["difficulty"]["k"][:, 0] - 2).tolist() and not own[:, :9].any()
    graph, params = nnx.split(model, nnx.Param)
    forward = jax.jit(lambda tokens: nnx.merge(graph, params).forward(tokens, passes=passes, predicts=GROUP.predicts))
    tokens, predicted = batch["tokens"].copy(), np.full(batch["tokens"].shape, PAD)
    for t in range(8, GROUP.seq_len):
        tokens[:, t] = np.where(own[:, t], predicted[:, t - 1], batch["tokens"][:, t])
        so_far = np.where(np.arange(GROUP.seq_len) <= t, tokens, PAD)
        predicted[:, t] = np.asarray(forward(so_far))[:, t].argmax(-1)
    assert (tokens != batch["tokens"]).any(1).sum() >= 4, "the model should not be right by chance"
    read, said = jax.jit(functools.partial(own_chain.write, model, passes=passes, predicts=GROUP.predicts))(jnp.asarray(batch["tokens"]), own)
    np.testing.assert_array_equal(read, tokens)
    np.testing.assert_array_equal(said, predicted)


def test_rows_agree_with_a_plain_recount():
    """A model that adds 1 in Z60: a chain of its own counts on from the query, whatever the word is."""
    table = np.arange(1, GROUP.vocab_size + 1) % 61
    rows = runner.evaluate(Follows(GROUP, table), GROUP, passes=[1], examples=600, batch_size=250, own_chain=True)
    batch, right = GROUP.batch(0, "test", 0, 600), {}
    for tokens, targets, k in zip(batch["tokens"], batch["targets"], batch["difficulty"]["k"][:, 0]):
        said = int(tokens[8])
        for _ in range(k - 1):
            said = int(table[said])
        right.setdefault(int(k), []).append(said == targets[8 + k - 2])
    assert 0 < sum(map(sum, right.values())) < 100
    mean = lambda flags: sum(flags) / len(flags)
    for row in rows:
        flags = right[row["value"]] if row["axis"] == "k" else sum(right.values(), [])
        assert row["own_chain_exact_accuracy"] == row["own_chain_label_accuracy"] == mean(flags) and row["answers"] == len(flags)
        assert row["tokens_awake"] == pytest.approx(row["value"] - 1 if row["value"] else (batch["difficulty"]["k"] - 1).mean())


def test_a_wrong_word_of_a_chain_costs_the_answer_only_where_the_model_writes_it():
    """Each token predicts the one after it as the written chain has it, but for one token that is misread."""
    word = GROUP.batch(0, "test", 0, 64)
    (at,) = np.flatnonzero(word["difficulty"]["k"][:, 0] == 4)[:1]
    start = 8
    chain = [int(t) for t in word["targets"][at, start : start + 3]]
    assert len({int(word["tokens"][at, start]), *chain}) == 4
    table = np.zeros(GROUP.vocab_size)
    table[[word["tokens"][at, start], chain[0], chain[1]]] = chain
    grade = lambda table: runner_row(table, at)
    assert grade(table) == (1, 1)
    other = next(t for t in range(1, 61) if t not in chain)
    table[word["tokens"][at, start]] = other  # the first product is wrong, and nothing good follows from it
    assert grade(table) == (1, 0)
    table[other] = chain[1]  # unless the model finds back
    assert grade(table) == (1, 1)
    table[chain[1]] = -1  # no number
    assert grade(table) == (0, 0)


def runner_row(table, at):
    """(right with the chain given, right with its own) of one example."""
    graph, params = nnx.split(Follows(GROUP, table), nnx.Param)
    arrays = [jnp.asarray(GROUP.batch(0, "test", at, 1)[key]) for key in ("tokens", "targets", "loss_mask", "answer")]
    shared = dict(passes=1, predicts=GROUP.predicts, answers=1, halt=None)
    given = runner._grade(graph, params, *arrays[:2], arrays[3], **shared)
    return int(given[3][0, 0]), int(own_chain.grade(graph, params, *arrays, marker=None, **shared)[1][0, 0])


def test_a_marked_answer_is_what_follows_the_first_marker():
    example = GSM.example(0, "test", 3)
    own = np.asarray(own_chain.written(*(jnp.asarray(example[key])[None] for key in ("tokens", "targets", "loss_mask"))))[0]
    first, marker, answer = np.flatnonzero(own)[0], GSM.answer_marker, int(example["targets"][-1])
    assert GSM.token(int(example["tokens"][first - 1])).startswith("Solution") and own[first:].all() and example["tokens"][-1] == marker
    spare = next(t for t in range(1, GSM.vocab_size) if t not in example["tokens"] and t != answer)
    begin = int(example["tokens"][first - 1])

    def right(**table):
        told = np.full(GSM.vocab_size, spare)
        for token, said in table.items():
            told[int(token[1:])] = said
        graph, params = nnx.split(Follows(GSM, told), nnx.Param)
        arrays = [jnp.asarray(example[key])[None] for key in ("tokens", "targets", "loss_mask", "answer")]
        return int(own_chain.grade(graph, params, *arrays, passes=1, predicts=GSM.predicts, answers=1, marker=marker, halt=None)[1][0, 0])

    assert right(**{f"t{begin}": marker, f"t{marker}": answer}) == 1  # a chain of no sentence
    assert right(**{f"t{begin}": spare, f"t{spare}": marker, f"t{marker}": answer}) == 1
    assert right(**{f"t{begin}": marker, f"t{marker}": spare}) == 0
    assert right(**{f"t{begin}": spare, f"t{spare}": answer, f"t{answer}": answer}) == 0  # the answer without its marker


def test_tables_show_both():
    rows = runner.evaluate(Follows(GROUP, np.zeros(GROUP.vocab_size)), GROUP, passes=[1], examples=6, batch_size=6, own_chain=True)
    assert [line in report.table(rows).columns[2]._cells[0] for line in ("own chain, exact", "own chain, label")] == [True, True]
    assert "tokens awake a sequence" in "".join(report.cost_lines(rows, ModelConfig(vocab_size=62, window=4)))
    ks = [row for row in rows if row["axis"] == "k"]
    pooled = bins.pool(rows, {"k": [bins.Span(2, 6)]})[-1]
    assert pooled["own_chain_exact_accuracy"] == 0 and pooled["answers"] == 6
    assert pooled["tokens_awake"] == pytest.approx(sum(row["tokens_awake"] * row["answers"] for row in ks) / 6)


@pytest.mark.parametrize(
    "task, model, message",
    [
        (tasks.get("group", length=4), {}, "task group as given has no chain of thought"), (GROUP, {"sleep": SleepConfig(predict_passes=2)}, "predict_passes=2"),
        (GROUP, {"sparse": SparseConfig(count=2)}, "sparse.count=2 can't write token by token"),
    ],
)  # fmt: skip
def test_what_has_no_chain_to_write_is_refused(task, model, message):
    config = ModelConfig(vocab_size=task.vocab_size, window=task.window, **model)
    with pytest.raises(UsageError, match=message):
        own_chain.check(config, task)
