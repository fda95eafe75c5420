"""Muon's iterations in a loop: optax's own updates bit for bit, and optax's own state, which checkpoints hold."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import contrib

from sleepnet import optim
from sleepnet.config import OptimConfig

CONFIG, STEPS = OptimConfig(warmup=1, clip=0.0), 10
PARAMS = {"blocks": {"wide": {"kernel": jnp.ones((8, 12))}, "tall": {"kernel": jnp.ones((16, 8))}}, "head": jnp.ones((12, 3))}


@jax.numpy_dtype_promotion("standard")  # optax mixes them
@pytest.mark.usefixtures("shipped_compiler")
def test_a_loop_is_what_optax_unrolls():
    unrolled = contrib.muon(
        optim.schedule(CONFIG.learning_rate, CONFIG, STEPS), beta=CONFIG.momentum, adam_learning_rate=optim.schedule(CONFIG.adam_rate, CONFIG, STEPS),
        adam_b1=CONFIG.adam_b1, adam_b2=CONFIG.adam_b2, muon_weight_dimension_numbers=optim.matrices,
    )
    ours = optim.optimizer(CONFIG, STEPS)
    states = [transform.init(PARAMS) for transform in (ours, unrolled)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    steps = [jax.jit(transform.update) for transform in (ours, unrolled)]
    draw = lambda leaf, seed: jax.random.normal(jax.random.key(seed), leaf.shape)
    for seed in range(3):
        gradient = jax.tree.map(lambda leaf: draw(leaf, seed), PARAMS)
        (here, states[0]), (there, states[1]) = (step(gradient, state, PARAMS) for step, state in zip(steps, states))
        jax.tree.map(np.testing.assert_array_equal, (here, states[0]), (there, states[1]))
    looped, plain = (step.lower(PARAMS, state, PARAMS).compile().as_text().count(" dot(") for step, state in zip(steps, states))
    assert looped and plain == 5 * looped
