"""Strict arithmetic for every test: a silent change of dtype or rank is an error (warnings are, too: see .pytest.ini).

Most of the suite's time is XLA's, and most programs run once. So tests, and the processes that they start, compile quickly: nothing is left to LLVM's
optimiser, and loops come from XLA's older emitter where it still has one. The program that is compiled, and so what a test proves of it, is the same.
Where the shipped compiler's numbers are the point (an op's tolerance, committed figures, what a program costs), a module says
`pytestmark = pytest.mark.usefixtures("shipped_compiler")`.
"""
import os
import sys
from pathlib import Path

import jax
import pytest
from jax._src import compiler  # a compiler's options have no public default but $XLA_FLAGS, which is read once for a process

# what tests share stands in one of their folders, and others read it; tools have no package
_TESTS = Path(__file__).parent
sys.path[:0] = [*(str(folder) for folder in sorted(_TESTS.iterdir()) if folder.is_dir()), str(_TESTS.parent / "tools")]
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _known(option: str, value: bool | int) -> bool:
    """Whether this jaxlib has a compiler's option; an unknown one in $XLA_FLAGS ends a process."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except Exception as error:
        assert "No such compile option" in str(error), error
        return False
    return True


_OPTIONS = {option: value for option, value in {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}.items() if _known(option, value)}
_ENVIRONMENT = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--{option}={int(value)}" for option, value in _OPTIONS.items())]).strip(),
}
_GIVEN = {name: os.environ.get(name) for name in _ENVIRONMENT}
_shipped = compiler.get_compile_options


def _quick(*arguments, **named):
    options = _shipped(*arguments, **named)
    if getattr(named.get("backend"), "platform", "cpu") == "cpu":
        options.env_option_overrides = [*options.env_option_overrides, *_OPTIONS.items()]
    return options


def _compile_quickly(quickly: bool) -> None:
    """For this process, whose $XLA_FLAGS `_known` has had read, and for those that it starts."""
    jax.config.update("jax_disable_most_optimizations", quickly)
    compiler.get_compile_options = _quick if quickly else _shipped
    for name, value in (_ENVIRONMENT if quickly else _GIVEN).items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    jax.clear_caches()


_compile_quickly(True)


@pytest.fixture(scope="module")
def shipped_compiler():
    """All that a user's compiler does, for modules whose point is what comes out of it."""
    _compile_quickly(False)
    yield
    _compile_quickly(True)
