"""mqar against a dict that is filled while reading, the power law by plain sampling, and the layout of zoology."""
import math
import random

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks.machinery import draws as drawing

CASES = [{}, {"vocabulary": 40, "length": 44, "pairs": (2, 8), "queries": 2, "window": 6}, {"noise": "pad", "pairs": 7, "power": 1}]


def read(task, tokens):
    """Returns ({key: value} in order of reading, [(slot from 1, key)]) of one example, from its words."""
    words = [task.token(int(token)) for token in tokens]
    at = task.seq_len - (task.length - 2 * np.max(task.pairs))
    context = words[:at]
    while context and context[0] == "PAD":
        context = context[1:]
    assert "PAD" not in context and all(w[0] == "kv"[i % 2] for i, w in enumerate(context))
    table = {}
    for i in range(0, len(context), 2):
        assert context[i] not in table and context[i + 1] not in table.values()
        table[context[i]] = context[i + 1]
    queries = [(1 + (i - at) // 2, words[i]) for i in range(at, task.seq_len) if words[i] in table]
    assert all((i - at) % 2 == 0 for i in range(at, task.seq_len) if words[i] in table)
    return table, queries


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", CASES)
def test_every_query_is_answered_by_the_dict(arguments, split):
    task = tasks.get("mqar", **arguments)
    batch = task.batch(3, split, 0, 80)
    for i in range(80):
        table, queries = read(task, batch["tokens"][i])
        least, most = (task.pairs, task.pairs) if isinstance(task.pairs, int) else task.pairs
        assert least <= len(table) <= most and len({key for _, key in queries}) == len(queries) == task.answers
        graded, labels = batch["answer"][i], [task.token(int(t)) for t in batch["targets"][i]]
        at = np.flatnonzero(graded >= 0)
        assert [labels[p] for p in at] == [table[key] for _, key in queries]
        assert sorted(graded[at].tolist()) == list(range(task.answers))
        np.testing.assert_array_equal(task.solve(batch["tokens"][i]), batch["targets"][i])
        (instance,) = task.instances(batch["tokens"][i])
        assert {task.token(key): task.token(value) for key, value in instance} == table
        for p, (slot, _) in zip(at, queries):
            gap = batch["difficulty"]["gap"][i, graded[p]]
            assert gap <= slot < 2 * gap and math.log2(gap).is_integer()
        assert set(batch["difficulty"]["pairs"][i].tolist()) == {len(table)}
        if task.noise == "pad":
            assert (batch["tokens"][i] != 0).sum() == 2 * len(table) + len(queries)


def test_layout_of_zoology():
    task = tasks.get("mqar")
    assert (task.vocab_size, task.seq_len, task.window, task.predicts, task.answers) == (8192, 112, 56, (False, True), 4)
    tight = tasks.get("mqar", window=8)
    assert (tight.seq_len, tight.predicts) == (64, (False,) + (True,) * 7)
    np.testing.assert_array_equal(tight.batch(0, "train", 0, 9)["tokens"], task.batch(0, "train", 0, 9)["tokens"][:, 48:])
    wide = tasks.get("mqar", length=512, pairs=64, window=32)
    assert (wide.seq_len, wide.predicts) == (512, (False,) * 4 + (True,) * 12)
    tokens = task.batch(0, "train", 0, 4000)["tokens"]
    assert tokens[:, 48:56:2].min() >= 1 and tokens[:, 48:56:2].max() <= 4095
    assert tokens[:, 49:57:2].min() >= 4096 and tokens[:, 49:57:2].max() <= 8191
    # the noise is spread over the whole vocabulary: 12 sixteenths of it, and PAD nowhere
    noise = np.bincount(tokens[:, 57::2].ravel() // 512, minlength=16) / tokens[:, 57::2].size
    assert noise == pytest.approx(1 / 16, abs=5 * np.sqrt(1 / 16 / tokens[:, 57::2].size)) and tokens[:, 56:].min() > 0


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_slots_follow_the_power_law(power):
    task, size = tasks.get("mqar", length=40, pairs=5, power=power), 8000
    asked = task.batch(0, "train", 0, size)["answer"][:, task.seq_len - 30 :: 2] >= 0
    rng, plain = random.Random(0), np.zeros(15)
    weights = [x ** (power - 1) for x in range(1, 16)]
    for _ in range(size):
        slots = list(range(15))
        for _ in range(5):
            (slot,) = rng.choices(slots, [weights[s] for s in slots])
            slots.remove(slot)
            plain[slot] += 1
    assert asked.mean(0) == pytest.approx(plain / size, abs=5 * np.sqrt(2 * 0.25 / size))


def test_which_pair_and_how_many_pairs_are_even():
    task = tasks.get("mqar", length=40, pairs=(3, 6), queries=2)
    batch = task.batch(1, "train", 0, 6000)
    n = batch["difficulty"]["pairs"][:, 0]
    assert np.bincount(n)[3:] == pytest.approx(1500, abs=5 * np.sqrt(1125))
    places = np.zeros((7, 6))
    for tokens, size in zip(batch["tokens"], n):
        table, queries = read(task, tokens)
        for _, key in queries:
            places[size, list(table).index(key)] += 1
    for size in range(3, 7):
        share = places[size, :size] / places[size].sum()
        assert share == pytest.approx(1 / size, abs=5 * np.sqrt(0.25 / places[size].sum()))


def test_held_out_pairs_are_never_trained_on():
    task = tasks.get("mqar", vocabulary=16, length=12, pairs=2)
    seen = {}
    for split, size in (("train", 9000), ("validation", 300), ("test", 300)):
        pairs = np.concatenate([task.batch(seed, split, 0, size)["tokens"][:, 4:8] for seed in (0, 1)]).tolist()
        seen[split] = {frozenset([(a, b), (c, d)]) for a, b, c, d in pairs}
    assert all(seen.values())
    # two of 7 keys, and two of 8 values in order
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 21 * 56


def test_baselines_are_what_the_guesses_score():
    task = tasks.get("mqar", vocabulary=20, length=24, pairs=(2, 4), queries=2)
    batch, share = task.batch(0, "test", 0, 3000), {2: [], 3: [], 4: []}
    constant = np.bincount(batch["targets"][batch["loss_mask"]], minlength=20)[10:] / batch["loss_mask"].sum()
    rng = random.Random(0)
    for i in range(3000):
        table, queries = read(task, batch["tokens"][i])
        share[len(table)] += [rng.choice(list(table.values())) == table[key] for _, key in queries]
    baselines = task.baselines()
    for n, right in share.items():
        assert np.mean(right) == pytest.approx(baselines["in_context"]["by"]["pairs"][n]["exact"], abs=0.05)
    assert np.mean(sum(share.values(), [])) == pytest.approx(baselines["in_context"]["label"], abs=0.03)
    assert constant == pytest.approx(baselines["constant"]["label"], abs=0.03)
    assert baselines["constant"]["label"] == baselines["chance"]["exact"] == pytest.approx(1 / 10)
    assert list(baselines["chance"]["by"]["gap"]) == [1, 2, 4, 8]


def test_distinct_draws_are_the_plain_ones():
    rng = np.random.Generator(np.random.Philox(0))
    stream = np.minimum(rng.geometric(0.2, (60, 4096)), 20)
    count = rng.integers(1, 15, 60)
    got = drawing.distinct(lambda row, draws: stream[row, :draws], count, 15, 3)
    for row in range(60):
        plain = list(dict.fromkeys(stream[row].tolist()))[: count[row]]
        assert got[row].tolist() == plain + [0] * (15 - count[row])
        assert drawing.first_distinct(iter(stream[row].tolist()), int(count[row])) == plain


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"vocabulary": 8}, "pairs=4 are more than the 3 keys of vocabulary=8; use vocabulary=10"),
        ({"length": 15}, "length=15 must be even"),
        ({"length": 14}, "length=14 leaves 3 slots after pairs=4 for queries=4; use length=16"),
        ({"length": 14, "pairs": (2, 6)}, "length=14 leaves 1 slots after pairs=6 for queries=2; use length=16"),
        ({"queries": 5}, "queries=5 must be a whole number from 1 to 4"),
        ({"pairs": (1, 2, 3)}, "must be a number, or a range"),
        ({"pairs": (5, 3)}, "pairs=3 must be a whole number of at least 5"),
        ({"power": 2}, "power=2 must be a number from 0 to 1"),
        ({"noise": "rnd"}, "did you mean 'random'"),
        ({"window": 7}, "window=7 would cut a pair; use window=8"),
        ({"vocabulary": 5, "length": 4, "pairs": 1}, "is empty"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("mqar", **arguments)


def test_words_for_readers():
    task = tasks.get("mqar", vocabulary=10, length=16, pairs=2, power=1)
    text = task.describe()
    assert "2 pairs `key value`" in text and "window 1, sleeps: PAD×8 k" in text and "in_context" in text
    example = task.example(0, "test", 0)
    table, queries = read(task, example["tokens"])
    assert task.narrate(example).splitlines() == [f"Slot {s} asks for {k}, which stood beside {table[k]}." for s, k in queries]
