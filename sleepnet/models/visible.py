"""Who sees whom, and who stands where, in a sequence of segments: what is read, memory blocks, and read-outs side by side (RiM, arXiv 2605.30343).

    [x | m_1 … m_K | q_1 … q_K]      a segment is a number: 0 for x, k for block m_k, −k for the read-out q_k behind block k

Everything here is known before anything is traced: numpy arrays, constants of a compiled program. Letters: S tokens of the sequence.
"""
import numpy as np


def segments(context: int, blocks: int, block_tokens: int, readout_tokens: int) -> np.ndarray:
    """Returns the segment of each token of x (`context` tokens), K blocks and the K read-outs behind them: int32 [S]."""
    numbers = np.arange(1, blocks + 1)
    return np.concatenate([np.zeros(context, int), np.repeat(numbers, block_tokens), np.repeat(-numbers, readout_tokens)]).astype(np.int32)


def visible(segments_S: np.ndarray, leaky: bool = False) -> np.ndarray:
    """Returns whether token i (rows) sees token j (columns): bool [S, S].

    j ≤ i, and j is of x; or i is of m_a or q_a and j of m_b with b ≤ a; or i and j are of one read-out.

    Args:
      segments_S: as `segments` returns them.
      leaky: a read-out sees those before it, too. A control: what it learns is not there where a read-out stands alone.
    """
    i, j = segments_S[:, None], segments_S[None, :]
    seen = (j == 0) | (j > 0) & (j <= abs(i)) | (i < 0) & ((j < 0) if leaky else (j == i))
    return seen & np.tri(len(segments_S), dtype=bool)


def positions(segments_S: np.ndarray) -> np.ndarray:
    """Returns how many tokens stand before each, of those that it sees: int32 [S]. A read-out goes on from its block, as if it were the only one."""
    return visible(segments_S).sum(axis=1, dtype=np.int32) - 1
