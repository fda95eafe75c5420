"""Setting back what rewards brought, a control of unlearning that reads no chain: what may change is drawn to what it was before."""
import dataclasses

import jax
import jax.numpy as jnp

from sleepnet.errors import UsageError
from sleepnet.methods.forgetting.unlearn import Unlearn
from sleepnet.methods.registry import register


@register
@dataclasses.dataclass(frozen=True)
class Revert(Unlearn):
    """loss = ½ ‖W − W_before‖², over all of the model, of which what is frozen has no gradient. Arguments as Unlearn, of which objective, beta, gamma and retain are not read."""

    name = "revert"
    prepares = False
    tells = ("apart",)

    def __post_init__(self):
        super().__post_init__()
        if not self.before:
            raise UsageError("method.name='revert' goes back to method.arguments.before, which is empty: name the run that rewards were added to")

    def draw(self, task, config, batch):
        return {}

    def prepare(self, problem, params, memory, batch, key, passes):
        return batch, memory

    def count(self, batch):
        return jnp.asarray(batch["tokens"].shape[0], jnp.float32)

    def loss(self, problem, params, batch, passes, count):
        apart = jax.tree.map(lambda here, there: jnp.sum((here - there) ** 2), params, problem.references["before"])
        share = sum(jax.tree.leaves(apart)) / 2 * (batch["tokens"].shape[0] / count)
        return share, {"apart": share}

    def moves(self, batch):
        return None

    def tell(self, problem, batch, seen, count):
        return {"apart": seen["apart"]}

    def flops(self, model, task, passes):
        return 1  # no text is read; what is not 0 can be divided by
