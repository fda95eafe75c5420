"""Two models on the same held-out answers: which were right, kept in few bytes, and what the difference is worth."""
import base64
import math
import zlib
from collections.abc import Sequence

import numpy as np

from sleepnet.eval.intervals import Z95


def pack(right: np.ndarray) -> str:
    """Which answers were right, [A] bool in the order of the test, as text: a bit each, compressed."""
    return base64.b64encode(zlib.compress(np.packbits(np.asarray(right, bool)).tobytes(), 9)).decode()


def unpack(text: str, answers: int) -> np.ndarray:
    """[A] bool from what `pack` wrote; `answers` is A.

    Raises:
      ValueError: the text is of another number of answers, or damaged.
    """
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
    except zlib.error as error:
        raise ValueError(f"not what pack writes: {error}") from error
    if len(bits) != -(-answers // 8):
        raise ValueError(f"{len(bits)} bytes can't be {answers} answers")
    return np.unpackbits(bits, count=answers).astype(bool)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two models on the same answers (McNemar, Psychometrika 12, 1947).

    Of the b + c answers that one alone got right, b ~ Binomial(b + c, 1/2) if both are as good: p = min(1, 2 P(X ≤ min(b, c))).
    Answers are taken as independent; those of one example share its context, so p is somewhat too small.

    Args:
      first, second: [A] bool.

    Returns:
      b (first alone is right), c (second alone), p.
    """
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return b, c, min(1.0, 2 * tail / 2 ** (b + c)) if b + c else 1.0


def paired_interval(b: int, c: int, answers: int, z: float = Z95) -> tuple[float, float]:
    """Wald's interval of the paired difference (b − c) / A: ± z · sqrt(b + c − (b − c)² / A) / A."""
    half = z * math.sqrt(max(b + c - (b - c) ** 2 / answers, 0.0)) / answers
    return (b - c) / answers - half, (b - c) / answers + half


def unpaired_interval(first: float, first_95: Sequence[float], second: float, second_95: Sequence[float]) -> tuple[float, float]:
    """Newcombe's interval of the difference of two independent shares from their Wilson intervals (Stat. Med. 17, 1998, method 10).

    For models on the same answers it is wider than need be where they tend to be right on the same ones.
    """
    gap = first - second
    low = math.hypot(first - first_95[0], second_95[1] - second)
    high = math.hypot(first_95[1] - first, second - second_95[0])
    return gap - low, gap + high
