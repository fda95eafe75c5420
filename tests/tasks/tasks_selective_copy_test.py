"""selective_copy against the list of what is no blank, the laws of letters and places by plain sampling, and MAD's sizes."""
import random

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError

CASES = [{}, {"length": 31, "copies": (3, 7), "letters": 30, "window": 10}, {"length": 12, "copies": 6, "letters": 4}]


def read(task, tokens):
    """Returns (words of the context without padding, words of the queries) of one example."""
    words = [task.token(int(token)) for token in tokens]
    queries = words[-np.max(task.copies) :]
    context = words[: -len(queries)]
    start = next(i for i, word in enumerate(context) if word != "PAD")
    assert "PAD" not in context[start:] and "?" not in context
    return context[start:], queries


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", CASES)
def test_labels_are_the_list_of_letters(arguments, split):
    task = tasks.get("selective_copy", **arguments)
    batch = task.batch(3, split, 0, 80)
    for tokens, targets, n in zip(batch["tokens"], batch["targets"], batch["difficulty"]["copies"][:, 0]):
        context, queries = read(task, tokens)
        string = [word for word in context if word != "."]
        assert len(string) == n and queries == ["?"] * n + ["PAD"] * (len(queries) - n)
        assert len(context) + len(queries) == task.length
        labels = [task.token(int(token)) for token in targets]
        assert labels[: -len(queries)] == ["PAD"] * (task.seq_len - len(queries))
        assert labels[-len(queries) :] == string + ["PAD"] * (len(queries) - n)
        np.testing.assert_array_equal(task.solve(tokens), targets)
        assert [[task.token(letter) for letter in instance] for instance in task.instances(tokens)] == [string]
    assert ((batch["answer"] == 0) == batch["loss_mask"]).all() and (batch["loss_mask"] == (batch["targets"] > 0)).all()


def test_sizes_of_mad():
    task = tasks.get("selective_copy")
    assert (task.seq_len, task.window, task.vocab_size, task.answers) == (256, 60, 17, 1)
    assert task.predicts == (False,) * 4 + (True,)
    odd = tasks.get("selective_copy", length=31, copies=(3, 7), window=10)
    assert (odd.seq_len, odd.window, odd.predicts) == (37, 10, (False,) * 3 + (True,))
    assert tasks.get("selective_copy", length=31, copies=7).window == 24


def test_letters_and_places_are_even():
    task, size = tasks.get("selective_copy", length=20, copies=(4, 5), letters=6), 8000
    batch = task.batch(0, "train", 0, size)
    n = batch["difficulty"]["copies"][:, 0]
    assert (n == 4).mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / size))
    letters = np.bincount(batch["targets"][batch["loss_mask"]])[3:] / batch["loss_mask"].sum()
    assert letters == pytest.approx(1 / 6, abs=5 * np.sqrt(5 / 36 / batch["loss_mask"].sum()))
    # where the first and the last letter stand
    context = batch["tokens"][n == 4][:, :15] > 1
    rng = random.Random(0)
    plain = np.zeros((len(context), 15), bool)
    for row in plain:
        row[rng.sample(range(15), 4)] = True
    for ends in (lambda c: c.argmax(1), lambda c: c[:, ::-1].argmax(1)):
        got, want = (np.bincount(ends(c), minlength=15) / len(context) for c in (context, plain))
        assert got == pytest.approx(want, abs=5 * np.sqrt(2 * 0.2 / len(context)))


def test_held_out_strings_are_never_trained_on():
    task, seen = tasks.get("selective_copy", length=12, copies=5, letters=4), {}
    for split, size in (("train", 9000), ("validation", 300), ("test", 300)):
        seen[split] = {tuple(row) for seed in (0, 1) for row in task.batch(seed, split, 0, size)["targets"][:, -5:].tolist()}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 4**5
    # whatever their number in other examples
    longer = tasks.get("selective_copy", length=20, copies=(5, 6), letters=4).batch(3, "test", 0, 400)["targets"][:, -6:]
    assert {tuple(row[:5]) for row in longer.tolist() if row[5] == 0} <= seen["test"]


def test_baselines_are_what_the_guesses_score():
    task = tasks.get("selective_copy", length=14, copies=(5, 6), letters=4)
    batch, rng, baselines = task.batch(0, "train", 0, 6000), random.Random(0), task.baselines()
    label, exact, constant = ({5: [], 6: []} for _ in range(3))
    for targets in batch["targets"]:
        string = targets[targets > 0].tolist()
        guess = rng.sample(string, len(string))
        label[len(string)].append(np.mean([a == b for a, b in zip(guess, string)]))
        exact[len(string)].append(guess == string)
        constant[len(string)].append(np.mean([a == 3 for a in string]))
    for n in (5, 6):
        at = {name: baseline["by"]["copies"][n] for name, baseline in baselines.items()}
        assert np.mean(label[n]) == pytest.approx(at["unordered"]["label"], abs=0.02)
        assert np.mean(exact[n]) == pytest.approx(at["unordered"]["exact"], abs=0.015)
        assert np.mean(constant[n]) == pytest.approx(at["constant"]["label"], abs=0.02)
        assert at["chance"] == pytest.approx({"label": 0.25, "exact": 0.25**n})


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"length": 31}, "length=31 leaves 15 places for copies=16 letters; use length=32"),
        ({"length": 3}, "length=3 leaves 0 places"),
        ({"copies": 2}, "copies=2 of letters=14 make 196 strings, too few to hold some out; use copies=3 or more"),
        ({"copies": (9, 8)}, "copies=8 must be a whole number of at least 9"),
        ({"copies": (9, 8, 7)}, "must be a number, or a range"),
        ({"letters": 1}, "letters=1 must be a whole number of at least 2"),
        ({"window": 15}, "copies=16 queries must fit into one window of 15 tokens; use window=16 or more"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("selective_copy", **arguments)


def test_words_for_readers():
    task = tasks.get("selective_copy", length=12, copies=5, letters=4)
    example = task.example(0, "test", 0)
    string = [word for word in read(task, example["tokens"])[0] if word != "."]
    assert task.narrate(example) == f"The 5 letters are, in order: {' '.join(string)}."
    assert f"?→{string[0]}*" in task.describe() and "unordered" in task.describe()
    assert tasks.get("selective_copy", letters=40).token(42) == "a40"
