"""A judge who reads chains of thought against milestones: quantities that a right one passes, with their values and what each follows from.

A sentence asserts a quantity where it begins with its name and ends with its value, `The number of jars in Ashford = 2 + 3 = 5 .`; how it got there is not
looked at. A milestone is reached at the first sentence that asserts it rightly, behind those that reach what it follows from, unless another value was
asserted before: who says two values of one quantity has said neither (ours: else listing all values would be worth a chain).

Letters: B problems, G chains of each, T tokens of one, M milestones, W words of a name.
"""
import dataclasses

import jax
import jax.numpy as jnp

from sleepnet.tasks.base import PAD, Grammar


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Milestones:
    """Of each problem; `sleepnet.tasks.base.Task.milestones` tells them.

    Attributes:
      names: [B, M, W] int32, PAD behind a name; a milestone of PADs alone is none.
      values: [B, M] int32, tokens.
      needs: [B, M, M] bool, [m, k]: m follows from k, which stands before it.
    """

    names: jax.Array
    values: jax.Array
    needs: jax.Array

    @property
    def there(self) -> jax.Array:
        """[B, M] bool."""
        return self.names[..., 0] != PAD


def said(tokens: jax.Array, names: jax.Array, values: jax.Array, grammar: Grammar) -> tuple[jax.Array, jax.Array]:
    """Where each quantity is asserted: rightly, and wrongly; bool [B, G, M, T] at the sentence's stop."""
    rows, group, steps = tokens.shape
    stops = tokens == grammar.stop
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    # the opening stands before the first sentence, so each begins behind a stop or at 0
    begins = jnp.concatenate([jnp.ones((rows, group, 1), bool), stops[..., :-1]], axis=-1)
    start = jax.lax.cummax(jnp.where(begins, place, 0), axis=2)
    at = lambda shift: jnp.take_along_axis(tokens, jnp.minimum(start + shift, steps - 1), axis=-1)  # the sentence's own word
    length = jnp.sum((names != PAD).astype(jnp.int32), axis=-1)[:, None, :, None]  # of the name
    named = jnp.ones((rows, group, names.shape[1], steps), bool)
    for word in range(names.shape[-1]):
        named &= (at(1 + word)[:, :, None] == names[:, None, :, word, None]) | (word >= length)
    follows = jnp.take_along_axis(tokens[:, :, None], jnp.minimum(start[:, :, None] + 1 + length, steps - 1), axis=-1)
    before = lambda by: jnp.pad(tokens, ((0, 0), (0, 0), (by, 0)))[..., :steps]
    asserts = stops & (at(0) == grammar.begins) & (before(2) == grammar.equals)
    asserted = asserts[:, :, None] & named & (follows == grammar.equals) & (length > 0)
    right = before(1)[:, :, None] == values[:, None, :, None]
    return asserted & right, asserted & ~right


def reached(tokens: jax.Array, milestones: Milestones, grammar: Grammar) -> jax.Array:
    """[B, G, M] int32: the place of the stop where each milestone is reached; T where it is not."""
    steps = tokens.shape[-1]
    right, wrong = said(tokens, milestones.names, milestones.values, grammar)
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    first = lambda where: jnp.min(jnp.where(where, place if where.ndim == 3 else place[:, :, None], steps), axis=-1)
    spoilt, places = first(wrong), []
    for m in range(milestones.values.shape[1]):
        behind = jnp.zeros(tokens.shape[:2], jnp.int32) - 1
        for k, known in enumerate(places):
            behind = jnp.where(milestones.needs[:, m, k, None], jnp.maximum(behind, known), behind)
        at = first(right[:, :, m] & (place > behind[..., None]))
        places.append(jnp.where(at < spoilt[:, :, m], at, steps))
    return jnp.stack(places, axis=-1)


def prefix_shares(tokens: jax.Array, milestones: Milestones, grammar: Grammar) -> jax.Array:
    """[B, G, T] float32: the share of the milestones that are reached at or before each token."""
    places = reached(tokens, milestones, grammar)
    there = milestones.there[:, None, :, None]
    by = (places[..., None] <= jax.lax.broadcasted_iota(jnp.int32, (1, 1, 1, tokens.shape[-1]), 3)) & there
    return _share(by, there)


def step_shares(tokens: jax.Array, step: jax.Array, milestones: Milestones, grammar: Grammar) -> jax.Array:
    """[B, G, T] float32: the share of the milestones that a token's own step asserts, whatever stands before it; `step` [B, G, T] int32 as `steps_of` numbers them."""
    right, _ = said(tokens, milestones.names, milestones.values, grammar)
    there = milestones.there[:, None, :, None]
    in_step = jnp.einsum("bgmu,bgtu->bgmt", right.astype(jnp.float32), (step[..., None] == step[:, :, None, :]).astype(jnp.float32)) > 0
    return _share(in_step & there, there)


