"""How sure a share is, and a mean of differences."""
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

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


def mean_difference(differences: Sequence[float], sure: float = 0.95) -> tuple[float, float, float]:
    """Mean of paired differences and Student's interval of it: m ± t_{n−1} s / √n. Assumes that each is drawn from one normal law.

    Args:
      differences: [n], one a seed.
      sure: 0.95: of 95 of 100 such intervals the true mean is within.

    Returns:
      Mean, low, high; from −∞ to ∞ of a single one, NaN where there is none or one is NaN.
    """
    values = np.asarray(differences, np.float64)
    if not len(values) or np.isnan(values).any():
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + sure) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return mean, mean - half, mean + half
