"""Evaluation: counts against a recount in plain Python, intervals against scipy, and what is shown and written."""
import io
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from rich.console import Console

from sleepnet import tasks
from sleepnet.config import ModelConfig
from sleepnet.errors import UsageError
from sleepnet.eval import paired, plots, report, runner
from sleepnet.eval.intervals import wilson
from sleepnet.models import flops
from sleepnet.models.hybrid import Hybrid


@pytest.fixture(autouse=True, scope="module")
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


class Oracle(nnx.Module):
    """Knows rule110 at 0 steps: the label is the row's first cell. Fails with every N where the row's last cell is a one.

    With N = 3 its logits at the first query are no numbers, and the largest of them stands at the right answer.
    """

    def __init__(self, task):
        self.config = ModelConfig(vocab_size=task.vocab_size, window=task.window)
        self.unused = nnx.Param(jnp.zeros((2, 3)))
        self.strings, self.width = task.strings, task.width

    def forward(self, tokens, passes, predicts):
        assert predicts[-1] and not any(predicts[:-1])
        context = tokens[:, : self.strings * self.width].reshape(-1, self.strings, self.width)
        first, last = context[:, :, 0], context[:, :, -1]
        answer = jnp.where(last == 2, 3 - first, first)
        logits = jax.nn.one_hot(answer, self.config.vocab_size)
        broken = logits.at[:, 0].set(jnp.where(logits[:, 0] > 0, jnp.nan, 0.0))
        logits = jnp.where(passes == 3, broken, logits)
        silent = jnp.zeros((tokens.shape[0], context.shape[1] * context.shape[2], self.config.vocab_size))
        return jnp.concatenate([silent, logits], axis=1)


class Bigram(nnx.Module):
    """Guesses names from the last two tokens and N: wrong mostly, right sometimes, and compiled at once."""

    def __init__(self, task):
        self.config = ModelConfig(vocab_size=task.vocab_size, window=task.window)
        self.tables = nnx.Param(jax.random.normal(jax.random.key(0), (2, task.vocab_size, task.vocab_size)))
        self.letters = task.names

    def forward(self, tokens, passes, predicts):
        logits = self.tables[...][0][tokens] + jnp.float32(passes) * self.tables[...][1][jnp.roll(tokens, 1, axis=1)]
        return logits.at[:, :, 3 : 3 + 2 * self.letters].add(5.0)  # PAD, <bos> and <ans> come first


RULE = tasks.get("rule110", width=12, strings=3, steps=0)
DEPO = tasks.get("depo", nodes=5, hops=4, queries=3, names=3, name_tokens=(1, 2), min_nodes=2)
EXAMPLES = 61


@pytest.fixture(scope="module")
def evaluated(strict):
    """Rows on depo's training split, where n varies and some examples have fewer answers than others."""
    model = Bigram(DEPO)
    return model, runner.evaluate(model, DEPO, passes=(1, 3), examples=EXAMPLES, batch_size=8, seed=5, split="train")


def pick(rows, passes, axis="all", value=None):
    (row,) = [row for row in rows if (row["passes"], row["axis"], row["value"]) == (passes, axis, value)]
    return row


def recount(model, task, passes, seed, split, examples):
    """{(axis, value): [answers, tokens, right tokens, exact answers]} by loops over one example after the other."""
    counts, graph, params = {}, *nnx.split(model, nnx.Param)
    forward = jax.jit(lambda params, tokens: nnx.merge(graph, params).forward(tokens, passes=passes, predicts=task.predicts))
    for index in range(examples):
        example = task.example(seed, split, index)
        logits = np.asarray(forward(params, example["tokens"][None]))[0]
        for group in range(task.answers):
            places = [t for t in range(task.seq_len) if example["answer"][t] == group]
            if not places:
                continue
            right = sum(int(logits[t].argmax()) == int(example["targets"][t]) for t in places)
            keys = [("all", None)] + [(axis, int(example["difficulty"][axis][group])) for axis in task.difficulty_axes]
            for key in keys:
                entry = counts.setdefault(key, [0, 0, 0, 0])
                for i, value in enumerate((1, len(places), right, int(right == len(places)))):
                    entry[i] += value
    return counts


