"""The yardstick itself: what it calls equal, and that it can't be fooled by what is not finite."""
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet_kernels import numerics


def test_rms_ratio_is_relative_to_the_expected_side():
    assert numerics.rms_ratio(np.array([1.0, 1.1]), np.array([1.0, 1.0])) == pytest.approx(0.1 / np.sqrt(2))
    assert numerics.rms_ratio(np.zeros(3), np.zeros(3)) == 0.0
    assert numerics.rms_ratio(np.ones(3), np.zeros(3)) > 1e100


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_close(bad):
    assert numerics.rms_ratio(np.array([bad]), np.array([bad])) == float("inf")


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        numerics.rms_ratio(np.zeros((2, 1)), np.zeros((1, 2)))


def test_tolerances_are_those_agreed():
    assert numerics.tolerance(jnp.float32) == numerics.Tolerance(output=1e-5, gradient=1e-5)
    assert numerics.tolerance(jnp.bfloat16) == numerics.Tolerance(output=5e-3, gradient=1e-2)
    assert numerics.tolerance(jnp.bfloat16, correlated_keys=True) == numerics.Tolerance(output=3e-2, gradient=3e-2)
    with pytest.raises(ValueError, match="no tolerance is agreed for float16"):
        numerics.tolerance(jnp.float16)
