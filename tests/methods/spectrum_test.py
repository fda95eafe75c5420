"""Off-principal energy and its chance, spectra, units and their scores: by construction."""
import jax.numpy as jnp
import numpy as np
import pytest

from sleepnet import adapters
from sleepnet.errors import UsageError
from sleepnet.eval import increments
from sleepnet.methods.forgetting import spectrum

RNG = np.random.default_rng(0)
M, N = 12, 8
W = jnp.asarray(RNG.normal(size=(M, N)), jnp.float32)
K = 2


def frames():
    left, _, right = np.linalg.svd(np.asarray(W), full_matrices=True)
    return left, right.T


def test_energy_is_none_inside_all_outside_and_scale_free():
    left, right = frames()
    assert spectrum.directions((M, N)) == K and spectrum.directions((10, 9)) == 3 and spectrum.directions((9, 9), 0.5) == 5
    inside = jnp.asarray(left[:, :K] @ RNG.normal(size=(K, K)) @ right[:, :K].T, jnp.float32)
    outside = jnp.asarray(left[:, K:] @ RNG.normal(size=(M - K, N)), jnp.float32)
    any_ = jnp.asarray(RNG.normal(size=(M, N)), jnp.float32)
    assert float(spectrum.off_principal(W, inside)) == pytest.approx(0, abs=1e-5)
    assert float(spectrum.off_principal(W, outside)) == pytest.approx(1, abs=1e-5)
    half = float(spectrum.off_principal(W, inside / jnp.linalg.norm(inside) + outside / jnp.linalg.norm(outside)))
    assert half == pytest.approx(0.5, abs=1e-4)
    assert float(spectrum.off_principal(W, 1e3 * any_)) == pytest.approx(float(spectrum.off_principal(W, any_)), abs=1e-5)


def test_random_increments_lie_where_chance_has_them():
    found = [float(spectrum.off_principal(W, jnp.asarray(RNG.normal(size=(M, N)), jnp.float32))) for _ in range(200)]
    assert np.mean(found) == pytest.approx(spectrum.chance((M, N)), abs=4 * np.std(found) / np.sqrt(200))
    assert spectrum.chance((64, 64)) == pytest.approx(0.9375)


def test_spectra_move_with_the_values_and_turn_with_the_directions():
    left, right = frames()
    sigma = np.linalg.svd(np.asarray(W), compute_uv=False)
    grown = jnp.asarray(0.1 * np.asarray(W))
    assert float(spectrum.shift(W, grown)) == pytest.approx(0.1, rel=1e-4) and float(jnp.max(spectrum.angles(W, grown))) < 2e-3
    swapped = left[:, :N].copy()
    swapped[:, [0, N - 1]] = swapped[:, [N - 1, 0]]
    turned = jnp.asarray(swapped @ np.diag(sigma) @ right.T - np.asarray(W), jnp.float32)
    assert float(spectrum.shift(W, turned)) < 1e-5
    np.testing.assert_allclose(spectrum.angles(W, turned), [0, np.pi / 2], atol=2e-3)


def test_heads_tile_each_projection():
    for which, axis in (("q", 1), ("k", 1), ("v", 1), ("out", 0)):
        leaf = jnp.asarray(RNG.normal(size=(8, 8)), jnp.float32)
        parts = spectrum.slices(f"blocks.0.mixer.{which}.kernel", leaf, 4)
        assert list(parts) == [f"blocks.0.mixer.{which}.kernel#{head}" for head in range(4)]
        np.testing.assert_array_equal(jnp.concatenate(list(parts.values()), axis=axis), leaf)
    assert spectrum.slices("blocks.0.mlp.up.kernel", W, 4) == spectrum.slices("blocks.0.mixer.gate.kernel", W, 4) == spectrum.slices("embedding", W, 4) == {}
    with pytest.raises(UsageError, match="3 heads do not divide"):
        spectrum.slices("blocks.0.mixer.q.kernel", W, 3)


