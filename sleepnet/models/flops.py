"""What a model costs, from its configuration alone: floating-point operations, bytes of state, parameters.

A multiply-add is 2 FLOPs. Counted: matrix products, attention over every slot it is given (masked ones too, as the code
computes them), the short convolution, and the fast-weight rule by its definition, one token after the other, whatever
chunked form runs. Not counted: norms, gates, RoPE, softmax, what goes round the loop, the embeddings' look-up. Nor does
the count know what a compiler leaves out, such as the last block's output in a window where nobody reads it.

Letters: D width, I channels of attention's queries, J of its keys, G and H heads of keys and of values in a fast-weight block, K and V their widths,
F MLP width, T tokens, M slots that attention sees, N passes, L window.
All counts are for one sequence.
"""
import dataclasses
import math
from collections.abc import Sequence

from sleepnet import rules
from sleepnet.config import ModelConfig, SleepConfig

_READ = 2  # FLOPs of q·S at one entry of S


def _gates(config: ModelConfig) -> tuple[int, int]:
    """Weights of the projections to beta and to the decays (by channel: of rank V), and of the decays' rates and biases."""
    D, (_, K), (H, V) = config.width, config.key_shape, config.value_shape
    counts = {"": (0, 0), "head": (D * H, 2 * H), "channel": (D * V + V * H * K, H + H * K), "momentum": (2 * D * H, 2 * H)}
    rule = rules.get(config.rule)
    projections, others = counts["momentum" if rule.momentum else rule.decays]
    return D * H + projections, others


def _projections(config: ModelConfig, kind: str) -> int:
    """Weights of the matrices from and to the residual stream, gates of the rule left out."""
    D = config.width
    if kind == "A":
        I, J = config.heads * config.head_dim, math.prod(config.entry_shape)
        return D * ((3 if config.attention_gate else 2) * I + 2 * J)
    return D * (2 * math.prod(config.key_shape) + 3 * math.prod(config.value_shape))


def _taps(config: ModelConfig) -> int:
    """Weights of the short convolution: its taps, or what makes them."""
    taps = config.conv_width * config.conv_channels
    return config.taps_rank * (config.width + taps) if config.conv == "dynamic" else taps


def pass_flops(config: ModelConfig, tokens: int, *, context: int | None = None, blocks: tuple[int, int] | None = None, rewrites: bool = False) -> int:
    """FLOPs of one pass over `tokens` tokens, without the head.

    Args:
      config: the model; `window` known.
      tokens: T new tokens.
      context: M, attention's slots with the new tokens' own; T and the survivors of the last eviction if None.
      blocks: (first, last + 1) of the blocks that run; all if None.
      rewrites: what is written is also written onto another S, which is not read.
    """
    context = tokens + config.survivors if context is None else context
    first, last = (0, len(config.pattern)) if blocks is None else blocks
    return sum(_block_flops(config, index, tokens, context, rewrites) for index in range(first, last))


def _block_flops(config: ModelConfig, index: int, tokens: int, context: int, rewrites: bool) -> int:
    kind = config.pattern[index]
    mlp, projections = 2 * 3 * config.width * (config.mlp_width if config.has_mlp(index) else 0), 2 * _projections(config, kind)
    if index in config.expert_blocks:  # all that are allocated, asleep or not, as the code computes them
        mlp += 2 * config.experts.count * config.width * (2 * config.experts.rank + 1)
    if kind == "A":
        return tokens * (projections + 2 * 2 * context * config.heads * config.head_dim + mlp)
    (heads, value_dim), key_dim = config.value_shape, config.key_shape[1]
    projections += 2 * _gates(config)[0]
    convolution = 2 * (config.conv_width * config.conv_channels + (_taps(config) if config.conv == "dynamic" else 0))
    rule = rules.get(config.rule).flops
    rule += rule - _READ if rewrites else 0
    return tokens * (projections + convolution + rule * heads * key_dim * value_dim + mlp)


