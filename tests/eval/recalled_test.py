"""What is known of an answer: its cost and how far a chain is right, against loops over tokens; and a study's outcomes as points of the capacity command."""
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sleepnet import tasks
from sleepnet.config import ModelConfig, RunConfig, from_dict, to_dict
from sleepnet.errors import UsageError
from sleepnet.eval import recalled, runner
from sleepnet.eval.capacity import outcomes
from sleepnet.models.hybrid import Hybrid


def by_loops(cost, hit, answer, answers):
    found = []
    for costs, hits, members in zip(cost, hit, answer):
        for number in range(answers):
            places = [t for t in range(len(members)) if members[t] == number]
            leading = []
            for t in places:
                if not hits[t]:
                    break
                leading.append(t)
            unsure = sum(math.exp(-costs[t]) < 0.5 for t in leading)
            found.append((sum(float(costs[t]) for t in places), len(leading), unsure, unsure * (len(leading) == len(places))))
    return np.array(found).reshape(len(cost), answers, 4)


def test_counts_are_those_of_loops_over_tokens():
    draw = np.random.default_rng(0)
    answer = draw.integers(-1, 3, (40, 12)).astype(np.int32)
    cost, hit = draw.exponential(0.7, answer.shape).astype(np.float32), draw.random(answer.shape) < 0.8
    found, want = recalled.counts(cost, hit, answer, 3), by_loops(cost, hit, answer, 3)
    for i, key in enumerate(("cost", "leading", "leading_unsure", "exact_unsure")):
        np.testing.assert_allclose(found[key], want[..., i], rtol=1e-6)
    assert want[..., 3].any() and (want[..., 2] > want[..., 3]).any() and recalled.counts(cost, None, answer, 3).keys() == {"cost"}
    told = recalled.told(found, answer[:, :3] >= 0, 100)
    assert told["own_chain_leading"] == int(want[..., 1][answer[:, :3] >= 0].sum()) and told["label_loss"] == pytest.approx(want[..., 0][answer[:, :3] >= 0].sum() / 100)
    assert recalled.told(recalled.counts(np.full((1, 2), np.nan), None, np.zeros((1, 2), np.int32), 1), np.ones((1, 1), bool), 2) == {"label_loss": None}


def test_a_row_over_all_tells_the_loss_by_hand_and_changes_nothing_else():
    book = tasks.get("phonebook", kind="book", entries=7, digits=3, names=3, window=8)
    model = Hybrid(ModelConfig(vocab_size=book.vocab_size, window=8, width=8, heads=1, head_dim=4, mlp_width=8, pattern="A"), nnx.Rngs(0))
    plain, rows = (runner.evaluate(model, book, passes=[1], examples=7, batch_size=4, own_chain=True, recall=recall) for recall in (False, True))
    batch = book.batch(0, "test", 0, 7)
    logits = np.asarray(model.forward(jnp.asarray(batch["tokens"]), passes=1, predicts=book.predicts), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    mask = batch["answer"] >= 0
    assert rows[0]["label_loss"] == pytest.approx(-np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0][mask].mean(), rel=1e-5)
    assert rows[0]["own_chain_leading"] <= rows[0]["own_chain_label_accuracy"] * 21 + 1e-9
    new = {"label_loss", "own_chain_leading", "own_chain_leading_unsure", "own_chain_exact_unsure"}
    assert [{key: value for key, value in row.items() if key not in new} for row in rows] == plain and not any(new & row.keys() for row in rows[1:])


def left(folder, name, seed, arguments, rank, row, **changes):
    """Writes an outcome as a study would."""
    kind = {"kind": "low_rank", "names": "mlp", "rank": rank} if rank else {}
    config = to_dict(from_dict(RunConfig, {"task": {"name": "phonebook", "arguments": arguments}, "adapters": kind, "model": {"sleep": {"passes": 1}}}))
    own = {"passes": 1, "axis": "all", "label_loss": 0.5, "answers": 4, **row}
    values = {
        "arm": name, "seed": seed, "config": config, "rows": [{**own, "axis": "place", "label_loss": 9.0}, own], "begun": [{**own, "label_loss": 2.5}],
        "curve": [{"step": 5, "tokens": 12 * 8, "exact_accuracy": 0.25}, {"step": 9, "tokens": 12 * 16, "exact_accuracy": 0.5}], "result": {"trained_parameters": 640, "parameters": 9999},
        **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-seed{seed}.json").write_text(json.dumps(json.loads(json.dumps(values))))


BOOK, STRING = {"kind": "book", "entries": 4}, {"kind": "string", "digits": 30}
OF_BOOK = {"tokens_graded": 40, "own_chain_exact_accuracy": 0.5, "own_chain_leading": 31, "own_chain_exact_unsure": 3, "own_chain_leading_unsure": 7}
OF_STRING = {**OF_BOOK, "tokens_graded": 30, "answers": 1, "own_chain_exact_accuracy": 0.0, "own_chain_leading": 19}


def test_outcomes_become_points(tmp_path):
    left(tmp_path, "sft_r2_l40", 3, BOOK, 2, OF_BOOK)
    left(tmp_path, "r8_l30", 0, STRING, 8, OF_STRING)
    left(tmp_path, "full", 0, BOOK, None, OF_BOOK)
    left(tmp_path / "phases", "other", 0, BOOK, 2, OF_BOOK)  # what others start from
    left(tmp_path, "looked_up", 0, {"kind": "context"}, 2, OF_BOOK)  # not by heart
    full, string, book = outcomes.points(tmp_path)
    assert (book.arm, book.r, book.l, book.seed, book.loss_before, book.loss_after, book.parameters) == ("sft", 2, 40, 3, 2.5, 0.5, 640)
    assert (book.recalled_digits, book.recalled_below_half, book.curve) == (20, 3, ((8.0, 0.25), (16.0, 0.5)))  # two whole entries
    assert (string.arm, string.recalled_digits, string.recalled_below_half, string.curve) == ("points", 19, 7, ())
    assert (full.arm, full.r) == ("full", None)


def test_outcomes_that_are_no_points_are_refused_in_a_line(tmp_path):
    with pytest.raises(UsageError, match=r"holds no finished run of a task to be known by heart: give --outcomes"):
        outcomes.points(tmp_path)
    left(tmp_path, "part", 0, BOOK, 2, {**OF_BOOK, "tokens_graded": 20})
    with pytest.raises(UsageError, match=r"part-seed0.json: 20 digits were graded of 40 to be known: train with eval.examples=4"):
        outcomes.points(tmp_path)
    left(tmp_path, "part", 0, BOOK, 2, OF_BOOK, begun=[])
    with pytest.raises(UsageError, match=r"part-seed0.json does not tell 'label_loss': it is older than that"):
        outcomes.points(tmp_path)
