"""How sure a share is."""
import math

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(right: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927): the p with |right/total − p| ≤ z · sqrt(p (1 − p) / total).

    It assumes independent trials. Answers of one example share its context and the tokens of one answer share even more, so
    an interval over answers is somewhat too narrow, and one over tokens more so.

    Args:
      right: trials that succeeded.
      total: trials; with 0 the interval is (0, 1).
      z: quantile; 95 % by default.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # at the ends the formula gives exactly 0 and 1, rounding does not
    return (0.0 if right == 0 else middle - half), (1.0 if right == total else middle + half)