def assert_rows_are(rows, counts):
    assert {(row["axis"], row["value"]) for row in rows} == set(counts)
    for row in rows:
        answers, tokens, right, exact = counts[row["axis"], row["value"]]
        assert (row["answers"], row["tokens_graded"]) == (answers, tokens)
        assert row["label_accuracy"] == right / tokens and row["exact_accuracy"] == exact / answers
        assert row["label_interval"] == list(wilson(right, tokens)) and row["exact_interval"] == list(wilson(exact, answers))
        assert row["nonfinite_answers"] == 0


@pytest.mark.parametrize("passes", [1, 3])
def test_rows_agree_with_a_plain_recount(evaluated, passes):
    model, rows = evaluated
    counts = recount(model, DEPO, passes, 5, "train", EXAMPLES)
    answers, tokens, right, exact = counts["all", None]
    assert answers < 3 * EXAMPLES and answers < tokens and 0 < exact < right < tokens  # nothing here is trivial
    assert_rows_are([row for row in rows if row["passes"] == passes], counts)


def test_a_hybrid_is_graded_with_the_passes_asked_for():
    config = ModelConfig(vocab_size=DEPO.vocab_size, window=DEPO.window, width=8, heads=1, head_dim=4, mlp_width=8)
    model = Hybrid(config, nnx.Rngs(0))
    rows = runner.evaluate(model, DEPO, passes=[2], examples=9, batch_size=5)
    assert_rows_are(rows, recount(model, DEPO, 2, 0, "test", 9))


def settled_by_hand(model, wake, sleep, example, halt, most):
    """An example read window by window; each sleep is run for 1, 2, … passes until S changes by less than `halt`. Logits, mean passes."""
    state, used = model.init_state(1), []
    for start in range(0, RULE.seq_len, RULE.window):
        logits, after = wake(model, jnp.asarray(example["tokens"][None, start:start + RULE.window]), state)
        if start + RULE.window >= RULE.seq_len:
            return logits, np.mean(used)
        ends = [sleep(model, after, n) for n in range(1, most + 1)]
        vectors = [np.concatenate([np.asarray(layer, np.float64).ravel() for layer in end.fast_weights.layers]) for end in ends]
        gaps = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in zip(vectors, vectors[1:])]
        used.append(next((n for n, gap in enumerate(gaps, 2) if gap < halt), most))
        state = ends[used[-1] - 1]


def test_sleeps_that_end_by_themselves_are_graded_with_their_own_passes():
    config = ModelConfig(vocab_size=RULE.vocab_size, window=RULE.window, pattern="AG", width=16, heads=1, head_dim=8, mlp_width=16)
    model, halt, most, count = Hybrid(config, nnx.Rngs(3)), 0.08, 5, 6
    rows = runner.evaluate(model, RULE, passes=(most,), examples=count, batch_size=4, halt=halt)
    right, used = [], []
    wake, sleep = nnx.jit(lambda model, tokens, state: model.wake(tokens, state)), nnx.jit(lambda model, state, n: model.sleep(state, n), static_argnums=2)
    for index in range(count):
        example = RULE.example(0, "test", index)
        logits, passes = settled_by_hand(model, wake, sleep, example, halt, most)
        used.append(passes)
        asked = example["loss_mask"][-logits.shape[1]:]
        right += list(np.argmax(np.asarray(logits)[0][asked], axis=-1) == example["targets"][-logits.shape[1]:][asked])
    row = pick(rows, most)
    assert len(set(used)) > 1 and max(used) < most + 1 and min(used) < most, "a tolerance that tells them apart"
    assert row["halt"] == halt and row["passes_used"] == pytest.approx(np.mean(used)) and row["label_accuracy"] == pytest.approx(np.mean(right))
    whole = [flops.forward_flops(config, RULE.predicts, RULE.seq_len, n) for n in (1, 2)]
    assert row["flops"] == pytest.approx(count * (whole[0] + (np.mean(used) - 1) * (whole[1] - whole[0])))
    screen = Console(file=io.StringIO(), width=200)
    report.show(rows, config, screen)
    assert f"N ≤ {most}" in screen.file.getvalue() and f"{np.mean(used):.2f}" in screen.file.getvalue()