def head_flops(config: ModelConfig, tokens: int) -> int:
    """FLOPs of the logits of `tokens` tokens."""
    return 2 * tokens * config.width * config.vocab_size


def _window_flops(config: ModelConfig, tokens: int, rounds: int, kept: int) -> int:
    """FLOPs of one window behind `kept` KV entries, whose looped span runs `rounds` times; what stands before and behind it runs once."""
    once = pass_flops(config, tokens, context=kept + tokens) - pass_flops(config, tokens, context=kept + tokens, blocks=config.loop)
    return once + rounds * _looped_flops(config, tokens, rounds, kept)


def _looped_flops(config: ModelConfig, tokens: int, rounds: int, kept: int) -> int:
    """FLOPs of one of `rounds` passes of the looped span."""
    return pass_flops(config, tokens, context=kept + tokens, blocks=config.loop, rewrites=config.sleep.rewrite and rounds > 1)


def kept_entries(config: ModelConfig, windows: int) -> int:
    """KV entries of earlier windows that attention sees after `windows` of them."""
    return windows * config.window if config.full_cache else config.survivors


def _windows(config: ModelConfig, predicts: Sequence[bool], seq_len: int, passes: int) -> list[tuple[int, bool, int, int]]:
    """(tokens, does it predict, passes over it, KV entries before it) of each window, and of the memory blocks before the first that predicts; the last may be shorter."""
    windows = -(-seq_len // config.window)
    if len(predicts) != windows:
        raise ValueError(f"predicts has {len(predicts)} entries, but {seq_len} tokens are {windows} windows of {config.window}")
    found, thought = [], 0
    for i, labelled in enumerate(predicts):
        if labelled and not thought and config.memory_blocks.count:
            thought = block_tokens(config)
            found.append((thought, False, config.memory_blocks.passes, kept_entries(config, i)))
        slept = not labelled or config.sleep.after_predicting and i < windows - 1
        rounds = passes if slept else config.sleep.predict_passes
        found.append((min(config.window, seq_len - i * config.window), bool(labelled), rounds, kept_entries(config, i) + thought))
    return found


def _twice(config: ModelConfig, tokens: int, labelled: bool, rounds: int, kept: int) -> int:
    """FLOPs of the blocks behind the loop where a window that predicts is slept over as well: the first pass goes through them, and the last, if anything of it is kept."""
    kept_there = "G" in config.pattern[config.loop[1]:] or config.sleep.eviction != "hard"
    again = labelled and config.sleep.after_predicting and rounds > 1 and kept_there
    return pass_flops(config, tokens, context=kept + tokens, blocks=(config.loop[1], len(config.pattern))) if again else 0


def block_tokens(config: ModelConfig) -> int:
    """Tokens of all memory blocks."""
    return config.memory_blocks.count * config.memory_blocks.tokens


def think_flops(config: ModelConfig, windows: int) -> int:
    """FLOPs of reading the memory blocks behind so many windows, R passes."""
    return _window_flops(config, block_tokens(config), config.memory_blocks.passes, kept_entries(config, windows)) if config.memory_blocks.count else 0


def gate_flops(config: ModelConfig, seq_len: int) -> int:
    """FLOPs of choosing among sparse increments: the first block over what the gate reads."""
    return pass_flops(config, min(seq_len, config.sparse.reads or config.window), blocks=(0, 1)) if config.sparse.count else 0


def forward_flops(config: ModelConfig, predicts: Sequence[bool], seq_len: int, passes: int | None = None) -> int:
    """FLOPs of `Hybrid.forward` (Algorithm 1): N passes over a window that sleeps, `predict_passes` and the head where it predicts, or N there, too, with `after_predicting`.

    Args:
      config: the model; `vocab_size` and `window` known.
      predicts: does a window hold labels? One bool a window.
      seq_len: tokens of the sequence.
      passes: N; `config.sleep.passes` if None.

    Raises:
      ValueError: `predicts` is not as long as there are windows.
    """
    passes = config.sleep.passes if passes is None else passes
    total = gate_flops(config, seq_len)
    for tokens, labelled, rounds, kept in _windows(config, predicts, seq_len, passes):
        total += _window_flops(config, tokens, rounds, kept)
        total += head_flops(config, tokens) if labelled else 0
        total += _twice(config, tokens, labelled, rounds, kept)
    return total


def train_flops(config: ModelConfig, predicts: Sequence[bool], seq_len: int, passes: int | None = None) -> int:
    """FLOPs of one sequence of a training step, without the optimiser.

    3 × `forward_flops` where gradients are full: the backward pass has two products for each one of the forward pass, one
    for either factor's gradient. `remat` runs the looped span once more. The last-k and implicit gradients save or add
    passes of the looped span, see `_loop_rounds`.

    Args and raises: as `forward_flops`.
    """
    return _learnt(config, _windows(config, predicts, seq_len, config.sleep.passes if passes is None else passes))


def _learnt(config: ModelConfig, windows: Sequence[tuple[int, bool, int, int]]) -> int:
    """`train_flops` of windows as `_windows` tells them."""
    total = 0
    for tokens, labelled, rounds, kept in windows:
        stack = _window_flops(config, tokens, 0, kept) + _twice(config, tokens, labelled, rounds, kept)
        outside = stack + (head_flops(config, tokens) if labelled else 0)
        total += stack if config.recomputed == "chunk" else 0
        opens = labelled and config.sleep.after_predicting
        total += 3 * outside + _loop_rounds(config, rounds, opens) * _looped_flops(config, tokens, rounds, kept)
    return total


def adapted_flops(config: ModelConfig, predicts: Sequence[bool], seq_len: int, passes: int | None = None, *, trained: Sequence[int]) -> int:
    """`train_flops` where the weights of some blocks change and all else is frozen, with full gradients that nothing is computed again for.

    Forward as ever. Backward nothing below the first of these blocks, but in the loop's passes behind the first, whose hidden state these blocks have
    made; at and behind it one product for each frozen matrix, whose own gradient nobody asks for, and two for all else.

    Args: as `forward_flops`; `trained`: numbers of the blocks, at least one.

    Raises:
      ValueError: no block, or another gradient.
    """
    if not trained or config.sleep.gradient != "full" or config.recomputed != "none":
        raise ValueError(f"trained={trained} must name blocks, of a model with model.sleep.gradient=full and model.remat=none")
    passes = config.sleep.passes if passes is None else passes
    (start, stop), first, total = config.loop, min(trained), forward_flops(config, predicts, seq_len, passes)
    for tokens, labelled, rounds, kept in _windows(config, predicts, seq_len, passes):
        for index in range(len(config.pattern)):
            times = (rounds - (index < first) if rounds > 1 or index >= first else 0) if start <= index < stop else int(index >= first)
            back = 2 * _block_flops(config, index, tokens, kept + tokens, False) - (0 if index in trained else _weight_flops(config, index, tokens))
            total += times * back
        total += head_flops(config, tokens) if labelled else 0
    return total


def _weight_flops(config: ModelConfig, index: int, tokens: int) -> int:
    """What a block's matrices cost on the way forward."""
    matrices = _projections(config, config.pattern[index]) + (_gates(config)[0] if config.pattern[index] == "G" else 0)
    return 2 * tokens * (matrices + (3 * config.width * config.mlp_width if config.has_mlp(index) else 0))


def readouts_train_flops(config: ModelConfig, context: int, readouts: int, length: int, passes: int | None = None) -> int:
    """`train_flops` of `Hybrid.readouts`: R read-outs of Q = `length` tokens in one pass behind as many memory blocks, each token in sight of all, as the code computes it.

    `context`: tokens of x, whole windows.
    """
    config = dataclasses.replace(config, memory_blocks=dataclasses.replace(config.memory_blocks, count=readouts))
    sleeping, asked = (False,) * (context // config.window), readouts * length
    before = _windows(config, (*sleeping, True), context + 1, config.sleep.passes if passes is None else passes)[:-1]
    return _learnt(config, before) + 3 * (pass_flops(config, asked, context=context + block_tokens(config) + asked) + head_flops(config, asked))


def _loop_rounds(config: ModelConfig, passes: int, opens: bool = False) -> int:
    """Forward and backward of `passes` passes, in units of one forward pass.

    full: N + 2N. last: N + 2k, no gradient enters the passes before. implicit: N, one more to linearise, and 2 for each of
    N pulls through it. `remat` repeats every pass, or every pull, that a gradient goes through (`named` all of it but the walk over the rule's
    chunks, which is counted nevertheless); `remat=chunk` repeats all N. Where the first pass `opens`, what it says has a gradient in any case.
    """
    sleep = config.sleep
    pulled = min(sleep.gradient_passes + opens, passes) if sleep.gradient == "last" else passes
    linearise = sleep.gradient == "implicit" and passes > 1
    again = {"none": 0, "pass": pulled, "named": pulled, "chunk": passes}[config.recomputed]
    return passes + linearise + 2 * pulled + again


def wake_token_flops(config: ModelConfig, windows: int = 0) -> int:
    """FLOPs of one more token in `Hybrid.wake`, logits included: every block once over P + L slots, whatever N is.

    `windows` were read before; it matters to a full cache alone, as do the memory blocks behind them.
    """
    return pass_flops(config, 1, context=kept_entries(config, windows) + block_tokens(config) + config.window) + head_flops(config, 1)


def sleep_flops(config: ModelConfig, passes: int | None = None, windows: int = 0) -> int:
    """FLOPs of one sleep over a full window: N passes of the looped span, one of the rest; `windows` as in `wake_token_flops`.

    Streaming, `wake` has spent one pass already; N = 1 keeps it and costs nothing more, N > 1 starts over from the window's
    tokens.
    """
    return _window_flops(config, config.window, config.sleep.passes if passes is None else passes, kept_entries(config, windows))


def state_bytes(config: ModelConfig) -> int:
    """Bytes of one sequence's fast weights, all that crosses a hard eviction: float32, `state_shape` per fast-weight block."""
    return 4 * config.pattern.count("G") * math.prod(config.state_shape)


def cache_bytes(config: ModelConfig, windows: int = 0) -> int:
    """Bytes of one sequence's keys and values while it reads a window behind `windows` others: P + L slots per attention block."""
    slots = kept_entries(config, windows) + block_tokens(config) + config.window
    return 2 * config.pattern.count("A") * slots * math.prod(config.entry_shape) * (2 if config.dtype == "bfloat16" else 4)


def parameters(config: ModelConfig) -> int:
    """Number of slow weights."""
    D, I, J = config.width, config.heads * config.head_dim, math.prod(config.entry_shape)
    block = {
        "A": _projections(config, "A") + {"none": 0, "head": 2 * config.head_dim, "all": I + J}[config.qk_norm] + (I + 2 * J if config.qkv_bias else 0),
        "G": _projections(config, "G") + sum(_gates(config)) + _taps(config) + config.conv_bias * config.conv_width * config.conv_channels + config.value_shape[1],  # … gates, convolution, norm
    }
    norms = {kind: D * sum(config.norms_of(kind)) for kind in "AG"}
    mlp = lambda index, kind: 3 * D * config.mlp_width + norms[kind] if config.has_mlp(index) else 0
    experts = len(config.expert_blocks) * config.experts.count * (2 * D * config.experts.rank + D + 2)
    positions = config.window * D if config.window_positions else 0
    blocks = 3 * D if config.memory_blocks.count else 0
    ends = (1 if config.tied else 2) * config.vocab_size * D + (1 if config.sleep.carry == "normed" else 2) * D  # tables; final norm, gain of the loop
    return ends + positions + blocks + experts + sum(norms[kind] + block[kind] + mlp(index, kind) for index, kind in enumerate(config.pattern))
