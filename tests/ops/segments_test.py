"""Rows packed with several sequences: nothing passes from one segment to another, bit for bit, whatever it holds.

Each segment equals a call of its own: the packed rows of rule_table.py, through every implementation.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import ARGUMENTS, MIDDLE, ORACLES, PACKED_CASES, STATES, C, check, cotangents, segment_ids, with_gradients

import sleepnet_kernels
from sleepnet_kernels import mosaic
from sleepnet_kernels.gated_delta_rule import api as delta_api
from sleepnet_kernels.gated_delta_rule import pallas_tpu as delta_kernel
from sleepnet_kernels.gated_delta_rule import xla_chunked as delta_chunked
from sleepnet_kernels.gated_delta_rule.arg_specs import arguments
from sleepnet_kernels.gated_hebbian_rule import api as hebbian_api
from sleepnet_kernels.gated_hebbian_rule import pallas_tpu as hebbian_kernel
from sleepnet_kernels.gated_hebbian_rule import xla_chunked as hebbian_chunked
from sleepnet_kernels.kda_rule import xla_chunked as kda_chunked
from sleepnet_kernels.momentum_rule import xla_chunked as momentum_chunked

RULES = {"delta": delta_api.gated_delta_rule, "hebbian": hebbian_api.gated_hebbian_rule}
BLOCKS = mosaic.Blocks(chunk=16, heads=1, backward_heads=1, vmem_mib=32)


def undecayed(public):
    """Called as the gated rules are; chunks of 18."""
    return lambda q, k, v, log_decay, beta, state, ids: public(q, k, v, beta=beta, initial_state=state, segment_ids=ids)


CHUNKED = {
    "delta": delta_chunked.gated_delta_rule, "hebbian": hebbian_chunked.gated_hebbian_rule, "kda": kda_chunked.kda_rule,
    "momentum": momentum_chunked.momentum_rule,
}
KERNELS = {"delta": delta_kernel.gated_delta_rule, "hebbian": hebbian_kernel.gated_hebbian_rule}
UNDECAYED = {
    "delta without decay": undecayed(sleepnet_kernels.delta_rule), "hebbian without decay": undecayed(sleepnet_kernels.hebbian_rule),
}
BEGINS = ((9, 11, 12, 15), (2 * C, 29))
both_rules = pytest.mark.parametrize("rule", list(RULES))


FORMS = {(rule, "reference"): (ORACLES[rule], {}) for rule in (*CHUNKED, *UNDECAYED)}
FORMS |= {(rule, "xla_chunked"): (function, {"chunk_size": C}) for rule, function in CHUNKED.items()}
FORMS |= {(rule, "pallas_tpu"): (function, {"blocks": BLOCKS, "interpret": True}) for rule, function in KERNELS.items()}
FORMS |= {(rule, "public"): (function, {}) for rule, function in UNDECAYED.items()}
# What is the gated rules' own but for zeros, and oracles: a row or two by default.
every_form = pytest.mark.parametrize(
    "rule, form", [pytest.param(*pair, marks=pytest.mark.slow if pair[0] in UNDECAYED or pair[0] in ("kda", "momentum") and pair[1] == "reference" else ()) for pair in FORMS]
)


def made(rule):
    """Returns arguments of the rule by name with segment ids, and cotangents."""
    return ARGUMENTS.get(rule, arguments)(MIDDLE) | {"segment_ids": segment_ids(MIDDLE, BEGINS)}, cotangents(MIDDLE, states=STATES.get(rule, 1))


def evaluate(rule, form, given, *cotangents):
    function, static = FORMS[rule, form]
    return with_gradients(function, **static)(given, *cotangents)


def table():
    for rule, form in FORMS:
        for name, case in PACKED_CASES.items():
            # Every other shape or dtype is compiled for seconds more; writes of 1 along one key diverge under momentum.
            fast = case.shape == MIDDLE and case.dtype == "float32" and (rule not in UNDECAYED or form == "public" and name == "many in a chunk")
            fast = fast and (rule in RULES or form != "reference") or (form, rule, name) == ("xla_chunked", "delta", "100 tokens")
            if rule != "momentum" or "identical" not in name:
                yield pytest.param(form, rule, name, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize("form, rule, name", table())
def test_a_segment_equals_a_call_of_its_own(form, rule, name):
    function, static = FORMS[rule, form]
    check(rule, PACKED_CASES[name], function, **static)


@every_form
@pytest.mark.parametrize("spoiled", [0, 1, 4])
def test_no_bit_of_a_segment_reaches_another(rule, form, spoiled):
    """Numbers of 1e9 and a decay of 1e9 in one segment, cotangents included, and a state of 1e9 where it is the first."""
    given, both = made(rule)
    d_output, d_final_state = (np.array(x) for x in both)
    clean = evaluate(rule, form, given, d_output, d_final_state)
    edges = (0, *BEGINS[0], MIDDLE.t)
    # A key is left as long as it was: under the delta rule long keys overflow by themselves.
    inside = np.s_[0, edges[spoiled] : edges[spoiled + 1]]
    dirty = {name: np.array(x) for name, x in given.items()}
    for name in {"q", "v", "log_decay", "log_momentum"} & dirty.keys():
        dirty[name][inside] = 1e9 * np.sign(dirty[name][inside])
    dirty["k"][inside] *= -1.0
    d_output[inside] *= 1e9
    if spoiled == 0:
        dirty["initial_state"][0] *= 1e9
    if edges[spoiled + 1] == MIDDLE.t:
        d_final_state[0] *= 1e9
    dirty = evaluate(rule, form, {name: jnp.asarray(x) for name, x in dirty.items()}, d_output, d_final_state)
    assert all(np.isfinite(x).all() for x in dirty.values())
    for name in clean:
        one, other = np.array(clean[name]), np.array(dirty[name])
        assert not np.array_equal(one[0], other[0]) or name in ("final_state", "d_initial_state") or rule in UNDECAYED and name == "d_log_decay"
        if name == "d_initial_state":
            other[0] = one[0] if spoiled == 0 else other[0]
        elif name == "final_state":
            other[0] = one[0] if edges[spoiled + 1] == MIDDLE.t else other[0]
        else:
            other[inside] = one[inside]
        np.testing.assert_array_equal(one, other, err_msg=name)


@every_form
def test_a_segment_has_exactly_no_gradient_from_another(rule, form):
    """Cotangents of one segment alone; the first token of a segment has nothing to decay, so its own decay gets none either."""
    given, both = made(rule)
    d_output, d_final_state = (np.zeros_like(x) for x in both)
    d_output[0, 12:15] = both[0][0, 12:15]
    gradients = evaluate(rule, form, given, d_output, d_final_state)
    for name in (name for name in given if name != "segment_ids" and (name != "log_decay" or rule not in UNDECAYED)):
        gradient = np.array(gradients[f"d_{name}"])
        if name != "initial_state":
            first = 13 if name in ("log_decay", "log_momentum") else 12
            assert np.any(gradient[0, first:15])
            gradient[0, first:15] = 0
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient), err_msg=name)


@both_rules
@pytest.mark.parametrize("implementation", [None, pytest.param("reference", marks=pytest.mark.slow)])
def test_only_where_ids_change_matters(rule, implementation):
    """An id that comes back begins anew, and one id alone is no segment at all but for the rounding of its sums."""
    given = arguments(MIDDLE)
    q, k, v = (given.pop(name) for name in "qkv")
    call = jax.jit(functools.partial(RULES[rule], **given, implementation=implementation))
    begins = ((9, 20), (9, 20))
    rising, returning = segment_ids(MIDDLE, begins), jnp.asarray(np.repeat([[5] * 9 + [-2] * 11 + [5] * 16], 2, axis=0), jnp.int32)
    jax.tree.map(np.testing.assert_array_equal, call(q, k, v, segment_ids=rising), call(q, k, v, segment_ids=returning))
    for one, other in zip(call(q, k, v, segment_ids=jnp.full((2, MIDDLE.t), 7)), call(q, k, v)):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_batched_and_rematerialised_call_equals_the_plain_one(rule="delta"):
    given = arguments(MIDDLE) | {"segment_ids": segment_ids(MIDDLE, BEGINS)}
    plain = evaluate(rule, "xla_chunked", given, *cotangents(MIDDLE))
    call = with_gradients(jax.checkpoint(functools.partial(CHUNKED[rule], chunk_size=C)))
    batched = jax.jit(jax.vmap(call, in_axes=(0, None, None)))({name: x[None] for name, x in given.items()}, *cotangents(MIDDLE))
    for name in plain:
        np.testing.assert_allclose(batched[name][0], plain[name], rtol=1e-4, atol=1e-5, err_msg=name)


@both_rules
def test_a_packed_row_lowers_for_a_tpu(rule):
    given = jax.eval_shape(lambda: arguments(MIDDLE) | {"segment_ids": segment_ids(MIDDLE, BEGINS)})
    lowered = jax.export.export(
        jax.jit(lambda given, d_output, d_state: with_gradients(KERNELS[rule])(given, d_output, d_state)), platforms=["tpu"]
    )(given, *cotangents(MIDDLE))
    assert lowered.mlir_module().count("tpu_custom_call") == 2


@both_rules
@pytest.mark.parametrize(
    "ids, error, message",
    [
        (jnp.zeros((2, 36)), TypeError, "segment_ids must be int32, given float32: number the sequences of each row"),
        (jnp.zeros((2, 36), jnp.int8), TypeError, "segment_ids must be int32, given int8"),
        (jnp.zeros((2, 35), jnp.int32), ValueError, r"segment_ids must have shape \[2, 36\], one id a token, given \[2, 35\]"),
        (jnp.zeros((36,), jnp.int32), ValueError, r"segment_ids must have shape \[2, 36\], one id a token, given \[36\]"),
    ],
)
def test_ids_that_do_not_fit_are_refused_by_name(rule, ids, error, message):
    given = arguments(MIDDLE)
    with pytest.raises(error, match=f"gated_{rule}_rule: {message}"):
        RULES[rule](given.pop("q"), given.pop("k"), given.pop("v"), **given, segment_ids=ids)
