"""The whole model: a stack of attention and fast-weight blocks that reads windows, sleeps over them and wakes.

`forward` is Algorithm 1 of Lee et al. (arXiv 2605.26099) over a whole sequence; `wake` and `sleep` are its streaming form.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sleepnet import sleep as sleeping
from sleepnet.config import ModelConfig
from sleepnet.mesh import BATCH, constrain, gathered
from sleepnet.models.block import Block
from sleepnet.models.linear import Linear
from sleepnet.models.norms import RMSNorm
from sleepnet.state import FastWeights, KvCache, State, new_window

_NAMES = ("chunk_states", "chunk_inverses")  # what the rules keep of their walk over the chunks
_KEPT = {
    "named": jax.checkpoint_policies.save_only_these_names(*_NAMES),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=(), names_which_can_be_offloaded=_NAMES, offload_src="device", offload_dst="pinned_host"
    ),
}
PAD = 0  # in every task: never attended to, never written


class Hybrid(nnx.Module):
    """Transformer, SSM or hybrid, as `config.pattern` says. Holds parameters only; all memory is in `State`.

    Letters: B batch, T tokens, L window, V vocabulary.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        if config.vocab_size < 1 or config.window < 1:
            raise ValueError(f"vocab_size={config.vocab_size} and window={config.window} must be known before a model is built")
        self.config = config
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.width), jnp.float32))
        if config.window_positions:
            self.positions = nnx.Param(jax.random.normal(rngs.params(), (config.window, config.width), jnp.float32) * 0.5)
        self.blocks = nnx.List([Block(kind, config, rngs) for kind in config.pattern])
        self.loop_gain = nnx.Param(jnp.full((config.width,), config.loop_gain, jnp.float32))
        self.final_norm = RMSNorm(config.width)
        self.head = Linear(config.width, config.vocab_size, rngs=rngs, axes=(None, None))

    # Whole sequences

    def forward(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | None = None, predicts: tuple[bool, ...] | None = None
    ) -> jax.Array:
        """Algorithm 1: reads the windows in turn, sleeping over those without labels.

        Args:
          tokens: [B, T] int32; PAD is 0.
          loss_mask: [B, T] bool, concrete; True where something is predicted. Not needed where `predicts` is given.
          passes: N of windows that sleep; `config.sleep.passes` if None.
          predicts: one bool a window, static: does it hold labels? Needed under `jit`, where a mask has no values.

        Returns:
          [B, T, V] float32 logits; zeros in windows that sleep, where nothing is predicted.

        Raises:
          ValueError: neither a concrete mask nor `predicts`, or `predicts` of another length than the windows.
        """
        return self.forward_until(tokens, loss_mask, passes=passes, predicts=predicts)[0]

    def forward_until(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | None = None, predicts: tuple[bool, ...] | None = None, halt: float = 0.0
    ) -> tuple[jax.Array, jax.Array]:
        """`forward` in which a sequence's sleep may end before its N-th pass: once S has settled to within `halt`, see `sleep.run_until`.

        Args and raises: as `forward`; with halt = 0 every sleep has N passes, and only then there are gradients.

        Returns:
          The logits, and the passes over windows that sleep, taken together: int32 [B].
        """
        batch_size, length = tokens.shape
        predicts = self._layout(length, loss_mask, predicts)
        passes = self.config.sleep.passes if passes is None else passes
        size, start, logits, used = self.config.window, 0, [], jnp.zeros((batch_size,), jnp.int32)
        fast_weights, survivors = self._begin(batch_size)
        while start < length:
            run = _equal_windows(predicts[start // size:], length - start, size)
            if run == 1 or predicts[start // size] or self.config.full_cache:  # a cache that grows has no fixed shape to scan over
                run = 1
                chunk = tokens[:, start:start + size]
                if predicts[start // size]:
                    count = self.config.sleep.predict_passes
                    hidden, fast_weights, survivors, _ = self._reader(count, causal=True)(chunk, fast_weights, survivors)
                    logits.append(self._logits(hidden))
                else:
                    _, fast_weights, survivors, more = self._reader(passes, halt=halt)(chunk, fast_weights, survivors)
                    logits.append(self._no_logits(chunk))
                    used = used + more
            else:
                chunk = tokens[:, start:start + run * size]
                fast_weights, survivors, more = self._scan_sleep(chunk, fast_weights, survivors, passes, halt)
                logits.append(self._no_logits(chunk))
                used = used + more
            start += run * size
        return jnp.concatenate(logits, axis=1), used

    def _reader(self, passes, causal=False, halt=0.0):
        """`_read` of (tokens, fast weights, survivors); computed again in the backward pass if that is the policy."""
        if self.config.recomputed != "chunk":
            return functools.partial(self._read, passes=passes, causal=causal, halt=halt)
        graph, params = nnx.split(self, nnx.Param)
        read = lambda params, *window: nnx.merge(graph, params)._read(*window, passes, causal=causal, halt=halt)
        return functools.partial(jax.checkpoint(read), params)

    def _layout(self, length, loss_mask, predicts):
        windows = -(-length // self.config.window)
        if predicts is None:
            if loss_mask is None or isinstance(loss_mask, jax.core.Tracer):
                raise ValueError("forward needs to know which windows predict: a concrete loss_mask, or predicts=… under jit")
            labelled = np.asarray(loss_mask).any(axis=0)
            return tuple(bool(labelled[i * self.config.window:(i + 1) * self.config.window].any()) for i in range(windows))
        if len(predicts) != windows:
            raise ValueError(f"predicts has {len(predicts)} entries, but {length} tokens are {windows} windows of {self.config.window}")
        return tuple(bool(value) for value in predicts)

    def _scan_sleep(self, tokens, fast_weights, survivors, passes, halt):
        """Several whole windows that sleep, one after the other, compiled once."""
        size = self.config.window
        graph, params = nnx.split(self, nnx.Param)
        chunks = jnp.stack(jnp.split(tokens, tokens.shape[1] // size, axis=1))

        def body(carry, chunk):
            _, *carry, used = nnx.merge(graph, params)._reader(passes, halt=halt)(chunk, *carry)
            return tuple(carry), used

        carry, used = jax.lax.scan(body, (fast_weights, survivors), chunks)
        return *carry, jnp.sum(used, axis=0)

    def _logits(self, hidden):
        return self.head(self.final_norm(hidden)).astype(jnp.float32)

    def _no_logits(self, tokens):
        return jnp.zeros((*tokens.shape, self.config.vocab_size), jnp.float32)

    # One window

    def _begin(self, batch_size: int) -> tuple[FastWeights, KvCache]:
        """S = 0 and nothing to attend to."""
        config = self.config
        cache = KvCache.empty(
            batch_size, config.survivors, config.pattern.count("A"), config.heads, config.head_dim, jnp.dtype(config.dtype)
        )
        return FastWeights.zeros(batch_size, (config.state_shape,) * config.pattern.count("G")), cache

    def _embed(self, tokens, first=0):
        """Embeddings of tokens that stand at `first` … of the window."""
        hidden = _whole(self.embedding)[tokens]
        if self.config.window_positions:
            hidden = hidden + jax.lax.dynamic_slice_in_dim(_whole(self.positions), first, tokens.shape[1])[None]
        return hidden.astype(jnp.dtype(self.config.dtype))

    def _read(self, tokens, fast_weights, survivors, passes, newest=None, causal=False, halt=0.0):
        """Reads one window `passes` times; `causal` where it predicts.

        A pass that began with the S of the pass before would have read the whole window, the answers included: where
        something is predicted, every pass begins with the window's first S.

        Returns hidden [B, T, D] of the last pass, S, the KV entries that outlive the window, which ends `newest` tokens in (None: T), and the
        passes of each sequence, which `halt` may end early.
        """
        config = self.config
        rules = dataclasses.replace(config.sleep, reset_fast_weights=True) if causal else config.sleep
        rules = dataclasses.replace(rules, remat=config.recomputed == "pass")
        graph, params = nnx.split(self, nnx.Param)
        start, stop = config.loop
        valid = tokens != PAD
        blank = KvCache.empty(*tokens.shape, len(survivors.keys), config.heads, config.head_dim, jnp.dtype(config.dtype))
        cache = survivors.append(blank)
        context = (valid, cache.keys, cache.values, jnp.concatenate([survivors.valid, valid], axis=1))

        def span(first, last):
            def block_pass(weights, hidden, fast_weights):
                params, (valid, keys, values, seen) = weights
                hidden, fast_weights, _, cache = nnx.merge(graph, params)._advance(
                    first, last, hidden, fast_weights, None, KvCache(keys, values, seen), valid, survivors.valid.shape[1]
                )
                return hidden, fast_weights, (cache.keys, cache.values)
            return block_pass

        hidden = self._embed(tokens)
        hidden, fast_weights, entries = span(0, start)((params, context), hidden, fast_weights)
        context = (valid, *entries, context[3])
        block_pass = jax.checkpoint(span(start, stop), policy=_KEPT[config.recomputed]) if config.recomputed in _KEPT else span(start, stop)
        loop = (block_pass, (params, context), hidden, fast_weights, self.loop_gain[...])
        if halt and passes > 1:
            hidden, fast_weights, entries, used = sleeping.run_until(*loop, most=passes, tolerance=halt, config=rules)
        else:
            hidden, fast_weights, entries = sleeping.run_passes(*loop, passes=passes, config=rules)
            used = jnp.full((tokens.shape[0],), passes, jnp.int32)
        context = (valid, *entries, context[3])
        hidden, fast_weights, entries = span(stop, len(config.pattern))((params, context), hidden, fast_weights)
        cache = KvCache(*entries, context[3])
        newest = tokens.shape[1] if newest is None else newest
        return hidden, fast_weights, self._evict(cache, newest), used

    def _evict(self, cache: KvCache, newest) -> KvCache:
        """The slots that outlive a window which ends `newest` tokens in."""
        return cache if self.config.full_cache else _slots(cache, newest, self.config.survivors)

    def _advance(self, first, last, hidden, fast_weights, tails, cache, valid, slot):
        """Runs blocks first … last − 1 once over T new tokens that stand at `slot` of the cache.

        Returns hidden, fast weights, convolution tails and the cache with the blocks' keys and values written.
        """
        pattern = self.config.pattern
        states, keys, values = list(fast_weights.layers), list(cache.keys), list(cache.values)
        tails = [None] * len(states) if tails is None else list(tails)
        for index in range(first, last):
            block, layer = self.blocks[index], pattern[:index].count(pattern[index])
            x = block.mixer_norm(hidden)
            if pattern[index] == "A":
                q, k, v = block.mixer.project(x, slot)
                keys[layer] = jax.lax.dynamic_update_slice_in_dim(keys[layer], k, slot, axis=1)
                values[layer] = jax.lax.dynamic_update_slice_in_dim(values[layer], v, slot, axis=1)
                mixed = block.mixer.read(q, keys[layer], values[layer], cache.valid, slot)
            else:
                mixed, states[layer], tails[layer] = block.mixer(x, valid, states[layer], tails[layer])
            hidden = constrain(block.feed(hidden + mixed), BATCH, None, None)
        return hidden, FastWeights(tuple(states)), tuple(tails), KvCache(tuple(keys), tuple(values), cache.valid)

    # Streaming

    def init_state(self, batch_size: int) -> State:
        """The memory of `batch_size` sequences that have read nothing."""
        return self._open(*self._begin(batch_size))

    def _open(self, fast_weights: FastWeights, survivors: KvCache) -> State:
        config = self.config
        window = new_window(
            fast_weights,
            survivors,
            length=config.window,
            tail_shape=(config.conv_width - 1, config.conv_channels),
            dtype=jnp.dtype(config.dtype),
        )
        return State(fast_weights, window)

    def wake(self, tokens: jax.Array, state: State) -> tuple[jax.Array, State]:
        """One ordinary forward pass over T more tokens of the window: the same cost whatever N is.

        Args:
          tokens: [B, T] int32, T ≥ 1.
          state: as `init_state`, `wake` or `sleep` returned it.

        Returns:
          [B, T, V] float32 logits, and the state after the tokens.

        Raises:
          ValueError: the tokens do not fit into what is left of the window (call `sleep` first), where that can be
            known (outside `jit`); or the model loops over the windows that predict and so has no one-pass form.
        """
        config, window = self.config, state.window
        if config.sleep.predict_passes != 1:
            raise ValueError(f"sleep.predict_passes={config.sleep.predict_passes}: such a model can't wake in one pass; use forward")
        if not isinstance(window.length, jax.core.Tracer) and int(window.length) + tokens.shape[1] > config.window:
            raise ValueError(f"{tokens.shape[1]} tokens on top of {int(window.length)} overfill the window of {config.window}: sleep first")
        valid = tokens != PAD
        slot = window.length + window.kv_cache.valid.shape[1] - config.window
        put = jax.lax.dynamic_update_slice_in_dim
        cache = KvCache(window.kv_cache.keys, window.kv_cache.values, put(window.kv_cache.valid, valid, slot, axis=1))
        hidden, fast_weights, tails, cache = self._advance(
            0, len(config.pattern), self._embed(tokens, window.length), window.fast_weights, window.conv_tails, cache, valid, slot
        )
        window = type(window)(
            tokens=put(window.tokens, tokens, window.length, axis=1),
            length=window.length + tokens.shape[1],
            fast_weights=fast_weights,
            conv_tails=tails,
            kv_cache=cache,
        )
        return self._logits(hidden), State(state.fast_weights, window)

    def sleep(self, state: State, passes: int | None = None, *, halt: float = 0.0) -> State:
        """Ends the window: N passes fold its tokens into the fast weights, the rest is cleared.

        One pass keeps what `wake` has already written, so a window that predicted ends with `passes=1`.

        Args:
          state: any state; a window that is not full sleeps over what it has.
          passes: N ≥ 1, static; `config.sleep.passes` if None.
          halt: a sequence's sleep ends before its N-th pass once S has settled to within this share; 0: never.

        Returns:
          A state with new fast weights, an empty window, and the survivors of the eviction in the KV cache. Without evictions the cache has L
          slots more than before: shapes change, and what was compiled for the last window is compiled again.

        Raises:
          ValueError: passes < 1.
        """
        passes = self.config.sleep.passes if passes is None else passes
        window = state.window
        if passes == 1:
            return self._open(window.fast_weights, self._evict(window.kv_cache, window.length))
        survivors = jax.tree.map(lambda a: a[:, :a.shape[1] - self.config.window], window.kv_cache)
        _, fast_weights, survivors, _ = self._read(window.tokens, state.fast_weights, survivors, passes, window.length, halt=halt)
        return self._open(fast_weights, survivors)


def _whole(table: nnx.Param) -> jax.Array:
    return gathered(table[...], (None, None), (None, "fsdp"))


def _slots(cache: KvCache, first, count: int) -> KvCache:
    """`count` slots from `first` on."""
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, count, axis=1), cache)


def _equal_windows(predicts: tuple[bool, ...], left: int, size: int) -> int:
    """How many whole windows from here on sleep, at least 1."""
    count = 0
    while count < len(predicts) and not predicts[count] and (count + 1) * size <= left:
        count += 1
    return max(count, 1)
