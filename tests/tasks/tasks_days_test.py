"""days: what is told is what is asked for, a life that hangs on its number alone, days that follow from the index, and orders that change nothing else."""
import collections
import re

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.eval import own_chain
from sleepnet.tasks.machinery import check

KEY, VALUE = r"(n\d+ n\d+|\d(?: \d)*)", r"(\d(?: \d)*)"
FACTS = {f"note {KEY} has {VALUE}": (1, 2), f"{KEY} is {VALUE}": (1, 2), f"{VALUE} for {KEY}": (2, 1)}
QUESTIONS = {"ask": r"ask (n\d+ n\d+|.{%d}) (.*)", "about": rf"about {KEY} give (.*)", "whose": r"whose (.{%d}) (.*)", "twice": r"twice (n\d+ n\d+) (.*)"}
KINDS = ["ask", "about", "whose", "twice"]
FRESH = [{}, {"days": 3, "facts": 5, "links": 2, "names": 9, "digits": 2, "window": 27}, {"days": 2, "facts": 2, "links": 0, "digits": 1, "questions": 2, "asks": ("reversed",)}]
LIFE = {"kind": "stream", "days": 4, "facts": 6, "links": 2, "per_day": 10}


def words(task, tokens):
    return [word for word in map(task.token, map(int, tokens)) if word != "PAD"]


def told(task, tokens):
    """Each day as key → value, read off the text by its words; and how often each template stands there."""
    days, templates = [], collections.Counter()
    for start in range(0, task.first_asked, task.day_tokens):
        book = {}
        for window in range(start, start + task.day_tokens, task.window):
            for at in range(window, window + task.window, task.fact_tokens):
                if text := " ".join(words(task, tokens[at : min(at + task.fact_tokens, window + task.window)])):
                    pattern, (key, value) = next((pattern, groups) for pattern, groups in FACTS.items() if re.fullmatch(pattern, text))
                    book[re.fullmatch(pattern, text)[key]] = re.fullmatch(pattern, text)[value]
                    templates[pattern] += 1
        days.append(book)
    return days, templates


def asked(task, tokens):
    """(marker, what is given, answer) of each question."""
    found = []
    for at in range(task.first_asked, task.seq_len, task.question_tokens):
        text = " ".join(words(task, tokens[at : at + task.question_tokens]))
        marker = text.split()[0]
        pattern = QUESTIONS[marker]
        found.append((marker, *re.fullmatch(pattern % (2 * task.digits - 1) if "%d" in pattern else pattern, text).groups()))
    return found


def answer_of(days, marker, given):
    """(day from 1, answer) by what the days say."""
    for number, book in enumerate(days, 1):
        if marker in ("ask", "about") and given in book:
            return number, book[given]
        if marker == "whose" and (keys := [key for key, value in book.items() if value == given and key[0] == "n"]):
            return number, keys[0]
        if marker == "twice" and (middle := next((other[given] for other in days if given in other), None)) in book:
            return number, book[middle]
    raise AssertionError((marker, given))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("arguments", FRESH)
def test_fresh_days_tell_what_is_asked_for(arguments, split):
    task, templates, kinds = tasks.get("days", **arguments), collections.Counter(), collections.Counter()
    batch = task.batch(5, split, 0, 40)
    for row in range(40):
        days, used = told(task, batch["tokens"][row])
        templates += used
        keys, values = ([part for book in days for part in side(book)] for side in (dict.keys, dict.values))
        assert [len(book) for book in days] == [task.facts] * task.days and len(set(keys)) == len(keys) and len(set(values)) == len(values)
        for number, book in enumerate(days):
            links = {key for key in book if key[0] != "n"}
            assert len(links) == task.links and links <= set(days[number - 1].values())
        for group, (marker, given, answer) in enumerate(asked(task, batch["tokens"][row])):
            assert [int(batch["difficulty"][axis][row, group]) for axis in ("day", "question")] == [answer_of(days, marker, given)[0], KINDS.index(marker)]
            assert answer == answer_of(days, marker, given)[1]
            graded = batch["answer"][row] == group
            assert " ".join(words(task, batch["targets"][row][graded])) == answer
            end = np.flatnonzero(graded)[-1] + 1
            assert task.token(int(batch["targets"][row, end])) == "END" and batch["answer"][row, end] == -1
            kinds[marker] += 1
            # of an asked key the words have labels too, in training alone
            start = task.first_asked + group * task.question_tokens
            labelled = batch["loss_mask"][row, start : np.flatnonzero(graded)[0]]
            assert labelled.all() if split == "train" and marker == "ask" else not labelled.any()
    if split == "test":  # a model that writes by itself writes answers alone
        own = np.asarray(own_chain.written(*(batch[key] for key in ("tokens", "targets", "loss_mask"))))
        np.testing.assert_array_equal(own[:, 1:], batch["answer"][:, :-1] >= 0)
    assert len(templates) == 3 and min(templates.values()) > 0.8 * max(templates.values())
    assert set(kinds) == {KINDS[["asked", "paraphrased", "reversed", "two_hop"].index(kind)] for kind in task.asks} and min(kinds.values()) > 0.5 * max(kinds.values())


