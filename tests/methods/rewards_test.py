"""Rewards against parsers of their own: edit distance by a plain table, answers and milestones by sympy, a judge by hand; noise and controls."""
import functools
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gsm_by_hand import Text

from sleepnet import tasks
from sleepnet.errors import UsageError
from sleepnet.methods.rl import judge, rewards

ROWS = 12
GSM = {"ops": (1, 3), "length": (30, 88), "places": 8, "things": 8, "limit": 30, "window": 88, "fillers": "alike", "answer_alone": True, "chain_of_thought": True}


@functools.cache
def problems():
    """The task, a batch of it, its milestones, and the right chain of each row, [B, T] from behind the opening to the answer."""
    task = tasks.get("gsm", **GSM)
    batch = task.batch(0, "train", 0, ROWS)
    room = task.seq_len - task.window
    chains = np.zeros((ROWS, room), np.int32)
    for row in range(ROWS):
        right = [int(token) for token, counts in zip(batch["targets"][row], batch["loss_mask"][row]) if counts]
        chains[row, : len(right)] = right
    return task, batch, judge.Milestones(*map(jnp.asarray, task.milestones(batch["tokens"]))), chains


def words_of(task, tokens):
    return [task.token(int(token)) for token in tokens if token]


def solved(row):
    """sympy's values of what the answer hangs on, {(what, town): value}, and what each follows from."""
    task, batch, *_ = problems()
    text = Text(words_of(task, batch["tokens"][row]))
    return text, {name: int(value) for name, value in text.solve()[0].items()}, text.core()


def table(a, b):
    """Levenshtein's distance by the table that textbooks have."""
    rows = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return rows[-1][-1]


def test_levenshtein_is_the_textbook_s_on_a_thousand_pairs():
    rng = np.random.default_rng(0)
    said, reference = rng.integers(1, 4, (250, 4, 9), np.int32), rng.integers(1, 4, (250, 7), np.int32)
    lengths, sizes = rng.integers(0, 10, (250, 4), np.int32), rng.integers(0, 8, 250, np.int32)
    got = jax.jit(rewards.levenshtein)(said, lengths, reference, sizes)
    for i, j in itertools.product(range(250), range(4)):
        a, b = said[i, j, : lengths[i, j]].tolist(), reference[i, : sizes[i]].tolist()
        assert float(got[i, j]) == pytest.approx(1 - table(a, b) / max(len(a), len(b), 1), abs=1e-6), (a, b)


def test_the_answer_that_sympy_finds_is_the_one_that_is_rewarded():
    task, batch, _, chains = problems()
    by_word = {task.token(token): token for token in range(task.vocab_size)}
    found = [solved(row) for row in range(ROWS)]
    answers = np.array([[by_word[str(values[text.asked])]] for text, values, _ in found], np.int32)
    said = np.stack([answers, answers + 1, answers], axis=1)
    said[:, 2] = by_word["."]
    assert np.asarray(rewards.exact(said, batch["targets"][:, -1:])).tolist() == [[1, 0, 0]] * ROWS


def test_milestones_are_what_sympy_solves_on_the_way():
    task, batch, milestones, _ = problems()
    names, values, needs = (np.asarray(part) for part in (milestones.names, milestones.values, milestones.needs))
    for row in range(ROWS):
        _, found, core = solved(row)
        told = {}
        for words, value in zip(names[row], values[row]):
            if words[0]:
                number, of, what, inside, *town = words_of(task, words)
                assert (number, of, inside) == ("number", "of", "in")
                told[what, town[0]] = int(task.token(int(value)))
        assert told == found, row
        order = list(told)
        assert {name: {order[k] for k in np.flatnonzero(needs[row, m])} for m, name in enumerate(order)} == {name: set(core[name]) for name in order}
    with pytest.raises(UsageError, match="direction='forward'"):
        tasks.get("gsm", **{**GSM, "direction": "reverse", "window": 120}).milestones(batch["tokens"])