def test_an_oracle_is_graded_as_it_errs():
    rows = runner.evaluate(Oracle(RULE), RULE, passes=(1, 3), examples=150, batch_size=64)
    ones = RULE.batch(0, "test", 0, 150)["tokens"][:, :36].reshape(150, 3, 12)[:, :, -1] == 2
    once, thrice = pick(rows, 1), pick(rows, 3)
    assert once["label_accuracy"] == (~ones).sum() / 450 and once["exact_accuracy"] == (~ones.any(axis=1)).mean()
    assert thrice["nonfinite_answers"] == 150 and thrice["exact_accuracy"] == 0
    assert thrice["label_accuracy"] == (~ones[:, 1:]).sum() / 450


def test_rows_can_say_which_answers_were_right():
    """The oracle's: those whose rows all end in a zero, in the order of the test, whatever the batches are."""
    rows = runner.evaluate(Oracle(RULE), RULE, passes=(1, 3), examples=50, batch_size=16, keep_answers=True)
    ones = RULE.batch(0, "test", 0, 50)["tokens"][:, :36].reshape(50, 3, 12)[:, :, -1] == 2
    right = ~ones.any(axis=1)
    assert 0 < right.sum() < 50 and np.array_equal(paired.unpack(pick(rows, 1)["right_answers"], 50), right)
    assert not paired.unpack(pick(rows, 3)["right_answers"], 50).any()


def test_difficulty_rows_sum_to_all(evaluated):
    _, rows = evaluated
    for passes, axis in itertools.product((1, 3), DEPO.difficulty_axes):
        parts, total = [row for row in rows if (row["passes"], row["axis"]) == (passes, axis)], pick(rows, passes)
        for key in ("answers", "tokens_graded"):
            assert sum(row[key] for row in parts) == total[key]
        for kind, weight in (("label", "tokens_graded"), ("exact", "answers")):
            summed = sum(row[f"{kind}_accuracy"] * row[weight] for row in parts)
            assert summed == pytest.approx(total[f"{kind}_accuracy"] * total[weight])


@pytest.mark.parametrize("batch_size", [1, 7, 60, 61, 500])
def test_batch_size_and_padding_change_nothing(evaluated, batch_size):
    model, rows = evaluated
    assert runner.evaluate(model, DEPO, passes=(1, 3), examples=EXAMPLES, batch_size=batch_size, seed=5, split="train") == rows


def test_a_second_evaluation_compiles_nothing(evaluated):
    model, rows = evaluated
    compiled = runner._grade._cache_size()
    again = nnx.merge(*nnx.split(model, nnx.Param))
    runner.evaluate(again, DEPO, passes=(5, 3, 1), examples=8, batch_size=8, split="validation")  # nor does an N that was not asked for before
    assert runner._grade._cache_size() == compiled


def test_baselines_and_cost_come_with_each_row():
    model, calls = Bigram(DEPO), []
    rows = runner.evaluate(model, DEPO, passes=[2], examples=5, batch_size=2, progress=lambda *call: calls.append(call))
    told, config = DEPO.baselines(), model.config
    for row in rows:
        assert set(row["baselines"]) == set(told)
        for name, scores in row["baselines"].items():
            source = told[name] if row["axis"] == "all" else told[name]["by"][row["axis"]][row["value"]]
            assert scores == {"label": source["label"], "exact": source["exact"]}
        assert row["tokens"] == 5 * DEPO.seq_len and row["split"] == "test"
        assert row["flops_sleep"] == flops.sleep_flops(config, 2) and row["flops_wake_token"] == flops.wake_token_flops(config)
        assert row["flops"] == 5 * flops.forward_flops(config, DEPO.predicts, DEPO.seq_len, 2)
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_training_examples_have_no_baselines(evaluated):
    assert all(row["baselines"] == {} for row in evaluated[1])


def test_seeds_and_splits_give_other_examples():
    model = Oracle(RULE)
    read = lambda **which: pick(runner.evaluate(model, RULE, passes=[1], examples=300, batch_size=300, **which), 1)["label_accuracy"]
    assert len({read(), read(seed=1), read(split="validation")}) == 3


