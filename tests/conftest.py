"""Strict arithmetic for every test: a silent change of dtype or rank is an error (warnings are, too: see .pytest.ini)."""
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def quickly_compiled():
    """Half the compile time, for modules that compile much and run it once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