def judged_by_hand(task, row, tokens):
    """{milestone: how many sentences were read when it was reached}, from words alone."""
    _, values, core = solved(row)
    reached, spoilt = {}, set()
    text = words_of(task, tokens)
    sentences = " ".join(text).split(" . ") if text[-1:] != ["."] else " ".join(text)[:-2].split(" . ")
    complete = len(sentences) if text[-1:] == ["."] else len(sentences) - 1
    for at, sentence in enumerate(sentences[:complete], 1):
        words = sentence.split()
        if len(words) < 8 or words[:3] != ["The", "number", "of"] or words[4] != "in" or words[6] != "=" or words[-2] != "=":
            continue
        name = (words[3], words[5])
        if name not in values or name in spoilt:
            continue
        if words[-1] != str(values[name]):
            spoilt.add(name)
        elif name not in reached and all(other in reached for other in core[name]):
            reached[name] = at
    return reached


def spoilt_chains(seed, chains):
    """Chains with sentences turned round, said twice, left out, and words changed: [B, G, T]."""
    draw, group = random.Random(seed), []
    for chain in chains:
        words, stop = [int(token) for token in chain if token], problems()[0].grammar.stop
        ends = [i + 1 for i, word in enumerate(words) if word == stop]
        parts = [words[a:b] for a, b in zip([0, *ends], [*ends, len(words)])]
        for kind in range(6):
            piece = [list(part) for part in parts]
            if kind == 1:
                piece.reverse()
            if kind == 2:
                piece.insert(draw.randrange(len(piece)), draw.choice(piece))
            if kind == 3:
                piece.pop(draw.randrange(len(piece)))
            flat = sum(piece, [])
            for _ in range(kind >= 4 and kind - 3):
                flat[draw.randrange(len(flat))] = draw.randrange(1, problems()[0].vocab_size)
            group.append((flat + [0] * len(chain))[: len(chain)])
    return np.array(group, np.int32).reshape(len(chains), 6, -1)


def test_the_judge_reads_as_one_who_reads_words():
    task, _, milestones, chains = problems()
    tokens = np.concatenate([spoilt_chains(seed, chains) for seed in range(3)], axis=1)
    reached = np.asarray(jax.jit(lambda tokens: judge.reached(tokens, milestones, task.grammar))(tokens))
    stops = np.cumsum(tokens == task.grammar.stop, axis=-1)
    seen = 0
    for row, g in itertools.product(range(ROWS), range(18)):
        _, values, _ = solved(row)
        by_hand = judged_by_hand(task, row, tokens[row, g])
        got = {name: int(stops[row, g, at]) for name, at in zip(values, reached[row, g]) if at < tokens.shape[-1]}
        assert got == by_hand, (row, g, " ".join(words_of(task, tokens[row, g])))
        seen += len(values) - len(by_hand)
    assert seen > ROWS  # some are missed


def test_who_says_two_values_of_one_quantity_has_said_neither():
    """A wrong value before the right one spoils the quantity, one behind it changes nothing."""
    task, _, milestones, chains = problems()
    ends = [int(np.flatnonzero(words == task.grammar.stop)[0]) + 1 for words in chains]
    wrong = [np.concatenate([words[: end - 2], [task.grammar.zero + (0 if words[end - 2] != task.grammar.zero else 1), task.grammar.stop]]) for words, end in zip(chains, ends)]
    padded = lambda parts: np.pad(np.concatenate(parts), (0, 20))[: chains.shape[1] + 12]
    tokens = np.stack([[padded([words]), padded([lie, words]), padded([words[:end], lie, words[end:]])] for words, lie, end in zip(chains, wrong, ends)])
    reached = np.asarray(jax.jit(lambda tokens: judge.reached(tokens, milestones, task.grammar))(tokens)) < tokens.shape[-1]
    there = np.asarray(milestones.there)
    assert (reached[:, 0] == there).all() and (reached[:, 2] == there).all()
    assert (reached[:, 1].sum(-1) < there.sum(-1)).all()  # that one, and what follows from it


