"""skills: tables that overlap as told, rows that show the whole rule, baselines by enumeration, and what is refused."""
import itertools

import numpy as np
import pytest

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.tasks.skills import rules

STREAM = {"kind": "stream", "days": 4, "per_day": 10}


def step(table, row):
    """Wolfram's way: the cell that follows on abc is bit 4a + 2b + c of the rule's number."""
    return [int(f"{table:08b}"[::-1][int("".join(map(str, row[i : i + 3])), 2)]) for i in range(len(row) - 2)]


def test_rule_110_is_rule_110():
    row = [0, 0, 0, 1, 0, 0, 1, 1, 0, 1]
    number = int("".join(map(str, row)), 2)
    assert rules.after(110, np.array(number)).tolist() == step(110, row) == [0, 1, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("overlap", range(9))
def test_tables_overlap_as_told(overlap):
    days = 2 if overlap == 0 else 5
    task = tasks.get("skills", **{**STREAM, "days": days, "overlap": overlap})
    pairs = list(itertools.pairwise(task.tables))
    assert all(sum(a >> bit & 1 == b >> bit & 1 for bit in range(8)) == overlap for a, b in pairs) and len(task.tables) == days
    assert len(set(task.tables)) == (1 if overlap == 8 else days) and all(2 <= table.bit_count() <= 6 for table in task.tables)
    assert task.tables != tasks.get("skills", **{**STREAM, "days": days, "overlap": overlap, "content": 1}).tables


@pytest.mark.parametrize("arguments", [{}, STREAM])
def test_an_example_shows_its_whole_rule(arguments):
    task = tasks.get("skills", **arguments)
    batch = task.batch(3, "train", 0, 40)
    for tokens, targets, day in zip(batch["tokens"], batch["targets"], batch["difficulty"]["day"][:, 0]):
        words = [task.token(int(token)) for token in tokens]
        at = [i for i, word in enumerate(words) if word in ("row", "ask")]
        rows = [[int(cell) for cell in words[i + 1 : i + 11]] for i in at]
        assert [words[i] for i in at] == ["row", "row", "ask"] and len({tuple(rows[0][i : i + 3]) for i in range(8)}) == 8
        seen = {tuple(rows[0][i : i + 3]): int(words[at[0] + 12 + i]) for i in range(8)}
        table = sum(cell << (4 * a + 2 * b + c) for (a, b, c), cell in seen.items())
        assert not arguments or task.tables[day - 1] == table
        assert [task.token(int(target)) for target in targets[-8:]] == list(map(str, step(table, rows[2])))
    if arguments:
        assert batch["difficulty"]["day"][:, 0].tolist() == [1 + i // 10 for i in range(40)]


def test_guessing_by_enumeration():
    task = tasks.get("skills", **STREAM)
    told = task.baselines()
    for day, table in enumerate(task.tables, 1):
        after = [step(table, row) for row in itertools.product((0, 1), repeat=10)]
        other = [step(task.tables[day - 2], row) for row in itertools.product((0, 1), repeat=10)]
        constant = max(np.mean([all(cell == guess for cell in cells) for cells in after]) for guess in (0, 1))
        assert told["constant"]["by"]["day"][day]["exact"] == pytest.approx(constant)
        assert told["before"]["by"]["day"][day]["exact"] == pytest.approx(np.mean([a == b for a, b in zip(after, other)]))
        assert told["before"]["by"]["day"][day]["label"] == pytest.approx(0.5 if day > 1 else told["before"]["by"]["day"][1]["label"])


def test_the_name_of_a_skill_is_told_where_it_is_asked_for():
    plain, told = (tasks.get("skills", **STREAM, tells=tells).batch(0, "test", 0, 8) for tells in (False, True))
    assert (plain["tokens"][:, 1:] == told["tokens"][:, 1:]).all() and set(plain["tokens"][:, 0]) == {1}
    assert told["tokens"][:, 0].tolist() == (7 + told["difficulty"]["day"][:, 0]).tolist()


@pytest.mark.parametrize("arguments, message", [
    ({"days": 2}, "days=2 says nothing where kind='fresh'"),
    ({"overlap": 3}, "overlap=3 says nothing where kind='fresh'; leave it out"),
    ({**STREAM, "overlap": 9}, "overlap=9 must be a whole number from 0 to 8"),
    ({**STREAM, "days": 3, "overlap": 0}, "days=3: there are not so many different tables.*overlap=0 entries; set days to 2 or less"),
    ({**STREAM, "window": 60}, "window=60 can't hold the 61 tokens of an example; use window=61"),
    ({**STREAM, "replay": 10}, "kept=32 are more than the per_day=10 examples of a day"),
    ({**STREAM, "tells": 1}, "tells=1 must be True or False"),
])  # fmt: skip
def test_what_can_not_be_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        tasks.get("skills", **arguments)
