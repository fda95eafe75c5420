"""What is known of answers with many tokens: what they cost, how far a model's own chain is right, and how much of that could have been missed.

Letters: E examples, T tokens of an example, A answers of an example.
"""
import math

import numpy as np


def counts(cost_ExT: np.ndarray, hit_ExT: np.ndarray | None, answer_ExT: np.ndarray, answers: int) -> dict[str, np.ndarray]:
    """Sums over the tokens of each answer, [E, A] each.

    Args:
      cost_ExT: float32, −log p of the right token, what stands before it being right; NaN where a logit is no number.
      hit_ExT: bool, whether a token of the model's own chain is the right one; None: it wrote none.
      answer_ExT: int32, number of the answer that a token belongs to, −1 for none.
      answers: A.

    Returns:
      cost: float64, nats.
      With a chain: leading (tokens before the first wrong one), leading_unsure (those of them with p < ½, which greedy decoding might have missed),
      exact_unsure (of an answer that is right as a whole, its tokens with p < ½), int64 each. Where all before a token is right, the chain's p is that of `cost_ExT`.
    """
    members = [answer_ExT == number for number in range(answers)]
    over = lambda values: np.stack([np.where(member, values, 0).sum(axis=1) for member in members], axis=1)
    told = {"cost": over(cost_ExT.astype(np.float64))}
    if hit_ExT is None:
        return told
    # what stands in no answer neither breaks a row of right tokens nor lengthens it
    lead = [member & np.logical_and.accumulate(hit_ExT | ~member, axis=1) for member in members]
    exact_ExA = np.stack([(hit_ExT | ~member).all(axis=1) for member in members], axis=1)
    sums = lambda values: np.stack([(part & values).sum(axis=1) for part in lead], axis=1)
    unsure_ExA = sums(cost_ExT > math.log(2))
    return told | {"leading": sums(True), "leading_unsure": unsure_ExA, "exact_unsure": np.where(exact_ExA, unsure_ExA, 0)}


def told(sums: dict[str, np.ndarray], chosen_ExA: np.ndarray, tokens: int) -> dict[str, float | int | None]:
    """`counts` of the chosen answers together, as rows of `sleepnet.eval.runner.evaluate` say it; `tokens` there are in them."""
    if not sums:
        return {}
    cost = float(sums["cost"][chosen_ExA].sum()) / tokens if tokens else math.nan
    found = {"label_loss": cost if math.isfinite(cost) else None}
    return found | {f"own_chain_{key}": int(values[chosen_ExA].sum()) for key, values in sums.items() if key != "cost"}
