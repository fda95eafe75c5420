"""khop against the definition of Sanford, Hsu and Telgarsky written out, and its exact law against plain sampling."""
import random

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks.khop import law as exact

CASES = [{}, {"length": 30, "letters": 3, "hops": (2, 9), "queries": 5, "window": 10}, {"length": 90, "letters": 26, "hops": 3}]


def hop_k(string, k):
    """find^k of the end, by its definition with places from 1; 0 where there is no answer."""
    place = len(string)
    for _ in range(k):
        place = max({0} | {j for j in range(2, place + 1) if string[j - 2] == string[place - 1]}) if place else 0
    return place


def draw(rng, length, letters):
    """A string without immediate repeats, letter by letter."""
    string = [rng.randrange(letters)]
    while len(string) < length:
        letter = rng.randrange(letters)
        if letter != string[-1]:
            string.append(letter)
    return string


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", CASES)
def test_labels_follow_the_definition(arguments, split):
    task = tasks.get("khop", **arguments)
    batch = task.batch(5, split, 0, 60)
    for i in range(60):
        words = [task.token(int(token)) for token in batch["tokens"][i]]
        string, queries = words[: task.length], words[task.length :]
        assert all(a != b for a, b in zip(string, string[1:])) and len(set(queries)) == task.queries
        assert set(string) <= set("abcdefghijklmnopqrstuvwxyz"[: task.letters])
        ks = [int(query.removeprefix("<hop_").removesuffix(">")) for query in queries]
        labels = [task.token(int(token)) for token in batch["targets"][i]]
        assert labels == ["PAD"] * task.length + [string[hop_k(string, k) - 1] for k in ks]
        assert all(hop_k(string, k) for k in [*ks, np.max(task.hops)])
        assert batch["difficulty"]["k"][i].tolist() == ks
        (instance,) = task.instances(batch["tokens"][i])
        assert instance == batch["tokens"][i, : task.length].tobytes()
        np.testing.assert_array_equal(task.solve(batch["tokens"][i]), batch["targets"][i])
        assert batch["answer"][i].tolist() == [-1] * task.length + list(range(task.queries))


def test_the_worked_example():
    # from the end: d was last followed by b, b by a, a by c
    string = "a c b a d b c d".split()
    assert [hop_k(string, k) for k in (1, 2, 3)] == [6, 4, 2]
    task = tasks.get("khop", length=8, letters=4, hops=(1, 2))
    number = {task.token(token): token for token in range(task.vocab_size)}
    for k, letter in ((1, "b"), (2, "a")):
        tokens = np.array([number[word] for word in [*string, f"<hop_{k}>"]])
        assert task.token(int(task.solve(tokens)[-1])) == letter


def test_layout():
    task = tasks.get("khop")
    assert (task.seq_len, task.window, task.vocab_size, task.predicts, task.answers) == (101, 100, 21, (False, True), 1)
    task = tasks.get("khop", queries=16, window=25)
    assert (task.seq_len, task.predicts, task.answers) == (116, (False,) * 4 + (True,), 16)


def test_laws_of_strings_and_of_k():
    task, size = tasks.get("khop", hops=(1, 4), queries=2), 6000
    batch = task.batch(0, "train", 0, size)
    k = batch["difficulty"]["k"]
    assert np.bincount(k.ravel(), minlength=5)[1:] == pytest.approx(size / 2, abs=5 * np.sqrt(size / 2))
    assert (k[:, 0] != k[:, 1]).all()
    string = batch["tokens"][:, :100] - 1
    step = (string[:, 1:] - string[:, :-1]) % 4
    for values, kinds in ((string[:, 0], 4), (string[:, 99], 4), *((step[:, i] - 1, 3) for i in (0, 1, 19, 20, 98))):
        share = np.bincount(values, minlength=kinds) / size
        assert share == pytest.approx(1 / kinds, abs=5 * np.sqrt(0.25 / size))
    # neighbouring steps know nothing of one another
    for i in (0, 19, 20, 50):
        joint = np.bincount(3 * step[:, i] + step[:, i + 1] - 4, minlength=9) / size
        assert joint == pytest.approx(1 / 9, abs=5 * np.sqrt(1 / 9 / size))