def test_a_life_hangs_on_its_number_alone():
    whole, _ = told(all_told := tasks.get("days", **LIFE, told="all"), all_told.example(0, "test", 0)["tokens"])
    assert len(whole) == 4 and all(len(book) == 6 for book in whole)
    for seed in (0, 2**64 - 1):
        for split in ("train", "validation", "test"):
            for shown in ("today", "nothing", "all"):
                task = tasks.get("days", **LIFE, told=shown)
                assert task.by_heart and task.predicts == (False,) * {"today": 1, "nothing": 0, "all": 4}[shown] + (True,)
                batch = task.batch(seed, split, 3, 50)
                for row in range(50):
                    day = int(batch["difficulty"]["day"][row, 0])
                    (marker, given, answer), = asked(task, batch["tokens"][row])
                    assert (day, answer) == answer_of(whole, marker, given)
                    if shown != "nothing":
                        assert told(task, batch["tokens"][row])[0] == (whole if shown == "all" else [whole[day - 1]])
    other, _ = told(all_told, tasks.get("days", **LIFE, told="all", content=1).batch(0, "test", 0, 1)["tokens"][0])
    assert all(not set(a.items()) & set(b.items()) for a, b in zip(whole, other))


def test_a_test_asks_all_of_every_day():
    task = tasks.get("days", **LIFE, told="nothing")
    batch = task.batch(3, "test", 0, 4 * 4 * 12)  # days × kinds × the least multiple of 6, 4 and 2 facts
    seen = collections.Counter((int(batch["difficulty"]["day"][row, 0]), *asked(task, batch["tokens"][row])[0]) for row in range(len(batch["tokens"])))
    by = collections.Counter((day, marker) for day, marker, _, _ in seen)
    assert by == {(day, marker): {"ask": 6, "about": 6, "whose": 4, "twice": 2}[marker] for day in (1, 2, 3, 4) for marker in KINDS}
    assert {times * by[key[:2]] for key, times in seen.items()} == {12}


@pytest.mark.parametrize("more", [{}, {"order": "shuffled"}, {"order": "mixed"}, {"replay": 40, "kept": 4}, {"order": "shuffled", "replay": 100, "kept": 1}])
def test_an_order_changes_nothing_but_when(more):
    """Each example is one that the given order gives too; every day has its share; nothing comes back before it was there."""
    given, task = (tasks.get("days", **LIFE, **each) for each in ({}, more))
    assert set(more) <= set(task.reorders)
    pool = {tokens.tobytes(): index for index, tokens in enumerate(given.batch(9, "train", 0, 40)["tokens"])}
    batch = task.batch(9, "train", 0, 40)
    place, days = [pool[tokens.tobytes()] for tokens in batch["tokens"]], batch["difficulty"]["day"][:, 0].tolist()
    assert [at // 10 + 1 for at in place] == days
    if not task.replay:
        assert sorted(place) == list(range(40))
    turn = list(dict.fromkeys(days))
    if more.get("order") == "mixed":
        assert days == [1, 2, 3, 4] * 10
    else:
        rank = [turn.index(day) for day in days]
        own = [index // 10 for index in range(40)]
        assert all(r <= o for r, o in zip(rank, own)) and all(at % 10 < task.kept for at, r, o in zip(place, rank, own) if r < o)
        back = np.mean([r < o for r, o in zip(rank, own) if o])
        assert abs(back - task.replay / 100) < 0.25 and (not task.replay) == (back == 0)
    if task.order == "shuffled":
        orders = {tuple(dict.fromkeys(tasks.get("days", **LIFE, order="shuffled").batch(seed, "train", 0, 40)["difficulty"]["day"][:, 0].tolist())) for seed in range(8)}
        assert len(orders) > 3
    later = task.batch(9, "train", 40, 40)["tokens"]
    assert not set(pool) & {tokens.tobytes() for tokens in later}  # the next lap tells the same in other words


def test_check_finds_a_wrong_fact():
    task = tasks.get("days", **LIFE)
    batch = task.batch(0, "test", 0, 1)
    row = check.row_of(batch, 0)
    assert check.disagreement(task, row) is None
    row["targets"] = np.where(row["answer"] == 0, row["targets"] + 1, row["targets"])
    assert "the target is" in check.disagreement(task, row)


@pytest.mark.parametrize("arguments, message", [
    ({"told": "nothing"}, "told='nothing' needs kind='stream'"), ({"replay": 10}, "replay=10 says nothing where kind='fresh'"),
    ({"facts": 20, "names": 4}, "days=1 × facts=20 are more than the 4² keys.*raise names"), ({"kind": "stream", "days": 8, "digits": 2}, "more than the 100 values.*raise digits"),
    ({"asks": ("two_hop",), "links": 0}, "asks=.* has two_hop, which needs links of at least 1"), ({"asks": ("ask",)}, "unknown asks='ask'; did you mean 'asked'"),
    ({"window": 8}, "window=8 can't hold the 10 tokens of a fact; use window=10"), ({"questions": 7}, "questions=7; use window=70"),
    ({"kind": "stream", "replay": 10, "per_day": 9}, "kept=32 are more than the per_day=9"), ({"facts": 8, "links": 5}, "links=5 must be a whole number from 0 to 4"),
])  # fmt: skip
def test_what_can_not_be_names_the_key_and_the_fix(arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.get("days", **arguments)
