"""The stack of attention and fast-weight blocks, and how it reads one window: N passes over it, then the eviction."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import sleep as sleeping
from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain, gathered
from sleepnet.models import sparse
from sleepnet.models.block import Block
from sleepnet.models.linear import Linear, matmul
from sleepnet.models.norms import RMSNorm
from sleepnet.models.turn import turned
from sleepnet.state import FastWeights, KvCache

Kept = tuple[FastWeights, KvCache, tuple[jax.Array, ...]]  # what outlives a window: S, KV entries, and tails of convolutions where the model keeps them
_KEPT = jax.checkpoint_policies.save_only_these_names("chunk_states", "chunk_inverses")  # what the rules keep of their walk over the chunks
BLOCK_TOKENS = 3  # of a memory block: its first, its middle, its last
PAD = 0  # in every task, and what a row reads that has finished


class WindowReader(nnx.Module):
    """Embedding, blocks and head. Holds parameters only.

    Letters: B batch, T tokens, L window, D width, V vocabulary.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        if config.vocab_size < 1 or config.window < 1:
            raise ValueError(f"vocab_size={config.vocab_size} and window={config.window} must be known before a model is built")
        self.config = config
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.width), jnp.float32))
        if config.window_positions:
            self.positions = nnx.Param(jax.random.normal(rngs.params(), (config.window, config.width), jnp.float32) * 0.5)
        self.blocks = nnx.List([Block(kind, config, rngs, config.has_mlp(index)) for index, kind in enumerate(config.pattern)])
        if config.sleep.carry != "normed":
            self.loop_gain = nnx.Param(jnp.full((config.width,), config.loop_gain, jnp.float32))
        self.final_norm = RMSNorm(config.width, config)
        if not config.tied:
            self.head = Linear(config.width, config.vocab_size, rngs=rngs, axes=(None, None))
        if config.memory_blocks.count:  # last, so that all else is drawn as without them
            self.block_tokens = nnx.Param(jax.random.normal(rngs.params(), (BLOCK_TOKENS, config.width), jnp.float32))
        for index in config.expert_blocks:  # last, so that all else is what it is without them
            self.blocks[index].add_experts(config, rngs)
        if config.sparse.count:
            where = sparse.places(nnx.to_pure_dict(nnx.split(self, nnx.Param)[1]), config.sparse.names)
            self.sparse = sparse.Sparse(config.sparse.count, [last - first for *_, first, last in where], config.width)
        if config.weights_dtype != "float32":
            _stored(self, jnp.dtype(config.weights_dtype))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[…, T, V] float32 of what the last block gave, […, T, D]."""
        normed = self.final_norm(hidden)
        return (matmul(normed, whole_table(self.embedding).T.astype(normed.dtype)) if self.config.tied else self.head(normed)).astype(jnp.float32)

    def _no_logits(self, tokens):
        return jnp.zeros((*tokens.shape, self.config.vocab_size), jnp.float32)

    def _begin(self, batch_size: int) -> Kept:
        """S = 0, nothing to attend to, and blank tails."""
        config, fast = self.config, self.config.pattern.count("G")
        dtype = jnp.dtype(config.dtype)
        cache = KvCache.empty(batch_size, config.survivors, config.pattern.count("A"), *config.entry_shape, dtype)
        tails = tuple(jnp.zeros((batch_size, config.conv_width - 1, config.conv_channels), dtype) for _ in range(fast if config.sleep.keep_tails else 0))
        return FastWeights.zeros(batch_size, (config.state_shape,) * fast), cache, tails

    def _valid(self, tokens, valid=None):
        """[B, T] bool: what is a token, by the mask and by `pad_id`."""
        known = jnp.ones(tokens.shape, bool) if self.config.pad_id < 0 else tokens != self.config.pad_id
        return known if valid is None else known & valid

    def _embed(self, tokens, first=0, strict=False):
        """Embeddings of tokens that stand at `first` … of the window; beyond the vocabulary it is the nearest token's or, if `strict`, NaN."""
        table = whole_table(self.embedding)
        hidden = table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False) if strict else table[tokens]
        if self.config.window_positions:
            hidden = hidden + jax.lax.dynamic_slice_in_dim(whole_table(self.positions), first, tokens.shape[1])[None]
        return hidden.astype(jnp.dtype(self.config.dtype))

    def _read(self, tokens, valid, fast_weights, survivors, tails, passes, newest=None, causal=False, halt=None, strict=False, each=False):
        """`_read_embedded` of a window's tokens; `strict` as in `_embed`; `valid` as `_valid` gives it (None: of the tokens)."""
        valid = self._valid(tokens) if valid is None else valid
        embed = lambda: self._embed(tokens, strict=strict)
        return self._read_embedded(embed, valid, fast_weights, survivors, tails, passes, newest, causal, halt, each)

    def _reader(self, passes, causal, halt, each=False):
        """`_read` of (tokens, valid, fast weights, survivors, tails); computed again in the backward pass if that is the policy."""
        if self.config.recomputed != "chunk":
            return functools.partial(self._read, passes=passes, causal=causal, halt=halt, each=each)
        graph, params = nnx.split(self, nnx.Param)
        read = lambda params, *window: nnx.merge(graph, params)._read(*window, passes, causal=causal, halt=halt, each=each)
        return functools.partial(jax.checkpoint(read), params)

    def _read_embedded(self, embed, valid, fast_weights, survivors, tails, passes, newest=None, causal=False, halt=None, each=False, seats=None):
        """Reads one window, `embed()` [B, T, D], `passes` times; `causal` where it predicts; with `seats` its tokens do not stand one behind the other.

        A pass that began with the S of the pass before would have read the whole window, the answers included: where
        something is predicted, every pass begins with the window's first S. With `after_predicting` what is predicted is of the first pass, which has
        read nothing else, and the others go on as asleep.

        Returns hidden [B, T, D] of the last pass (of the first, with `after_predicting` where the window predicts), S, the KV entries that outlive the window, which ends `newest` tokens in (None: T), its tails where
        they are kept, and the passes of each sequence, which `halt` may end early; with `each` instead of the last the hidden of every pass of the
        loop, [N, B, T, D].
        """
        config = self.config
        opens = causal and config.sleep.after_predicting
        rules = dataclasses.replace(config.sleep, reset_fast_weights=True) if causal and not opens else config.sleep
        rules = dataclasses.replace(rules, remat=config.recomputed == "pass")
        graph, params = nnx.split(self, nnx.Param)
        start, stop = config.loop
        keeps = config.sleep.eviction != "hard"  # else no entry outlives the window, and none is carried through the loop
        blank = KvCache.empty(*valid.shape, len(survivors.keys), *config.entry_shape, jnp.dtype(config.dtype))
        cache = survivors.append(blank)
        onto = fast_weights.layers if config.sleep.rewrite and (opens or not causal) and not (isinstance(passes, int) and passes == 1) else ()
        context = (valid, cache.keys, cache.values, jnp.concatenate([survivors.valid, valid], axis=1), tails, onto)

        def span(first, last, looped=False):
            def block_pass(weights, hidden, fast_weights):
                params, (valid, keys, values, seen, tails, onto) = weights
                hidden, fast_weights, ends, cache = nnx.merge(graph, params)._advance(
                    first, last, hidden, fast_weights, tails or None, KvCache(keys, values, seen), valid, survivors.valid.shape[1], newest if tails else None, seats,
                    onto if looped else (),
                )
                if looped and config.turn_keys == "passes":
                    fast_weights = turned(fast_weights, config.key_shape[1], config.layers(first, last))
                mine = tuple(ends[layer] for layer in config.layers(first, last)) if tails else ()
                return hidden, fast_weights, ((cache.keys, cache.values) if keeps else (), mine)
            return block_pass

        def after(context, entries):
            ends.extend(entries[1])
            return (valid, *(entries[0] or context[1:3]), *context[3:])

        ends = []  # tails behind this window, block after block
        hidden = embed()
        hidden, fast_weights, entries = span(0, start)((params, context), hidden, fast_weights)
        context = after(context, entries)
        block_pass = span(start, stop, looped=True)
        block_pass = jax.checkpoint(block_pass, policy=_KEPT) if config.recomputed == "named" else block_pass
        gain = (self.final_norm.factor, jnp.float32(config.norm_epsilon)) if config.sleep.carry == "normed" else self.loop_gain[...]
        loop = (block_pass, (params, context), hidden, fast_weights, gain)
        if halt is not None and not (isinstance(halt, float) and halt == 0.0):
            hidden, fast_weights, entries, used = sleeping.run_until(*loop, most=passes, tolerance=halt, config=rules)
        else:
            hidden, fast_weights, entries, *more = sleeping.run_passes(*loop, passes=passes, config=rules, each=each, opening=opens)
            used = more[0] if each else jnp.full((valid.shape[0],), passes, jnp.int32)
        context = after(context, entries)
        opened = span(stop, len(config.pattern))((params, context), more[-1], fast_weights)[0] if opens else None
        hidden, fast_weights, entries = span(stop, len(config.pattern))((params, context), hidden, fast_weights)
        hidden = opened if opens else hidden
        cache = KvCache(*after(context, entries)[1:4])
        return hidden, self._turn(fast_weights, config.loop), self._evict(cache, valid.shape[1] if newest is None else newest), tuple(ends), used

    def _turn(self, fast_weights: FastWeights, done: tuple[int, int] = (0, 0)) -> FastWeights:
        """S at the next window's start; the last of its passes may have turned that of the blocks `done` already."""
        config = self.config
        if config.turn_keys == "never":
            return fast_weights
        kept = config.layers(*done) if config.turn_keys == "passes" else ()
        return turned(fast_weights, config.key_shape[1], tuple(i for i in range(len(fast_weights.layers)) if i not in kept))

    def _evict(self, cache: KvCache, newest) -> KvCache:
        """The slots that outlive a window which ends `newest` tokens in."""
        return cache if self.config.full_cache else _slots(cache, newest, self.config.survivors)

    def _advance(self, first, last, hidden, fast_weights, tails, cache, valid, slot, newest=None, seats=None, onto=()):
        """Runs blocks first … last − 1 once over T new tokens that stand at `slot` of the cache, or on `seats`; what they write comes onto `onto`, where it is given.

        Returns hidden, fast weights, convolution tails (behind `newest` tokens, None: all) and the cache with the blocks' keys and values written.
        """
        pattern = self.config.pattern
        states, keys, values = list(fast_weights.layers), list(cache.keys), list(cache.values)
        tails = [None] * len(states) if tails is None else list(tails)
        for index in range(first, last):
            block, layer = self.blocks[index], pattern[:index].count(pattern[index])
            x = block.inputs(hidden)
            if pattern[index] == "A":
                q, k, v = block.mixer.project(x, slot, seats)
                keys[layer] = jax.lax.dynamic_update_slice_in_dim(keys[layer], k, slot, axis=1)
                values[layer] = jax.lax.dynamic_update_slice_in_dim(values[layer], v, slot, axis=1)
                mixed = block.mixer.read(x, q, keys[layer], values[layer], cache.valid, slot, seats)
            else:
                mixed, states[layer], tails[layer] = block.mixer(x, valid, states[layer], tails[layer], newest, onto[layer] if onto else None)
            hidden = constrain(block.join(hidden, mixed), BATCH, None, None)
        return hidden, FastWeights(tuple(states)), tuple(tails), KvCache(tuple(keys), tuple(values), cache.valid)


def _stored(model: nnx.Module, dtype) -> None:
    """Keeps projections and embeddings in this dtype; convolutions, decays, biases and norms stay float32."""
    for path, leaf in nnx.iter_graph(model):
        if isinstance(leaf, nnx.Param) and path[-1] in ("kernel", "embedding", "positions"):
            leaf.set_value(leaf[...].astype(dtype))


def whole_table(table: nnx.Param) -> jax.Array:
    return gathered(table[...], (None, None), (None, "fsdp"))


def _slots(cache: KvCache, first, count: int) -> KvCache:
    """`count` slots from `first` on."""
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, count, axis=1), cache)
