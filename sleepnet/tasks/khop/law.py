"""The exact law of k-hop induction: how often there is an answer, and what little knowledge of a string tells about it.

Read backwards, a string without repetition is a walk that goes to one of the q − 1 other letters, all alike. One hop covers
G ≥ 1 places, P(G = g) = p (1 − p)**(g-1) with p = 1 / (q − 1), so K hops have an answer in n letters where the sum of the G is
at most n − 2. Let Y_k be the letter after k hops. Between the place of Y_k and its earlier occurrence the walk starts at
Y_{k-1}, avoids Y_k for g − 1 steps, and ends at Y_{k+1}: it is back at Y_{k-1} with probability

    r_{g-1} = 1 / (q − 1) + (q − 2) / (q − 1) · (−1 / (q − 2))**(g-1),   and at any of the q − 2 others alike else.

So (Y_{k-1}, Y_k, the sum of the G so far) is a Markov chain.
"""
import math
from typing import Any

import numpy as np


def defined(length: int, letters: int, hops: int) -> float:
    """Returns how likely `hops` hops have an answer: that many successes in n − 2 trials with probability 1 / (q − 1)."""
    trials, others = length - 2, letters - 1
    missed = sum(math.comb(trials, i) * (others - 1) ** (trials - i) for i in range(min(hops, trials + 1)))
    return 1 - missed / others**trials


def letter_law(length: int, letters: int, most: int) -> np.ndarray:
    """Returns P(Y_k is Y_0), P(Y_k is Y_1), P(Y_k is another letter) for k = 1 … `most`: float64 [most, 3].

    Given that `most` hops have an answer.
    """
    others, places = letters - 1, length - 2
    gap = np.arange(1, places + 1)
    of_gap = (1 / others) * (1 - 1 / others) ** (gap - 1)
    back = 1 / others + (1 - 1 / others) * (-1 / (others - 1)) ** (gap - 1)
    kernel = {True: np.r_[0, of_gap * back], False: np.r_[0, of_gap * (1 - back)]}

    # letters are told apart as Y_0, Y_1 and others (2, or 3 beside a 2); a law is over places covered so far
    law, rows = {(0, 1): np.r_[0, of_gap]}, []
    for k in range(1, most + 1):
        left = np.array([defined(places - covered + 2, letters, most - k) for covered in range(places + 1)])
        weight = {state: float(mass @ left) for state, mass in law.items()}
        total = sum(weight.values())
        rows.append([sum(w for state, w in weight.items() if min(state[1], 2) == kind) / total for kind in (0, 1, 2)])
        following: dict[tuple[int, int], np.ndarray] = {}
        for (a, b), mass in law.items():
            unseen = letters - 2 - (a > 1) - (b > 1)
            shares = [(a, True, 1.0)] + [(c, False, 1 / (letters - 2)) for c in (0, 1) if c not in (a, b)]
            shares.append((3 if b > 1 else 2, False, unseen / (letters - 2)))
            for c, returns, share in shares:
                state = (2, 3 if c > 1 else c) if b > 1 else (b, min(c, 2))
                moved = share * np.convolve(mass, kernel[returns])[: places + 1]
                following[state] = following.get(state, 0) + moved
        law = following
    return np.array(rows)


def baselines(length: int, letters: int, least: int, most: int) -> dict[str, Any]:
    """Returns what guessing scores at each k."""
    law = letter_law(length, letters, most)
    first, second, rest = law.T

    found = {}
    for name, meaning, right in (
        ("chance", "Any letter, alike.", np.full(most, 1 / letters)),
        ("constant", "One letter, always: all are alike.", np.full(most, 1 / letters)),
        (
            "last_letter",
            "What the last letter tells: it, or any other, whichever is likelier at this k.",
            np.maximum(first, (second + rest) / (letters - 1)),
        ),
        (
            "one_hop",
            "What the last letter and the answer of one hop tell: the likeliest letter at this k.",
            np.maximum(np.maximum(first, second), rest / (letters - 2)),
        ),
    ):
        by = {k: {"label": float(right[k - 1]), "exact": float(right[k - 1])} for k in range(least, most + 1)}
        mean = sum(score["label"] for score in by.values()) / len(by)
        found[name] = {"meaning": meaning, "label": mean, "exact": mean, "by": {"k": by}}
    return found
