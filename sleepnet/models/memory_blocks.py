"""Memory blocks (RiM, arXiv 2605.30343): learnt tokens read between what is told and what is asked, and read-outs behind each of them in one pass.

A block is [first, middle × M, last], three embeddings in all, the same for whatever is read. The neighbour LOTUS loops over the blocks: R passes.
"""
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from sleepnet.models import inputs
from sleepnet.models.attention import Seats
from sleepnet.models.visible import positions, segments, visible
from sleepnet.models.window import WindowReader, whole_table


class BlockReader(WindowReader):
    """A `WindowReader` that can think in memory blocks. Letters: B batch, K memory blocks, R read-outs, Q tokens of one, V vocabulary."""

    def readouts(self, tokens: jax.Array, asked: jax.Array, *, passes: int | jax.Array | None = None, leaky: bool = False) -> jax.Array:
        """What the model says behind each of R memory blocks, all in one pass: [x | m_1 … m_R | q_1 … q_R], see `sleepnet.models.visible`.

        Read-out r says what `forward` says with r blocks, to rounding.

        Args:
          tokens: [B, C] int32, windows that sleep.
          asked: [B, R, Q] int32, the tokens of each read-out, from the beginning of a window on; PAD is seen by none.
          passes: N over the windows that sleep, `config.sleep.passes` if None.
          leaky: read-outs see those before them.

        Returns:
          [B, R, Q, V] float32 logits.

        Raises:
          ValueError: a model without memory blocks, a read-out longer than a window, or what `inputs.check_tokens` refuses.
        """
        if not self.config.memory_blocks.count:
            raise ValueError("a model without memory blocks has no read-outs behind them: set model.memory_blocks.count")
        batch_size, count, length = asked.shape
        for each in (tokens, asked.reshape(batch_size, -1)):
            inputs.check_tokens(each, self.config.vocab_size)
        if length > self.config.window:
            raise ValueError(f"read-outs of {length} tokens are longer than the window of {self.config.window}")
        passes, size = self.config.sleep.passes if passes is None else passes, self.config.window
        kept = self._begin(batch_size)
        for start in range(0, tokens.shape[1], size):
            _, *kept, _ = self._reader(passes, False, None)(tokens[:, start:start + size], None, *kept)
        kept = self._think(count, *kept)
        parts = segments(tokens.shape[1], count, self.config.memory_blocks.tokens, length)
        mine = slice(len(parts) - count * length, None)
        seats = Seats(positions(parts)[mine], visible(parts, leaky)[mine])
        embed = lambda: rearrange(self._embed(rearrange(asked, "b r q -> (b r) q")), "(b r) q d -> b (r q) d", r=count)
        hidden, *_ = self._read_embedded(embed, self._valid(rearrange(asked, "b r q -> b (r q)")), *kept, 1, causal=True, seats=seats)
        return rearrange(self.logits(hidden), "b (r q) v -> b r q v", r=count)

    def _think(self, blocks, fast_weights, survivors, tails):
        """Reads so many memory blocks behind what the cache holds; returns fast weights, the cache with them, and tails."""
        kinds = np.tile([0, *[1] * self.config.memory_blocks.length, 2], blocks)
        rows = survivors.valid.shape[0]
        table = whole_table(self.block_tokens)
        embed = lambda: jnp.broadcast_to(table[kinds].astype(jnp.dtype(self.config.dtype)), (rows, len(kinds), self.config.width))
        _, *kept, _ = self._read_embedded(embed, jnp.ones((rows, len(kinds)), bool), fast_weights, survivors, tails, self.config.memory_blocks.passes)
        return kept
