"""What policies of giving hints would have got on the same questions, told as numbers: who decides, and whose hint the solver reads.

    never, always            no hint; the memory's own, always
    learned                  the memory's own where π(GEN) > ½
    oracle_gate              the memory's own where it pays, known beforehand
    oracle_content           the right hint where π(GEN) > ½
    oracle                   the right hint where it pays
    random_hint              as many names of the context where π(GEN) > ½
    wrong_reference          the memory's hint for another context where π(GEN) > ½
    retrieval                the right hint of the nearest training context, always: no memory is asked
"""
from collections.abc import Mapping

import numpy as np

from sleepnet.methods.rl import hints

# policy → whose hint: own, right, random, other or near; who decides: nobody (never, always), the memory, or an oracle
POLICIES = {
    "never": ("own", "never"), "always": ("own", "always"), "learned": ("own", "memory"), "oracle_gate": ("own", "oracle"), "oracle_content": ("right", "memory"),
    "oracle": ("right", "oracle"), "random_hint": ("random", "memory"), "wrong_reference": ("other", "memory"), "retrieval": ("near", "always"),
}  # fmt: skip
NUMBERS = ("accuracy", "given", "reward")
NAMES = (*(f"{policy}_{number}" for policy in POLICIES for number in NUMBERS), "regret", "auroc", "auroc_pays", "given_solved", "given_failed", "hint_tokens")


def told(seen: Mapping[str, np.ndarray], cost: float) -> dict[str, float]:
    """The numbers of `NAMES`.

    Args:
      seen: [E] each: generate, π(GEN); without, own_hint, right_hint, random_hint, other_hint, near_hint: whether the solver is then right; own_length, right_length, near_length: tokens.
      cost: c of a token.

    Returns:
      POLICY_accuracy, POLICY_given and POLICY_reward: share of right answers, of hints given, and accuracy less the cost of all tokens a question;
      regret: of `learned` against `oracle_gate`, in reward; auroc: of π(GEN) against "the solver fails by itself", .5 where it always or never does; auroc_pays: against "the memory's own hint pays", which is what can be learnt;
      given_solved, given_failed: share of hints given where the solver is right, and is wrong, by itself; 0 of none; hint_tokens: of the memory's own, a question.
    """
    without, memory = seen["without"].astype(np.float32), seen["generate"] > 0.5
    numbers: dict[str, float] = {}
    for policy, (whose, who) in POLICIES.items():
        length = seen[f"{whose}_length" if whose in ("right", "near") else "own_length"]
        right = seen[f"{whose}_hint"].astype(np.float32)
        gain = right - cost * length - without
        gives = {"never": np.zeros_like(memory), "always": np.ones_like(memory), "memory": memory, "oracle": gain > 0}[who]
        accuracy, spent = np.where(gives, right, without), np.where(gives, length, 0.0)
        numbers |= {f"{policy}_accuracy": accuracy.mean(), f"{policy}_given": gives.mean(), f"{policy}_reward": (accuracy - cost * spent).mean()}
    own, failed = seen["own_hint"] - cost * seen["own_length"], ~seen["without"].astype(bool)
    auroc = lambda positive: np.asarray(hints.auroc(seen["generate"], positive)) if 0 < positive.mean() < 1 else 0.5
    share = lambda where: memory[where].mean() if where.any() else 0.0
    numbers |= {
        "regret": np.asarray(hints.regret(without, own, memory)).mean(), "auroc": auroc(failed), "auroc_pays": auroc(own > without),
        "given_solved": share(~failed), "given_failed": share(failed), "hint_tokens": seen["own_length"].mean(),
    }  # fmt: skip
    return {name: float(value) for name, value in numbers.items()}
