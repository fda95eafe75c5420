"""The whole model: a stack of attention and fast-weight blocks that reads windows, sleeps over them and wakes.

`forward` is Algorithm 1 of Lee et al. (arXiv 2605.26099) over a whole sequence; `wake` and `sleep` are its streaming form.
"""
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from sleepnet.models import gated, inputs
from sleepnet.models.memory_blocks import BlockReader
from sleepnet.state import FastWeights, KvCache, State, new_window

_LARGE = 4096  # tokens of a vocabulary; a puzzle's has hundreds, a released model's tens of thousands


class Hybrid(BlockReader):
    """Transformer, SSM or hybrid, as `config.pattern` says. Holds parameters only; all memory is in `State`.

    Letters: B batch, T tokens, L window, V vocabulary.
    """

    # Whole sequences

    def forward(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | jax.Array | None = None, predicts: tuple[bool, ...] | None = None, valid=None
    ) -> jax.Array:
        """Algorithm 1: reads the windows in turn, sleeping over those without labels; memory blocks, where there are, before the first with labels.

        With `config.sleep.after_predicting` windows with labels are slept over as well, but for the last of all, behind which nothing is read.

        Args:
          tokens: [B, T] int32 from 0 to V − 1; padding is `config.pad_id`. A sequence with others is refused or, under `jit`, where they can't be seen, has NaN logits.
          loss_mask: [B, T] bool, concrete; True where something is predicted. Not needed where `predicts` is given.
          passes: N of windows that sleep; `config.sleep.passes` if None. Of an int32 scalar one program serves every N, without gradients.
          predicts: one bool a window, static: does it hold labels? Needed under `jit`, where a mask has no values.
          valid: [B, T] bool; False at what is padding besides `config.pad_id`: never attended to, never written.

        Returns:
          [B, T, V] float32 logits; zeros in windows that sleep, where nothing is predicted.

        Raises:
          ValueError: neither a concrete mask nor `predicts`, one of another length than the tokens, or what `inputs.check_tokens` refuses.
        """
        return self.forward_until(tokens, loss_mask, passes=passes, predicts=predicts, valid=valid)[0]

    def forward_each(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | None = None, predicts: tuple[bool, ...] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`forward`, and what every pass of every sleep wrote, for losses on the passes themselves.

        Args and raises: as `forward`; N is no value, and `config.sleep.gradient` full, or last with one pass: then a pass learns from its own
          loss alone, and what it got from the passes before enters as a constant.

        Returns:
          The logits, and hidden [N, B, T', D] of each pass of the loop over the T' tokens of windows that sleep. `pass_logits` reads them.
        """
        self._needs_no_gate()
        logits, hidden = self._windows(self._given, tokens, loss_mask, passes, predicts, None, None, each=True)
        return self._of_known(tokens, jnp.concatenate(logits, axis=1)), jnp.concatenate(hidden, axis=2) if hidden else jnp.zeros((0, *tokens.shape, self.config.width), jnp.dtype(self.config.dtype))

    def pass_logits(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] float32 that the model's own norm and head read from what a pass wrote, [..., D]."""
        return self.logits(hidden)

    def forward_until(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | jax.Array | None = None, predicts: tuple[bool, ...] | None = None,
        halt: float | jax.Array | None = 0.0, valid=None, blocks: int | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """`forward` in which a sequence's sleep may end before its N-th pass: once S has settled to within `halt`, see `sleep.run_until`.

        Args and raises: as `forward`; with halt = 0 every sleep has N passes, and only then there are gradients. `blocks`: K memory blocks,
        static; `config.memory_blocks.count` if None.

        Returns:
          The logits, and the passes over windows that sleep, taken together: int32 [B].
        """
        if self.config.sparse.count:
            inputs.check_tokens(tokens, self.config.vocab_size)
            return gated.forward(self, tokens, passes=passes, predicts=self._layout(tokens.shape[1], loss_mask, predicts), halt=halt, valid=valid, blocks=blocks)
        return self.ungated_until(tokens, loss_mask, passes=passes, predicts=predicts, halt=halt, valid=valid, blocks=blocks)

    def ungated_until(self, tokens, loss_mask=None, *, passes=None, predicts=None, halt=0.0, valid=None, blocks=None):
        """`forward_until` by the weights as they stand."""
        logits, used = self._windows(self._given, tokens, loss_mask, passes, predicts, halt, valid, blocks=blocks)
        return self._of_known(tokens, jnp.concatenate(logits, axis=1)), sum(used, jnp.zeros((tokens.shape[0],), jnp.int32))

    def ungated(self, tokens: jax.Array, **how) -> jax.Array:
        """`forward` by the weights as they stand, whatever sparse increments there are."""
        return self.ungated_until(tokens, **how)[0]

    def _needs_no_gate(self):
        if self.config.sparse.count:
            raise ValueError(f"sparse.count={self.config.sparse.count}: which increments count is told by the beginning of a row; use forward, or gated.under for those of one day")

    def _given(self, chunk, hidden):
        """The logits of a run of windows."""
        return self._no_logits(chunk) if hidden is None else self.logits(hidden)

    def predicted(
        self, tokens: jax.Array, loss_mask=None, *, passes: int | jax.Array | None = None, predicts: tuple[bool, ...] | None = None,
        halt: float | jax.Array | None = 0.0, valid=None,
    ) -> tuple[jax.Array, np.ndarray]:
        """`forward` without the head, in windows that predict alone: where the vocabulary is large, [B, T, V] are most of what a model needs.

        `model.logits` of any of these places are those of `forward`, to rounding.

        Args and raises: as `forward_until`.

        Returns:
          Hidden [B, P, D] before the final norm, in the dtype of activations, and the P places in the sequence, ascending.
        """
        self._needs_no_gate()
        return self._where_predicted(lambda hidden: hidden, tokens, loss_mask, passes, predicts, halt, valid)

    def predicted_logits(self, tokens: jax.Array, *, passes: int | jax.Array | None = None, predicts: tuple[bool, ...]) -> tuple[jax.Array, np.ndarray]:
        """`forward`, without zeros [B, T', V] for the T' tokens of windows that sleep: its logits [B, P, V], and the P places, ascending.

        Args and raises: as `forward`; and ValueError where no window predicts.
        """
        self._needs_no_gate()
        return self._where_predicted(self.logits, tokens, None, passes, predicts, 0.0, None)

    def spares(self, predicts: tuple[bool, ...]) -> bool:
        """Whether `predicted_logits` is to be used for `forward`: windows sleep, others predict, and the vocabulary is large. With a small one there is little to spare,
        and a step's gradients keep the last bits that they had before there was the choice."""
        return any(predicts) and not all(predicts) and self.config.vocab_size >= _LARGE and not self.config.sparse.count

    def _where_predicted(self, read, tokens, *how):
        """`read(hidden)` of each run of windows that predict, one behind the other, and their places."""
        windows, _ = self._windows(lambda chunk, hidden: (chunk, hidden if hidden is None else read(hidden)), tokens, *how)
        ends = np.cumsum([chunk.shape[1] for chunk, _ in windows])
        places = [np.arange(end - chunk.shape[1], end) for end, (chunk, told) in zip(ends, windows) if told is not None]
        found = [told for _, told in windows if told is not None]
        if not found:
            raise ValueError("no window predicts: there is nothing to give")
        return self._of_known(tokens, jnp.concatenate(found, axis=1)), np.concatenate(places)

    def _windows(self, give, tokens, loss_mask, passes, predicts, halt, valid, each=False, blocks=None):
        """Algorithm 1: `give(tokens, hidden or None where they are slept over)` of each run of windows; and of each run that sleeps the passes [B], or,
        with `each`, what every pass wrote, [N, B, T, D]."""
        inputs.check_tokens(tokens, self.config.vocab_size)
        inputs.check_mask(valid, tokens.shape)
        batch_size, length = tokens.shape
        predicts = self._layout(length, loss_mask, predicts)
        valid = None if valid is None else self._valid(tokens, valid)
        passes = self.config.sleep.passes if passes is None else passes
        size, start, told, used = self.config.window, 0, [], []
        after = self.config.sleep.after_predicting
        if after and not (halt is None or isinstance(halt, float) and halt == 0.0):
            raise ValueError("halt: a model with sleep.after_predicting sleeps N passes behind what it predicts; leave halt out")
        kept = self._begin(batch_size)
        blocks = self.config.memory_blocks.count if blocks is None else blocks
        while start < length:
            predicting = predicts[start // size]
            if predicting and blocks:
                kept, blocks = self._think(blocks, *kept), 0
            # a cache that grows has no fixed shape to scan over, and a gradient through a scan over predictions would stack all that it keeps
            alone = self.config.full_cache or predicting and not after and isinstance(passes, int)
            run = 1 if alone else _alike(predicts[start // size:], length - start, size)
            slept = predicting and after and start + size < length
            run -= slept and run > 1 and start + run * size >= length  # the last window of all is read once
            chunk, seen = (None if given is None else given[:, start:start + run * size] for given in (tokens, valid))
            count, ends = (passes if slept else self.config.sleep.predict_passes, None) if predicting else (passes, halt)
            hidden, kept, more = self._read_run(chunk, seen, kept, run, count, predicting, ends, each and not predicting)
            told.append(give(chunk, hidden))
            used += [] if predicting else [more]
            start += run * size
        return told, used

    def _of_known(self, tokens, logits):
        """The logits, or what they are made of, NaN for a sequence with a token outside the vocabulary: told at the end, since any change to the first lookup would move the
        last bits of the gradients that XLA sums."""
        if not isinstance(tokens, jax.core.Tracer):
            return logits
        known_B = jnp.all((tokens >= 0) & (tokens < self.config.vocab_size), axis=1)
        return jnp.where(known_B[:, None, None], logits, jnp.nan)

    def _layout(self, length, loss_mask, predicts):
        windows = -(-length // self.config.window)
        if predicts is None:
            if loss_mask is None or isinstance(loss_mask, jax.core.Tracer):
                raise ValueError("forward needs to know which windows predict: a concrete loss_mask, or predicts=… under jit")
            if np.shape(loss_mask)[1:] != (length,):
                raise ValueError(f"loss_mask has shape {list(np.shape(loss_mask))}, for [B, {length}] tokens")
            labelled = np.asarray(loss_mask).any(axis=0)
            return tuple(bool(labelled[i * self.config.window:(i + 1) * self.config.window].any()) for i in range(windows))
        if len(predicts) != windows:
            raise ValueError(f"predicts has {len(predicts)} entries, but {length} tokens are {windows} windows of {self.config.window}")
        return tuple(bool(value) for value in predicts)

    def _read_run(self, tokens, valid, kept, run, passes, predicting, halt, each):
        """`run` windows that all sleep, or all predict, one after the other and compiled once: hidden (None where they sleep), what is kept, and what `_read` gives last."""
        if run == 1:
            hidden, *kept, used = self._reader(passes, predicting, halt, each)(tokens, valid, *kept)
            return hidden if predicting else None, kept, used
        graph, params = nnx.split(self, nnx.Param)
        chunks = jax.tree.map(lambda given: jnp.stack(jnp.split(given, run, axis=1)), (tokens, valid))

        def body(carry, chunk):
            hidden, *carry, used = nnx.merge(graph, params)._reader(passes, predicting, halt, each)(*chunk, *carry)
            return tuple(carry), (hidden if predicting else None, used)

        kept, (hidden, used) = jax.lax.scan(body, tuple(kept), chunks)
        used = rearrange(used, "w n b t d -> n b (w t) d") if each else jnp.sum(used, axis=0)
        return hidden if hidden is None else rearrange(hidden, "w b t d -> b (w t) d"), kept, used

    # Streaming

    def init_state(self, batch_size: int) -> State:
        """The memory of `batch_size` sequences that have read nothing; raises ValueError without any."""
        inputs.check_batch_size(batch_size)
        return self._open(*self._begin(batch_size))

    def _open(self, fast_weights: FastWeights, survivors: KvCache, tails: tuple[jax.Array, ...]) -> State:
        config = self.config
        window = new_window(
            fast_weights,
            survivors,
            length=config.window,
            tail_shape=(config.conv_width - 1, config.conv_channels),
            dtype=jnp.dtype(config.dtype),
            tails=tails,
        )
        return State(fast_weights, window, tails)

    def wake(self, tokens: jax.Array, state: State, valid: jax.Array | None = None) -> tuple[jax.Array, State]:
        """One ordinary forward pass over T more tokens of the window: the same cost whatever N is.

        Args:
          tokens: [B, T] int32, B and T at least 1, from 0 to V − 1, as many as the window has room for. Under `jit` neither can be seen: then the
            logits from a foreign token on, or all of a call that overfills the window, are NaN, and so is what they leave in the state, asleep or awake.
          state: as `init_state`, `wake` or `sleep` returned it.
          valid: [B, T] bool; False at what is padding besides `config.pad_id`. A sleep knows it again.

        Returns:
          [B, T, V] float32 logits, and the state after the tokens.

        Raises:
          ValueError: the tokens do not fit into what is left of the window (call `sleep` first), outside `jit`; they, or the state, are not this
            model's, see `sleepnet.models.inputs`; or the model loops over the windows that predict, or has memory blocks, and so has no one-pass form.
        """
        self._needs_no_gate()
        config, window = self.config, state.window
        if config.sleep.predict_passes != 1:
            raise ValueError(f"sleep.predict_passes={config.sleep.predict_passes}: such a model can't wake in one pass; use forward")
        if config.memory_blocks.count:
            raise ValueError(f"memory_blocks.count={config.memory_blocks.count}: awake a model can't tell where its blocks are to stand; use forward, or readouts")
        inputs.check_tokens(tokens, config.vocab_size)
        inputs.check_mask(valid, tokens.shape)
        inputs.check_state(state, config, tokens.shape[0])
        valid = self._valid(tokens, valid)
        if isinstance(window.length, jax.core.Tracer):  # what does not fit is no token: NaN here, and again where a sleep reads it
            tokens = jnp.where(window.length + tokens.shape[1] <= config.window, tokens, -1)
        elif int(window.length) + tokens.shape[1] > config.window:
            raise ValueError(f"{tokens.shape[1]} tokens on top of {int(window.length)} overfill the window of {config.window}: sleep first")
        slot = window.length + window.kv_cache.valid.shape[1] - config.window
        put = jax.lax.dynamic_update_slice_in_dim
        cache = KvCache(window.kv_cache.keys, window.kv_cache.values, put(window.kv_cache.valid, valid, slot, axis=1))
        hidden, fast_weights, tails, cache = self._advance(
            0, len(config.pattern), self._embed(tokens, window.length, strict=True), window.fast_weights, window.conv_tails, cache, valid, slot
        )
        window = type(window)(
            tokens=put(window.tokens, tokens, window.length, axis=1),
            length=window.length + tokens.shape[1],
            fast_weights=fast_weights,
            conv_tails=tails,
            kv_cache=cache,
        )
        return self.logits(hidden), State(state.fast_weights, window, state.conv_tails)

    def sleep(self, state: State, passes: int | jax.Array | None = None, *, halt: float | jax.Array | None = 0.0) -> State:
        """Ends the window: N passes fold its tokens into the fast weights, the rest is cleared.

        One pass keeps what `wake` has already written, so a window that predicted ends with `passes=1`, or with N where `config.sleep.after_predicting`.

        Args:
          state: any state; a window that is not full sleeps over what it has.
          passes: N ≥ 1; `config.sleep.passes` if None. Of an int32 scalar one program serves every N, without gradients.
          halt: a sequence's sleep ends before its N-th pass once S has settled to within this share; 0 or None: never.

        Returns:
          A state with new fast weights, an empty window, and the survivors of the eviction in the KV cache. Without evictions the cache has L
          slots more than before: shapes change, and what was compiled for the last window is compiled again.

        Raises:
          ValueError: passes < 1, or a state of another model.
        """
        inputs.check_state(state, self.config)
        passes = self.config.sleep.passes if passes is None else passes
        window = state.window
        awake = self._turn(window.fast_weights), self._evict(window.kv_cache, window.length), window.conv_tails if self.config.sleep.keep_tails else ()
        counted = isinstance(passes, int)
        if counted and passes == 1:
            return self._open(*awake)
        survivors = jax.tree.map(lambda a: a[:, :a.shape[1] - self.config.window], window.kv_cache)
        seen = window.kv_cache.valid[:, -self.config.window:]
        _, *asleep, _ = self._read(window.tokens, seen, state.fast_weights, survivors, state.conv_tails, passes, window.length, halt=halt, strict=True)
        return self._open(*(asleep if counted else jax.tree.map(lambda one, more: jnp.where(passes == 1, one, more), awake, tuple(asleep))))


def _alike(predicts: tuple[bool, ...], left: int, size: int) -> int:
    """How many whole windows from here on do what the first does, at least 1."""
    count = 0
    while count < len(predicts) and predicts[count] == predicts[0] and (count + 1) * size <= left:
        count += 1
    return max(count, 1)