@pytest.mark.parametrize("right, total", [(0, 5), (1, 5), (5, 5), (37, 100), (999, 1000), (0, 1)])
def test_wilson_agrees_with_scipy(right, total):
    expected = scipy.stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_solves_its_equation():
    for end in wilson(30, 80):
        assert abs(30 / 80 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 80))
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 9)[0] == 0.0 and wilson(9, 9)[1] == 1.0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"passes": [0]}, "passes=0 must be at least 1"),
        ({"passes": []}, "passes="),
        ({"examples": 0}, "examples=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"split": "tset"}, "did you mean 'test'"),
    ],
)
def test_wrong_requests_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        runner.evaluate(Oracle(RULE), RULE, **{"passes": [1], "examples": 4, "batch_size": 4, **changes})


def test_a_model_of_another_task_is_refused():
    other = tasks.get("rule110", width=13, strings=3, steps=0)
    with pytest.raises(UsageError, match="window is 12, task rule110 has 13"):
        runner.evaluate(Oracle(RULE), other, passes=[1], examples=4, batch_size=4)
    with pytest.raises(UsageError, match=f"knows 4 tokens .* task depo has {DEPO.vocab_size}"):
        runner.evaluate(Oracle(RULE), DEPO, passes=[1], examples=4, batch_size=4)


def test_rows_are_written_as_json_lines_and_read_back(evaluated, tmp_path):
    _, rows = evaluated
    path = tmp_path / "new" / "test.jsonl"
    report.write_rows(path, rows, model="m", seed=5)
    assert report.read_rows(path) == [{"model": "m", "seed": 5, **row} for row in rows]
    assert all(set(json.loads(line)) >= {"passes", "axis", "exact_interval"} for line in path.read_text().splitlines())
    assert [file.name for file in path.parent.iterdir()] == ["test.jsonl"]


def test_a_failed_write_leaves_the_old_file(evaluated, tmp_path):
    path = tmp_path / "test.jsonl"
    report.write_rows(path, evaluated[1])
    before = path.read_text()
    with pytest.raises(ValueError):
        report.write_rows(path, [{"flops": float("nan")}])
    assert path.read_text() == before


def test_the_table_has_a_row_for_each_value_and_a_column_for_each_n():
    rows = runner.evaluate(Oracle(RULE), RULE, passes=(1, 3), examples=40, batch_size=40)
    console = Console(width=60, record=True, file=io.StringIO())
    report.show(rows, Oracle(RULE).config, console)
    text = console.export_text()
    row = pick(rows, 1, "steps", 0)
    half = (row["exact_interval"][1] - row["exact_interval"][0]) / 2
    for words in (
        "steps = 0", "N = 1", "N = 3", "chance", "constant", "seven cells", f"{row['exact_accuracy']:.3f} ±{half:.3f}".replace("±0", "±"), "0.125",
        "N = 3: 40 answers have logits that are no numbers", "fast weights 8,192 bytes", "1,560 tokens read",
    ):
        assert words in text, words
    assert text.index("steps = 0") < text.index(" all ")


@pytest.mark.parametrize("number, text", [(0, "0 "), (7, "7 "), (12_345, "12.3 k"), (999_600, "1 M"), (5e12, "5 T"), (2e21, "2e+03 E")])
def test_amounts(number, text):
    assert report.amount(number) == text


def test_pictures_are_drawn(tmp_path):
    rows = runner.evaluate(Bigram(DEPO), DEPO, passes=(1, 2), examples=30, batch_size=30)
    paths = plots.plot(rows, tmp_path, "a model")
    alone = plots.plot(runner.evaluate(Oracle(RULE), RULE, passes=[1], examples=9, batch_size=9), tmp_path / "one", "an oracle")
    assert [path.name for path in paths] == ["test_k.png", "test_k_heat.png"]  # every n is 5: nothing to see along that axis
    for file in (*paths, *alone):
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["test_steps.png", "test_steps_heat.png"]
    panel = plots.draw([row for row in rows if row["axis"] == "k"], "t").axes[0]
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert lines.keys() == {"N = 1", "N = 2", "chance", "constant", "in context"}
    np.testing.assert_array_equal(lines["N = 2"].get_ydata(), [pick(rows, 2, "k", k)["exact_accuracy"] for k in (1, 2, 4)])
