"""pass@k: the chance that one of k chains ends in the right answer, without bias from n ≥ k of them (Chen et al., arXiv 2107.03374).

Letters: E examples, n chains drawn of each, c of them right.
"""
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet.decode import Law
from sleepnet.mesh import constrain
from sleepnet.methods.base import Problem
from sleepnet.methods.rl import experience

KS = (1, 4, 16, 64)
OTHER_DRAW = "right_chains_other_draw"  # of rows of what a run starts from: right chains of a draw that no accuracy is made of, to choose problems by
_AT_ONCE = 1024  # rows that write side by side: more change memory alone


def estimate(chains: int, right: int, k: int) -> float:
    """1 − C(n − c, k) / C(n, k); its variance is small where n is 2 k and more. Raises ValueError where n < k."""
    if not 0 <= right <= chains or not 1 <= k <= chains:
        raise ValueError(f"pass@{k} of {right} right chains of {chains}")
    return 1 - math.comb(chains - right, k) / math.comb(chains, k)


@functools.partial(jax.jit, static_argnames=("graph", "task", "passes", "chains", "law"))
def right(graph: nnx.GraphDef, params, tokens: jax.Array, targets: jax.Array, first: jax.Array, draw: jax.Array, *, task, passes: int, chains: int, law: Law) -> jax.Array:
    """How many of n chains are right, int32 [E]: chain g of example `first` + i hangs on these numbers and on `draw` alone, whatever else is read."""
    problem, rows = Problem(graph, task), len(tokens)
    state, group = experience.opened(problem, params, tokens, passes), max(1, min(chains, _AT_ONCE // rows))

    def some(number):
        said = experience.drawn(problem, params, state, jax.random.key(draw), group=group, steps=experience.room(task), law=law, row=first, number=number * group)
        counts = jax.lax.broadcasted_iota(jnp.int32, said.answers.shape, 1) + number * group < chains
        return jnp.sum(((said.answers == targets[:, -1:]) & counts).astype(jnp.int32), axis=1)

    return constrain(jnp.sum(jax.lax.map(some, jnp.arange(-(-chains // group), dtype=jnp.int32)), axis=0, dtype=jnp.int32))


def told(right_E: np.ndarray, chains: int, ks: Sequence[int] = KS, keep: bool = False) -> dict[str, object]:
    """What a row says of some examples: chains of each; pass@k for each k of them; the share with any right chain; with `keep` also each one's right chains, in order."""
    mean = lambda of: float(np.mean([of(int(count)) for count in right_E])) if len(right_E) else 0.0
    kept = {"right_chains": [int(count) for count in right_E]} if keep else {}
    return kept | {"chains": chains, "pass_at": {str(k): mean(lambda count: estimate(chains, count, k)) for k in ks if k <= chains}, "coverage": mean(lambda count: count > 0)}  # noqa: B023