def parsed(tokens: jax.Array, valid: jax.Array, grammar: Grammar) -> tuple[jax.Array, jax.Array]:
    """What can be said of a chain's sentences without any reference: bool [B, G, T] each, at the stop of a sentence that reads as one, and of one whose sums are right, too.

    A sentence reads as one where it begins as the grammar has it and says `equals` two before its stop. Its sums are right where all that its `equals` stand between
    is arithmetic, products before sums, of one and the same value, so that `= 3` alone is right whatever 3 is of.
    """
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 2)
    stops = (tokens == grammar.stop) & valid
    begins = jnp.concatenate([jnp.ones_like(stops[..., :1]), stops[..., :-1]], axis=-1)
    start = jax.lax.cummax(jnp.where(begins, place, 0), axis=2)
    before = lambda by: jnp.pad(tokens, ((0, 0), (0, 0), (by, 0)))[..., : tokens.shape[-1]]
    reads = stops & (jnp.take_along_axis(tokens, start, axis=-1) == grammar.begins) & (before(2) == grammar.equals)
    if grammar.zero < 0:
        return reads, reads
    number = lambda token: (token >= grammar.zero).astype(jnp.float32) * (token - grammar.zero).astype(jnp.float32)
    none = jnp.zeros(tokens.shape[:2], jnp.float32)
    blank = {"sum": none, "sign": none + 1, "product": none + 1}
    first = {"outer": blank, "inner": blank, "inside": none > 0, "wants": none == 0, "told": none, "known": none > 0, "told_any": none > 0, "right": none == 0}
    pick = lambda where, one, other: jax.tree.map(lambda a, b: jnp.where(where, a, b), one, other)
    worth = lambda level: level["sum"] + level["sign"] * level["product"]

    def read(s, token):
        """One token further: of an expression its sum, the sign of its last product and that product, in brackets and outside; whether a number is wanted now."""
        level = pick(s["inside"], s["inner"], s["outer"])
        is_number, sign = token >= grammar.zero, (token == grammar.plus) | (token == grammar.minus)
        opens, closes = token == grammar.opened, token == grammar.closed
        grown = pick(is_number, {**level, "product": level["product"] * number(token)}, level)
        grown = pick(sign, {"sum": worth(level), "sign": jnp.where(token == grammar.plus, 1.0, -1.0), "product": none + 1}, grown)
        outer = pick(s["inside"], s["outer"], grown)
        outer = pick(closes, {**outer, "product": outer["product"] * worth(s["inner"])}, outer)
        inner = pick(opens, blank, pick(s["inside"], grown, s["inner"]))
        between = sign | (token == grammar.times)
        fits = jnp.where(is_number | opens, s["wants"], jnp.where(between, ~s["wants"], closes & s["inside"] & ~s["wants"])) & ~(opens & s["inside"])
        ends = (token == grammar.equals) | (token == grammar.stop)
        value = worth(s["outer"])
        closed = s["told_any"] & ends  # an expression ends here
        agrees = ~s["wants"] & ~s["inside"] & (~s["known"] | (value == s["told"]))
        right = s["right"] & jnp.where(closed, agrees, ~s["told_any"] | fits)
        after = {
            "outer": pick(ends, blank, outer), "inner": inner, "inside": (s["inside"] | opens) & ~closes & ~ends, "wants": ends | between | opens,
            "told": jnp.where(closed, value, s["told"]), "known": (s["known"] | closed), "told_any": s["told_any"] | (token == grammar.equals), "right": right,
        }  # fmt: skip
        verdict = right & after["known"]
        return pick(token == grammar.stop, first, after), verdict

    verdicts = jnp.moveaxis(jax.lax.scan(read, first, jnp.moveaxis(tokens, -1, 0))[1], 0, -1)
    return reads, reads & verdicts


def sound_shares(tokens: jax.Array, valid: jax.Array, grammar: Grammar) -> jax.Array:
    """[B, G, T] float32: of the sentences that end at or before each token, the share whose sums are right; 0 before the first. No reference is known."""
    _, right = parsed(tokens, valid, grammar)
    so_far = lambda where: jnp.cumsum(where.astype(jnp.float32), axis=-1)
    return so_far(right) / jnp.maximum(so_far((tokens == grammar.stop) & valid), 1.0)


def reads_throughout(tokens: jax.Array, valid: jax.Array, grammar: Grammar) -> jax.Array:
    """[B, G] bool: chains that have a sentence, and of which every one reads as one."""
    stops = (tokens == grammar.stop) & valid
    reads = parsed(tokens, valid, grammar)[0]
    return jnp.any(stops, axis=-1) & jnp.all(reads == stops, axis=-1)


def steps_of(tokens: jax.Array, valid: jax.Array, grammar: Grammar) -> tuple[jax.Array, jax.Array]:
    """The number of each token's step, [B, G, T] int32, a step ending with its stop; and how many steps there are, [B, G] int32."""
    stops = ((tokens == grammar.stop) & valid).astype(jnp.int32)
    number = jnp.cumsum(stops, axis=-1) - stops
    return number, jnp.max(jnp.where(valid, number, -1), axis=-1) + 1


def at_ends(values: jax.Array, step: jax.Array, valid: jax.Array, most: int) -> jax.Array:
    """[B, G, S]: of each of `most` steps, what `values` [B, G, T] has at its last token; 0 of a step that is not there."""
    ends = valid & jnp.concatenate([(step[..., 1:] != step[..., :-1]) | ~valid[..., 1:], jnp.ones_like(valid[..., :1])], axis=-1)
    member = (step[..., None] == jax.lax.broadcasted_iota(jnp.int32, (1, 1, 1, most), 3)) & ends[..., None]
    return jnp.sum(jnp.where(member, values[..., None], 0), axis=2).astype(values.dtype)


def _share(by, there):
    return jnp.sum(by.astype(jnp.float32), axis=2) / jnp.maximum(jnp.sum(there.astype(jnp.float32), axis=2), 1.0)