def test_a_right_chain_is_worth_5_and_another_problem_s_2_at_most_and_idle_truths_change_nothing():
    task, batch, milestones, chains = problems()
    share = jax.jit(lambda tokens, of: judge.prefix_shares(tokens, of, task.grammar)[..., -1])
    right = jnp.ones((ROWS, 1), bool)
    assert np.asarray(rewards.grades(share(chains[:, None], milestones), right)).tolist() == [[5]] * ROWS
    assert np.asarray(rewards.grades(share(chains[:, None], milestones), ~right)).tolist() == [[4]] * ROWS
    wrong = np.asarray(rewards.grades(share(chains[:, None], rewards.wrong_reference(milestones)), right))
    assert wrong.max() <= 2 and (wrong == 1).mean() > 0.5
    elsewhere = lambda row: next(f"The number of {what} in {town} = 4 ." for what in ("jars", "bags") for town in ("Ashford", "Barton", "Clifton", "Dalton") if (what, town) not in solved(row)[1])
    by_word = {task.token(token): token for token in range(task.vocab_size)}
    idle = np.array([[by_word[word] for word in elsewhere(row).split()] for row in range(ROWS)], np.int32)
    with_idle = np.concatenate([idle, chains], axis=1)[:, None]
    np.testing.assert_array_equal(share(with_idle, milestones), share(chains[:, None], milestones))


def test_steps_end_with_their_stops_and_a_step_alone_is_judged_alone():
    task, _, milestones, chains = problems()
    valid = chains[:, None] != 0

    @jax.jit
    def judged(tokens):
        step, count = judge.steps_of(tokens, valid, task.grammar)
        at_ends = lambda shares: judge.at_ends(shares, step, valid, 6)
        return count, at_ends(judge.step_shares(tokens, step, milestones, task.grammar)), at_ends(judge.prefix_shares(tokens, milestones, task.grammar))

    count, alone, prefix = judged(chains[:, None])
    for row in range(ROWS):
        text = " ".join(words_of(task, chains[row])).split(" . ")
        assert int(count[row, 0]) == len(text)
        assert len(text) - 1 == len(solved(row)[1])  # a sentence a quantity, and the answer
    for row in range(ROWS):
        n = len(solved(row)[1])
        np.testing.assert_allclose(alone[row, 0], [1 / n] * n + [0] * (6 - n), atol=1e-6)
        np.testing.assert_allclose(prefix[row, 0], [(i + 1) / n for i in range(n)] + [1.0] + [0] * (5 - n), atol=1e-6)


def test_grades_scores_and_costs_by_hand():
    share = jnp.array([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0, 1.0])
    right = jnp.array([True, True, True, True, True, True, True, False])
    assert rewards.grades(share, right).tolist() == [1, 2, 3, 3, 4, 4, 5, 4]
    every = jnp.arange(1, 6, dtype=jnp.int32)
    told = {how: np.asarray(rewards.score(every, how)).tolist() for how in rewards.MAPS}
    assert told["smooth"] == [0, 0.25, 0.5, 0.75, 1] and told["extremes"] == [0, 0, 0, 0, 1] and told["four_counts"] == [0, 0, 0, 1, 1]
    assert told["four_most"] == pytest.approx([0, 0, 0, 0.8, 1])
    assert rewards.length_cost(jnp.array([[0, 3]]), 0.5).tolist() == [[0, -1.5]]


@pytest.mark.parametrize("level", [*rewards.MISPLACED.values()])
def test_noise_misplaces_as_much_as_it_says(level):
    true = jax.random.randint(jax.random.key(0), (40000,), 1, 6, jnp.int32)
    share = rewards.noise_of(level)
    told = jax.jit(rewards.noisy, static_argnums=2)(jax.random.key(1), true, share)
    assert float(rewards.misplaced(told, true, jnp.ones(true.shape, bool))) == pytest.approx(min(level, 0.5), abs=0.01)
    assert float(jnp.mean((told != true).astype(jnp.float32))) == pytest.approx(0.8 * share, abs=0.01)  # one draw of five gives the grade itself
    assert rewards.noisy(jax.random.key(1), true, 0.0) is true
    drawn = np.bincount(np.asarray(told)[np.asarray(true) == 3], minlength=6)[[0, 1, 2, 4, 5]] / np.sum(np.asarray(true) == 3)
    np.testing.assert_allclose(drawn, [0, *[share / 5] * 4], atol=0.015)  # each of the five as often


