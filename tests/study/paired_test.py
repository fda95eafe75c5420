"""Paired and unpaired comparisons against scipy and a published example; what the bits keep; what may be said of seeds."""
import base64
import zlib

import numpy as np
import pytest
import scipy.stats

from sleepnet.eval import bins, paired
from sleepnet.eval.intervals import wilson
from sleepnet.study.contrasts import contrast, sentence
from studies import outcome, spec

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("answers", [1, 7, 8, 9, 4096])
def test_the_bits_come_back_and_are_few(answers):
    right = RANDOM.random(answers) < 0.9
    text = paired.pack(right)
    assert np.array_equal(paired.unpack(text, answers), right)
    assert len(text) <= answers / 8 * 4 / 3 + 30


def test_bits_of_another_test_are_refused():
    text = paired.pack(np.ones(16, bool))
    with pytest.raises(ValueError, match="2 bytes can't be 17 answers"):
        paired.unpack(text, 17)
    with pytest.raises(ValueError, match="not what pack writes"):
        paired.unpack(base64.b64encode(zlib.compress(b"ab")[:-3]).decode(), 16)


@pytest.mark.parametrize("alone", [(0, 0), (0, 5), (3, 3), (9, 1), (2, 40), (300, 260)])
def test_mcnemar_is_the_binomial_test_of_the_discordant(alone):
    first = np.repeat([True, False, True, False], [alone[0], alone[1], 50, 7])
    second = np.repeat([False, True, True, False], [alone[0], alone[1], 50, 7])
    b, c, p = paired.mcnemar(first, second)
    assert (b, c) == alone
    assert p == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-12)


def test_newcombes_own_example():
    """56/70 against 48/80: 0.2000, 0.0524 to 0.3339 (Newcombe 1998, table II, column a, method 10)."""
    low, high = paired.unpaired_interval(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_the_paired_interval_has_the_variance_of_the_differences():
    difference = np.repeat([1.0, -1.0, 0.0], [30, 12, 158])
    half = 1.959963984540054 * difference.std() / np.sqrt(200)
    assert paired.paired_interval(30, 12, 200) == pytest.approx((difference.mean() - half, difference.mean() + half))


def test_pooled_rows_keep_their_pairs():
    parts = [RANDOM.random(n) < 0.5 for n in (5, 11)]
    rows = [
        {"passes": 1, "axis": "k", "value": value, "answers": len(right), "tokens_graded": len(right), "exact_accuracy": right.mean(),
         "label_accuracy": right.mean(), "nonfinite_answers": 0, "baselines": {}, "right_answers": paired.pack(right)}
        for value, right in enumerate(parts)
    ]
    (pooled,) = bins.pool(rows, {"k": [bins.Span(0, 1)]})
    assert np.array_equal(paired.unpack(pooled["right_answers"], 16), np.concatenate(parts))


def told(seed, arm, reference, answers=1000, paired_bits=None):
    """A contrast at k = 4 of two made-up outcomes; `paired_bits`: (arm right, reference right)."""
    study, made = spec(seeds=(seed,)), []
    for name, at4, bits in zip(("reset", "sleep4"), (arm, reference), paired_bits or (None, None)):
        one = outcome(study, name, seed, at4)
        for row in one.rows:
            if bits is not None and row["axis"] == "k":
                row |= {"answers": len(bits), "exact_accuracy": float(bits.mean()), "exact_interval": wilson(int(bits.sum()), len(bits)), "right_answers": paired.pack(bits)}
        made.append(one)
    return contrast(*made, "k", 4)


def test_a_pair_decides_what_independent_shares_do_not():
    """The same 0.9 of the answers right, but for 12 that one alone got."""
    reference = np.arange(1000) < 900
    arm = reference | (np.arange(1000) >= 988)
    both = told(0, 0.912, 0.9, paired_bits=(arm, reference))
    assert (both.alone, both.sign) == ((12, 0), 1) and both.p == pytest.approx(2 * 0.5**12)
    arm = reference | (np.arange(1000) >= 995)  # five more: the interval leaves out 0, the exact test's p is 1/16
    few = told(0, 0.905, 0.9, paired_bits=(arm, reference))
    assert few.low > 0 and few.p == pytest.approx(1 / 16) and few.sign == 0
    apart = told(0, 0.912, 0.9)
    assert apart.p is None and apart.low < 0 < apart.high and apart.sign == 0


@pytest.mark.parametrize("pairs, start", [
    ([(0.2, 0.9), (0.3, 0.9)], "`reset` is behind `sleep4` at k = 4 in 2 of 2 seeds; by 0.600 to 0.700"),
    ([(0.9, 0.2)], "`reset` is ahead of `sleep4` at k = 4 in the one seed run (0), which says nothing of others; by 0.700"),
    ([(0.9, 0.2), (0.2, 0.9)], "The seeds disagree on `reset` and `sleep4` at k = 4: +0.700"),
    ([(0.9, 0.2), (0.9, 0.9)], "No difference of `reset` and `sleep4` at k = 4 is settled, 1 of 2 seeds decide"),
    ([(0.5, 0.5)], "No difference of `reset` and `sleep4` at k = 4 is settled, 0 of 1 seeds decide: +0.000"),
])
def test_a_sentence_says_what_every_seed_says(pairs, start):
    found = [told(seed, *pair) for seed, pair in enumerate(pairs)]
    text = sentence("reset", "sleep4", "at k = 4", found)
    assert text.startswith(start) and "unpaired" in text