def test_scores_by_hand_and_rankings_that_no_factor_s_scale_moves():
    names = [f"u{i}" for i in range(6)]
    make = lambda: {name: jnp.asarray(RNG.normal(size=(M, N)), jnp.float32) for name in names}
    before, gradients = make(), make()
    after = {name: before[name] + 0.1 * (i + 1) * jnp.asarray(RNG.normal(size=(M, N)), jnp.float32) for i, name in enumerate(names)}
    plain = spectrum.scores(before, after, gradients)
    for name in names:
        moved = np.asarray(after[name] - before[name], np.float64)
        along = abs((np.asarray(gradients[name]) * moved).sum()) / np.linalg.norm(gradients[name])
        by_hand = float(spectrum.off_principal(before[name], after[name] - before[name])) * np.linalg.norm(moved) / np.linalg.norm(before[name]) * along
        assert plain[name] == pytest.approx(by_hand, rel=1e-4)
    steeper = {name: 100 * value for name, value in gradients.items()}
    for options in ({}, {"ranks": True}, {"cosine": True}):
        one, other = (spectrum.top(spectrum.scores(before, after, given, **options), 1.0) for given in (gradients, steeper))
        assert one == other and set(one) == set(names)
    assert spectrum.top({"b": 1.0, "a": 1.0, "c": 2.0}, 0.67) == ["c", "a"] and spectrum.top(plain, 0.01) == spectrum.top(plain, 1.0)[:1]
    shuffled = {name: before[name] for name in reversed(names)}
    assert spectrum.top(spectrum.scores(shuffled, after, gradients), 0.5) == spectrum.top(plain, 0.5)
    alone = spectrum.scores(before, after, gradients, factors=("magnitude",))
    assert spectrum.top(alone, 0.5) == ["u5", "u4", "u3"]


def test_the_channels_of_heads_are_their_slices():
    """What an adapter lets change, and what a score is of, are the same entries."""
    params = {"blocks": {0: {"mixer": {which: {"kernel": jnp.asarray(RNG.normal(size=(8, 12) if which != "out" else (12, 8)), jnp.float32)} for which in ("q", "k", "v", "out")}}}}
    for which, whole in params["blocks"][0]["mixer"].items():
        name = f"blocks.0.mixer.{which}.kernel"
        for part, leaf in spectrum.slices(name, whole["kernel"], 3).items():
            channels = adapters.head_channels([part], 3, params)[name]
            np.testing.assert_array_equal(jnp.compress(channels, whole["kernel"], axis=adapters.channel_axis(name)), leaf)


def test_an_increment_is_measured_beside_chance_and_at_the_norm_that_is_asked_for():
    left, right = frames()
    principal = jnp.asarray(left[:, :K] @ np.diag([3.0, 2.0]) @ right[:, :K].T, jnp.float32)
    tree = lambda leaf: {"blocks": {0: {"mixer": {"q": {"kernel": leaf}, "decay": {"kernel": leaf}}}}}
    found = increments.measured(tree(W), tree(W + principal))
    assert list(found) == ["blocks.0.mixer.q.kernel"] and increments.measured(tree(W), tree(W)) == {}
    told = found["blocks.0.mixer.q.kernel"]
    assert told["off_over_chance"] == pytest.approx(0, abs=1e-4) and told["norm"] == pytest.approx(13**0.5, rel=1e-4)
    half = increments.measured(tree(W), tree(W + principal), norms={"blocks.0.mixer.q.kernel": told["norm"] / 2})["blocks.0.mixer.q.kernel"]
    assert half["shift"] == pytest.approx(told["shift"] / 2, rel=1e-3) and half["off_over_chance"] == pytest.approx(0, abs=1e-4)
    lines = increments.table(found, {"blocks.0.mixer.q.kernel": half})
    assert f"{told['shift']:.4f} ({half['shift']:.4f})" in lines[2] and lines[-1].startswith("| mean | ")