def test_every_reward_has_its_controls():
    """A wrong reference is another row's; a random reward is one of the batch's, dealt anew."""
    said, reference = jnp.arange(6, dtype=jnp.int32).reshape(3, 2, 1) // 2, jnp.arange(3, dtype=jnp.int32)[:, None]
    lengths = jnp.ones((3, 2), jnp.int32)
    for reward in (
        lambda reference, said: rewards.exact(said, reference),
        lambda reference, said: rewards.levenshtein(said, lengths, reference, lengths[:, 0]),
    ):
        own, wrong = rewards.controlled(reward, "")(reference, said), rewards.controlled(reward, "wrong_reference")(reference, said)
        assert own.tolist() == [[1, 1]] * 3 and wrong.tolist() == [[0, 0]] * 3
        mixed = rewards.controlled(reward, "random_reward")
        half = said.at[:, 1].set(9)
        dealt = jax.jit(jax.vmap(lambda i: mixed(jax.random.key(i), reference, half)))(jnp.arange(4, dtype=jnp.uint32))
        assert all(sorted(np.ravel(one)) == [0, 0, 0, 1, 1, 1] for one in dealt) and len({tuple(np.ravel(one).tolist()) for one in dealt}) > 1


SUMS = {
    "3": True, "2 + 3 = 5": True, "2 + 3 = 6": False, "5 - 3 = 2": True, "2 × 3 + 4 = 10": True, "2 + 3 × 4 = 14": True, "2 + 3 × 4 = 20": False, "2 × ( 3 + 4 ) = 14": True,
    "2 × ( 3 + 4 ) = 10": False, "( 9 - 4 ) + 1 = 6": True, "2 + ( 5 - 3 ) = 4 = 4": True, "2 3 = 6": False, "2 + = 2": False, "= 3": False, "( 2 + 3 = 5": False, "2 ) = 2": False,
}  # fmt: skip


def test_sums_are_checked_and_no_more():
    """A sentence between two good ones, the last of which reads as none. Whose value it is does not matter: nobody knows a reference."""
    task, *_ = problems()
    number = {task.token(token): token for token in range(task.vocab_size)}
    good, end = "The number of bags in Dalton = 4 .", "Answer: 7"
    texts = [f"{good} The number of jars in Dalton = {sums} . {good} {end}" for sums in SUMS] + [f"{good} The number of jars in Dalton 2 + 2 . {good} {end}"]
    tokens = np.zeros((len(texts), 1, 40), np.int32)
    for row, text in enumerate(texts):
        tokens[row, 0, : len(text.split())] = [number[word] for word in text.split()]
    both = jax.jit(lambda tokens, valid: (*judge.parsed(tokens, valid, task.grammar), judge.reads_throughout(tokens, valid, task.grammar), judge.sound_shares(tokens, valid, task.grammar)))
    reads, sound, throughout, shares = map(np.asarray, both(tokens, tokens != 0))
    for row, right in enumerate([*SUMS.values(), False]):
        at = np.flatnonzero(tokens[row, 0] == task.grammar.stop)
        assert sound[row, 0, at].tolist() == [True, right, True] and not np.delete(sound[row, 0], at).any(), texts[row]
        assert reads[row, 0, at[1]] == throughout[row, 0] == (row < len(SUMS)), texts[row]  # `2 3 = 6` reads as a sentence, whose sums are wrong
        np.testing.assert_allclose(shares[row, 0, at], [1, 0.5 + 0.5 * right, (2 + right) / 3], atol=1e-6)
    # right chains of the task are sound, and are not with a result that is off by one
    chains = problems()[3][:, None]
    at = [np.flatnonzero(words[0] == task.grammar.stop) - 1 for words in chains]
    summed = [[i for i in places if words[0, i - 1] == task.grammar.equals and task.token(int(words[0, i - 2])).isdigit()] for words, places in zip(chains, at)]
    spoilt = chains.copy()
    for row, places in enumerate(summed):
        spoilt[row, 0, places[:1]] -= 1
    shares = [np.asarray(both(np.pad(each, ((0, 5), (0, 0), (0, 0))), np.pad(chains, ((0, 5), (0, 0), (0, 0))) != 0)[3])[: len(chains), 0, -1] for each in (chains, spoilt)]
    changed = np.array([len(places) > 0 for places in summed])
    assert (shares[0] == 1).all() and changed.sum() > 3 and ((shares[1] < 1) == changed).all()
    assert not both(np.zeros((17, 1, 40), np.int32), np.ones((17, 1, 40), bool))[2].any()
