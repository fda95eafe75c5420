"""What a family's tensors are called and how they are laid out: rows of data that are read in both directions.

    Row("self_attn.q_proj.weight", "mixer.q.kernel", TRANSPOSED)

A row's tensors, theirs and ours, are those of one block, or of the model's ends. A tuple of rows is several spellings of the same parameters: whichever
a folder has is read, and written back; the first where a model comes from nowhere.
"""
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from sleepnet.config import ModelConfig

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Two functions that undo each other bit for bit: of the model's configuration and a row's tensors, in the row's order."""

    ours: Callable[[ModelConfig, Arrays], list[np.ndarray]]
    theirs: Callable[[ModelConfig, Arrays], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Row:
    """Names of tensors there and here, and how one layout becomes the other."""

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    layout: Layout

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(theirs, ours), as tuples."""
        return tuple((each,) if isinstance(each, str) else each for each in (self.theirs, self.ours))


Rows = tuple[Row | tuple[Row, ...], ...]


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[ModelConfig, Arrays], list[np.ndarray]]:
    return lambda config, arrays: [function(array) for array in arrays]


def _widths(config: ModelConfig) -> list[int]:
    """Channels of q, k and v in a fast-weight block."""
    return [math.prod(config.key_shape), math.prod(config.key_shape), math.prod(config.value_shape)]


def _cuts(config: ModelConfig) -> list[int]:
    return np.cumsum(_widths(config))[:-1].tolist()


def _thirds(taps: np.ndarray) -> list[np.ndarray]:
    size = -(-taps.shape[1] // 3)
    return np.split(taps, [size, 2 * size], axis=1)


def _gated_ours(config: ModelConfig, arrays: Arrays) -> list[np.ndarray]:
    """[H (q, gate) d, D] → q [D, H d] and gate [D, H d]."""
    by_head = arrays[0].reshape(config.heads, 2, config.head_dim, -1)
    return [by_head[:, part].reshape(config.heads * config.head_dim, -1).T for part in (0, 1)]


def _gated_theirs(config: ModelConfig, arrays: Arrays) -> list[np.ndarray]:
    halves = [array.T.reshape(config.heads, config.head_dim, -1) for array in arrays]
    return [np.stack(halves, axis=1).reshape(2 * config.heads * config.head_dim, -1)]


SAME = Layout(_each(lambda x: x), _each(lambda x: x))
TRANSPOSED = Layout(_each(lambda x: x.T), _each(lambda x: x.T))  # [out, in] ↔ [in, out]
Q_AND_GATE = Layout(_gated_ours, _gated_theirs)
# one matrix [q | k | v, D] ↔ three [D, ·]
QKV = Layout(
    lambda config, arrays: [part.T for part in np.split(arrays[0], _cuts(config), axis=0)],
    lambda config, arrays: [np.concatenate([array.T for array in arrays], axis=0)],
)
# a depthwise convolution over q, k and v, [C, 1, W] ↔ [W, C]; or three of them
TAPS = Layout(_each(lambda x: x[:, 0].T), _each(lambda x: x.T[:, None]))
THREE_TAPS = Layout(
    lambda config, arrays: [np.concatenate([array[:, 0].T for array in arrays], axis=1)],
    lambda config, arrays: [part.T[:, None] for part in np.split(arrays[0], _cuts(config), axis=1)],
)
# the same three as transformers 5 saves them again, cut into equal parts wherever q, k and v end
THREE_EQUAL_TAPS = Layout(THREE_TAPS.ours, lambda config, arrays: [part.T[:, None] for part in _thirds(arrays[0])])

MLP: Rows = tuple(Row(f"mlp.{name}_proj.weight", f"mlp.{name}.kernel", TRANSPOSED) for name in ("gate", "up", "down"))
NORMS: Rows = (Row("input_layernorm.weight", "mixer_norm.scale", SAME), Row("post_attention_layernorm.weight", "mlp_norm.scale", SAME))


def attention(*parts: str, under: str = "self_attn", bias: Sequence[str] = (), normed: bool = False) -> Rows:
    """Projections of these parts (q, k, v) and o, with biases of some, and the norms of q and k."""
    rows = [Row(f"{under}.{part}_proj.weight", f"mixer.{part}.kernel", TRANSPOSED) for part in parts]
    rows += [Row(f"{under}.o_proj.weight", "mixer.out.kernel", TRANSPOSED)]
    rows += [Row(f"{under}.{part}_proj.bias", f"mixer.{part}.bias", SAME) for part in bias]
    rows += [Row(f"{under}.{part}_norm.weight", f"mixer.{part}_scale", SAME) for part in ("q", "k") if normed]
    return tuple(rows)


def delta_net(under: str) -> Rows:
    """Gated DeltaNet as flash-linear-attention spells it: a projection each, three convolutions (or one over all)."""
    named = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "g_proj": "gate", "b_proj": "beta", "a_proj": "decay", "o_proj": "out"}
    three = tuple(f"{under}.{part}_conv1d.weight" for part in ("q", "k", "v"))
    return (
        *(Row(f"{under}.{theirs}.weight", f"mixer.{ours}.kernel", TRANSPOSED) for theirs, ours in named.items()),
        (Row(three, "mixer.conv", THREE_TAPS), Row(three, "mixer.conv", THREE_EQUAL_TAPS), Row(f"{under}.conv1d.weight", "mixer.conv", TAPS)),
        Row(f"{under}.A_log", "mixer.decay_rate", SAME),
        Row(f"{under}.dt_bias", "mixer.decay_bias", SAME),
        Row(f"{under}.o_norm.weight", "mixer.out_scale", SAME),
    )


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of released model, by its `model_type`.

    Attributes:
      title: what it is, in a line.
      model: config.json, as `sleepnet.hf.values.Values` → keys of ModelConfig; refuses what is not built here.
      blocks: rows of a block's tensors behind `layers.0.`, by its letter; a bias row is left out where the configuration has none.
      ends: rows of what is no block, but for the head.
      section: of config.json that holds the text model, "" for the whole.
      prefixes: what stands before every name but the head's; the first is written.
      left_out: regular expressions of tensors that are not read, with what they are.
      note: what a person should know, "" for nothing.
    """

    title: str
    model: Callable
    blocks: dict[str, Rows]
    ends: Rows = (Row("embed_tokens.weight", "embedding", SAME), Row("norm.weight", "final_norm.scale", SAME))
    section: str = ""
    prefixes: tuple[str, ...] = ("model.",)
    left_out: tuple[tuple[str, str], ...] = ((r"rotary_emb\.inv_freq$", "rotary frequencies, which follow from the base"),)
    note: str = ""