@pytest.mark.parametrize("length, letters, most", [(11, 3, 4), (8, 4, 3), (7, 5, 1), (9, 3, 7)])
def test_the_exact_law_is_that_of_all_strings(length, letters, most):
    # all are equally likely, and letters are alike: those that begin with the first letter stand for all
    every, found = [[0]], []
    for _ in range(length - 1):
        every = [[*string, letter] for string in every for letter in range(letters) if letter != string[-1]]
    for string in every:
        if hop_k(string, most):
            found.append([string[hop_k(string, k) - 1] for k in range(most + 1)])
    assert exact.defined(length, letters, most) == pytest.approx(len(found) / len(every), abs=1e-12)
    met, law = np.array(found), exact.letter_law(length, letters, most)
    first, second = (met[:, 1:] == met[:, :1]).mean(0), (met[:, 1:] == met[:, 1:2]).mean(0)
    np.testing.assert_allclose(law, np.stack([first, second, 1 - first - second], 1), atol=1e-12)


def test_baselines_are_what_the_guesses_score():
    task, size = tasks.get("khop", length=40, hops=(1, 6), queries=6), 5000
    batch, baselines = task.batch(0, "train", 0, size), task.baselines()
    labels = np.zeros((size, 7), int)
    labels[:, 0] = batch["tokens"][:, 39]
    np.put_along_axis(labels, batch["difficulty"]["k"], batch["targets"][:, 40:], 1)
    bound = 5 * np.sqrt(0.25 / size)
    # the likeliest difference to the last letter, or to it and the answer of one hop, found by counting
    for k in range(1, 7):
        at = {name: baseline["by"]["k"][k]["exact"] for name, baseline in baselines.items()}
        near = np.bincount((labels[:, k] - labels[:, 0]) % 4, minlength=4).max() / size
        known = 4 * ((labels[:, 1] - labels[:, 0]) % 4) + (labels[:, k] - labels[:, 0]) % 4
        both = np.bincount(known, minlength=16).reshape(4, 4).max(1).sum() / size
        assert near == pytest.approx(at["last_letter"], abs=bound) and both == pytest.approx(at["one_hop"], abs=2 * bound)
        assert np.bincount(labels[:, k])[1:] / size == pytest.approx(at["constant"], abs=bound)
    assert baselines["one_hop"]["by"]["k"][1]["exact"] == 1 and baselines["chance"]["label"] == 0.25


def test_held_out_strings_are_never_trained_on():
    seen = {}
    for split, size in (("train", 12_000), ("validation", 600), ("test", 600)):
        task = tasks.get("khop", length=11, letters=3, hops=2)
        seen[split] = {tuple(row) for seed in (0, 1) for row in task.batch(seed, split, 0, size)["tokens"][:, :11].tolist()}
    every = [draw(random.Random(i), 11, 3) for i in range(40_000)]
    answered = {tuple(letter + 1 for letter in string) for string in every if hop_k(string, 2)}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == len(answered)
    assert set.union(*seen.values()) == answered


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"letters": 2}, "letters=2 must be a whole number from 3 to 26"),
        ({"hops": (1, 40)}, "hops=40 are beyond most strings of length=100 over 4 letters; use length=121 or fewer hops"),
        ({"hops": (0, 4)}, "hops=0 must be a whole number of at least 1"),
        ({"hops": (1, 2, 3)}, "must be a number, or a range"),
        ({"queries": 17}, "queries=17 need as many k"),
        ({"queries": 3, "hops": (1, 4), "hops_rise": (5, 9)}, "begins with 2"),
        ({"hops": 4, "hops_rise": (5,)}, "hops_rise"),
        ({"window": 30}, "window=30 must divide length=100"),
        ({"window": 5, "queries": 6}, "queries=6 must fit into one window of 5 tokens"),
        ({"length": 4, "letters": 3, "hops": 1}, "is empty"),
    ],
)
def test_impossible_requests_name_the_fix(arguments, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("khop", **arguments)


def test_words_for_readers():
    task = tasks.get("khop", length=12, hops=(1, 3))
    example = task.example(0, "test", 0)
    string = [task.token(int(token)) for token in example["tokens"][:12]]
    k = int(example["difficulty"]["k"][0])
    places = " → ".join(f"{string[hop_k(string, j) - 1]} ({hop_k(string, j)})" for j in range(k + 1))
    assert task.narrate(example) == f"{k} hop{'s' * (k > 1)} from the end, with places: {places}."
    assert f"<hop_{k}>→" in task.describe() and "last_letter" in task.describe()
