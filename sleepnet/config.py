"""Configuration: ml_collections at the edge, frozen dataclasses inside.

A config file defines `get_config()`, starts from `default()` and changes values; `parse` turns the result into a `RunConfig`.
Every field's comment says what it means; every value is checked (`sleepnet.refusals`) before anything is built.
"""
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from sleepnet import refusals, released, rules, scalars, trust
from sleepnet.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class SleepConfig:
    """When and how a window is folded into the fast weights."""

    passes: int = 4  # N, passes over a window that sleeps
    predict_passes: int = 1  # passes over a window that predicts, each from the window's first S; more than 1 loops at answering
    eviction: str = "hard"  # hard: the KV cache is emptied; sliding: the newest L − 1 entries stay; none: all stay, and attention sees them
    carry: str = "reinject"  # what goes round the loop: hidden (the paper), reinject (normalised, embedding added), or normed (by the final norm; Ouro)
    loop_start: int = 0  # first block of the loop
    loop_stop: int = -1  # block behind the last of the loop; -1: all blocks
    reset_fast_weights: bool = False  # each pass starts from the window's first S instead of the last pass's
    rewrite: bool = False  # each pass reads what the last one left, and writes onto the window's first S: what was stored before fades once a window, not N times
    gradient: str = "full"  # full, last (the last `gradient_passes` passes), or implicit (fixed point)
    gradient_passes: int = 1  # read by gradient = last
    remat: bool = False  # recompute each pass in the backward pass: model.remat=pass
    after_predicting: bool = False  # a window that predicts is slept over, too: its first pass gives the logits, N − 1 more follow before the next window
    keep_tails: bool = False  # the short convolutions' last W − 1 tokens outlive the window, as the KV entries do that no eviction takes

    def __post_init__(self):
        refusals.sleep(self)


@dataclasses.dataclass(frozen=True)
class MemoryBlocksConfig:
    """Room to think in the window (RiM, arXiv 2605.30343): learnt tokens, the same for all that is read, between the last window that sleeps and the first that predicts."""

    count: int = 0  # K, blocks; 0: none
    length: int = 2  # M, middle tokens of a block, which has a first and a last besides
    passes: int = 1  # R, over all blocks together; what was read before them is read no more

    def __post_init__(self):
        refusals.memory_blocks(self)

    @property
    def tokens(self) -> int:
        """Of one block."""
        return self.length + 2


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """Low-rank experts beside the MLPs, see `sleepnet.models.experts`."""

    count: int = 0  # E of each block that has them: allocated at once, asleep until a method grows one after the other; 0: none
    rank: int = 8  # r
    alpha: float = 8.0  # what an expert says counts alpha / rank times
    blocks: tuple[int, ...] = ()  # that have them, from 0; empty: all

    def __post_init__(self):
        refusals.experts(self)


@dataclasses.dataclass(frozen=True)
class SparseConfig:
    """Sparse increments of the model's own matrices with one gate, see `sleepnet.models.sparse`."""

    count: int = 0  # D, days that increments can be unique to; 0: none
    names: str = r"mlp\.(gate|up|down)\.kernel|mixer\.(q|v)\.kernel"  # regular expression, found in the dotted names of the matrices
    gate: str = "top1"  # of a row: the likeliest day's increments; soft: all, as likely as they are; uniform: all alike; told: those of the day that the first token names
    told_from: int = 0  # the token that names the first day; of told
    reads: int = 0  # tokens of a row that the gate goes by, its first; 0: its first window. Of a row that holds its own answer as many as stand before that

    def __post_init__(self):
        refusals.sparse(self)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A stack of blocks, each a mixer (A attention, G fast weights) and an MLP."""

    vocab_size: int = 0  # 0: the task's
    window: int = 0  # L, tokens between two boundaries; 0: the task's
    pattern: str = "AG"  # one letter a block
    width: int = 64  # D
    heads: int = 2  # of attention and of fast weights
    head_dim: int = 32  # D of an attention head, K and V of a fast-weight head
    kv_heads: int = 0  # of attention's keys and values, each read by heads / kv_heads queries; 0: heads
    key_heads: int = 0  # G, of a fast-weight block's q and k, each shared by value_heads / key_heads heads; 0: heads
    value_heads: int = 0  # H, of its v, S and gates; 0: heads
    key_dim: int = 0  # K; 0: head_dim
    value_dim: int = 0  # V; 0: head_dim
    mlp_width: int = 128  # of the gated MLP; 0: none
    no_mlp: tuple[int, ...] = ()  # blocks, from 0, that are a mixer alone: those put into a model that was trained without them
    conv_width: int = 4  # W of the short convolution in a fast-weight block
    conv: str = "fixed"  # its taps: fixed (over q, k and v), or dynamic (each token makes its own, over v alone; Jet)
    conv_rank: int = 0  # of a dynamic one, channels through which a token makes its taps; 0: an eighth of width
    conv_bias: bool = False  # of a dynamic one: added to the taps
    rule: str = "gated_delta"  # fast-weight rule, one of sleepnet.rules or your own as "module:NAME"
    beta_max: float = 1.0  # write strength lies in (0, beta_max); 2 lets the delta rules turn a key's value round (negative eigenvalues)
    turn_keys: str = "never"  # keys of S turn, so that one does not write over the other, behind windows, or behind every pass; see sleepnet.models.turn
    decay_start: str = "windows"  # what heads forget before training: windows (little in a window), or mamba2; read by rules that decay
    scale_queries: bool = False  # q · K^−½ in fast-weight blocks: what is read meets the gated norm's ε at that size
    rope_theta: float = 10000.0
    rope_share: float = 1.0  # of an attention head's channels, the first ones, that RoPE turns; 0: none
    qk_norm: str = "head"  # of attention's q and k: head (each head by itself), all (all heads at once), or none
    qkv_bias: bool = False  # added to attention's q, k and v
    attention_gate: bool = False  # attention's output times sigmoid(W x) before the projection back
    norm_place: str = "pre"  # pre (x + f(norm(x))), post (x + norm(f(x))), or sandwich (x + norm(f(norm(x))))
    attention_norm_place: str = ""  # of attention blocks; empty: norm_place
    norm_epsilon: float = 1e-6  # ε of every norm but the gated one
    gate_epsilon: float = 1e-6  # ε of the gated norm behind a fast-weight rule
    norm_offset: bool = False  # every norm but the gated one multiplies by 1 + scale, not by scale
    tied: bool = False  # the head is the embedding's transpose
    pad_id: int = 0  # the token that is padding: never attended to, never written; −1: none, and only a mask says what is
    window_positions: bool = True  # add a learned embedding of a token's place in its window; RoPE alone knows only distances
    output_scale: float = 0.5  # of the initial weights of every projection back into the residual stream
    loop_gain: float = 0.5  # initial gain of the normalised hidden state between passes
    dtype: str = "float32"  # of activations; fast weights and norms stay float32
    weights_dtype: str = "float32"  # of projections and embeddings; bfloat16 to read with, not to train
    # what the backward pass computes again instead of keeping it: none; pass (each pass of the loop); chunk (each window, all its passes at
    # once); named (each pass, but not the walk over the rule's chunks: its states and inverses are kept)
    remat: str = "none"
    sleep: SleepConfig = dataclasses.field(default_factory=SleepConfig)
    memory_blocks: MemoryBlocksConfig = dataclasses.field(default_factory=MemoryBlocksConfig)
    experts: ExpertsConfig = dataclasses.field(default_factory=ExpertsConfig)
    sparse: SparseConfig = dataclasses.field(default_factory=SparseConfig)

    def __post_init__(self):
        refusals.model(self)

    @property
    def expert_blocks(self) -> tuple[int, ...]:
        """The blocks that have experts."""
        return (self.experts.blocks or tuple(index for index in range(len(self.pattern)) if self.has_mlp(index))) if self.experts.count else ()

    def has_mlp(self, index: int) -> bool:
        """Whether a block has one."""
        return bool(self.mlp_width) and index not in self.no_mlp

    @property
    def loop(self) -> tuple[int, int]:
        """First block of the loop and the one behind its last."""
        stop = self.sleep.loop_stop
        return self.sleep.loop_start, len(self.pattern) if stop == -1 else stop

    def layers(self, first: int, last: int) -> tuple[int, ...]:
        """Which fast weights are those of blocks `first` … `last` − 1."""
        return tuple(range(self.pattern[:first].count("G"), self.pattern[:last].count("G")))

    @property
    def entry_shape(self) -> tuple[int, int]:
        """(heads, channels) of a token's keys, and of its values, in attention's cache."""
        return self.kv_heads or self.heads, self.head_dim

    @property
    def key_shape(self) -> tuple[int, int]:
        """(G, K) of a fast-weight block's q and k."""
        return self.key_heads or self.heads, self.key_dim or self.head_dim

    @property
    def value_shape(self) -> tuple[int, int]:
        """(H, V) of a fast-weight block's v."""
        return self.value_heads or self.heads, self.value_dim or self.head_dim

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, K, V) of a block's fast weights; a momentum lies below its S."""
        heads, width = self.value_shape
        return heads, self.key_shape[1] * (2 if rules.get(self.rule).momentum else 1), width

    @property
    def conv_channels(self) -> int:
        """C of a short convolution: what it keeps of the last W − 1 tokens."""
        return math.prod(self.value_shape) + (2 * math.prod(self.key_shape) if self.conv == "fixed" else 0)

    def norms_of(self, kind: str) -> tuple[bool, bool]:
        """Whether a norm stands before, and whether one stands behind, either half of a block of that letter."""
        place = self.attention_norm_place or self.norm_place if kind == "A" else self.norm_place
        return place != "post", place != "pre"

    @property
    def taps_rank(self) -> int:
        """`conv_rank`, resolved."""
        return self.conv_rank or max(self.width // 8, 1)

    @property
    def recomputed(self) -> str:
        """The policy of `remat`, by either key."""
        return "pass" if self.sleep.remat else self.remat

    @property
    def survivors(self) -> int:
        """P, KV entries that outlive an eviction; without evictions those before the first window."""
        return self.window - 1 if self.sleep.eviction == "sliding" else 0

    @property
    def full_cache(self) -> bool:
        """Whether the KV cache grows by L with every window, as a transformer's does."""
        return self.sleep.eviction == "none"

    @property
    def keys_turned(self) -> bool:
        """Whether the KV cache keeps its keys after RoPE: where no eviction moves a slot."""
        return self.sleep.eviction != "sliding"


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A task by name; `arguments` as `sleepnet.tasks.get` takes them."""

    name: str = "depo"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    folder: str = ""  # training batches are read from this export (`python -m sleepnet.tasks export`); empty: drawn as they are needed


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Toward what a run learns, by name; `arguments` as `sleepnet.methods.get` takes them."""

    name: str = "answers"  # one of sleepnet.methods, or your own as "module:NAME"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        refusals.method(self)


@dataclasses.dataclass(frozen=True)
class AdaptersConfig:
    """What may change; all else stays as it was, byte for byte, without a gradient or optimiser state."""

    # all: every parameter; named: those that `names` names; entries: a `share` of each of those, drawn from the seed; low_rank: none, but each
    # of those matrices W acts as W + alpha / rank · A B, and A and B change; newest_expert: of model.experts the one that was grown last; sparse: of model.sparse what is
    # open today; heads: of those projections a `share` of the heads' slices, which the method chooses
    kind: str = "all"
    names: str = ""  # regular expression, found in a parameter's dotted name, such as "blocks.1.mlp"; read by named, entries, low_rank and heads
    rank: int = 8  # of A and B
    alpha: float = 32.0  # A B counts alpha / rank times
    share: float = 0.1  # of entries, of heads' slices
    also: str = ""  # regular expression for parameters that change whole beside the factors; read by low_rank

    def __post_init__(self):
        refusals.adapters(self)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Muon on the matrices of the blocks, AdamW on everything else."""

    learning_rate: float = 1e-2  # Muon's peak
    adam_rate: float = 1.5e-3  # AdamW's peak
    warmup: int = 100  # steps of linear warm-up
    decay: float = 0.3  # share of the run, at its end, over which both rates fall linearly to `final` of their peak
    final: float = 0.01
    momentum: float = 0.95  # Muon's
    adam_b1: float = 0.9
    adam_b2: float = 0.98
    weight_decay: float = 0.0
    clip: float = 1.0  # global norm of the gradient; 0: no clipping

    def __post_init__(self):
        refusals.optim(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, what is written when."""

    steps: int = 1000
    batch_size: int = 64
    first_example: int = 0  # of the training split: step i takes the batch_size examples from first_example + i · batch_size on
    accumulate: int = 1  # microbatches that a batch is computed in, one after the other; the same gradient, to rounding, for less memory
    random_passes: tuple[int, ...] = ()  # passes drawn uniformly from these at each step; empty: always model.sleep.passes
    passes_rise: tuple[int, ...] = ()  # steps from which one more of `random_passes` may be drawn, the smallest first; empty: all of them from the start
    log_every: int = 50  # steps between two lines of metrics
    save_every: int = 500  # steps between two checkpoints
    keep: int = 2  # newest checkpoints kept
    keep_period: int = 0  # checkpoints of steps that are a multiple of it are kept besides; 0: none
    keep_best: str = ""  # the checkpoint with the highest exact_accuracy or label_accuracy on the validation split is kept besides; empty: none
    eval_every: int = 500  # steps between two looks at the validation split; 0: none
    eval_examples: int = 256

    def __post_init__(self):
        refusals.train(self)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """The final look at the test split."""

    examples: int = 2048
    batch_size: int = 256
    passes: tuple[int, ...] = ()  # test-time N; empty: model.sleep.passes

    def __post_init__(self):
        refusals.evaluation(self)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be −1 and fills what is left."""

    data: int = -1  # splits the batch
    fsdp: int = 1  # splits the batch, and the parameters
    tensor: int = 1  # splits heads and MLP widths

    def __post_init__(self):
        refusals.mesh(self)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run."""

    seed: int = 0  # of the parameters, the data and the passes drawn: 0 … 2^64 − 1
    # latest: go on from the newest checkpoint of the workdir; latest-good: from the newest whole one of this run, those in front of it are
    # set aside in damaged/; never: only an empty workdir will do. True and False are earlier names of latest and never
    resume: str = dataclasses.field(default="latest", metadata={"also": bool})
    profile: str = ""  # start:stop, steps from 0: a JAX trace of them goes to profile/ in the workdir; empty: none
    # workdir: what is compiled is kept in compiled/ there, where a resumed run finds it; off: it is not kept; or a folder of your own
    compile_cache: str = "workdir"
    # where the parameters come from: "": fresh, from the seed; the folder of a run (its newest checkpoint); or the name of a trained model of the zoo
    start: str = ""
    phase: str = ""  # which part of a chain of runs this is: samples and other draws of a step are made from (seed, phase, step, row)
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    adapters: AdaptersConfig = dataclasses.field(default_factory=AdaptersConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self):
        object.__setattr__(self, "resume", {"True": "latest", "False": "never"}.get(str(self.resume), self.resume))
        refusals.run(self)

    @property
    def all_passes(self) -> tuple[int, ...]:
        """Every N that a step of training may have."""
        return self.train.random_passes or (self.model.sleep.passes,)


def to_dict(config: Any) -> dict[str, Any]:
    """Any of the dataclasses above as plain JSON values (tuples become lists)."""
    return dataclasses.asdict(config, dict_factory=lambda items: {key: _listed(value) for key, value in items})


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Section(ml_collections.ConfigDict):
    """A section of a config file: numpy's numbers that it is given become Python's, in it and below it."""

    def __setitem__(self, key: str, value: Any) -> None:
        below = isinstance(value, (dict, ml_collections.ConfigDict)) and not isinstance(value, Section)
        super().__setitem__(key, section(value) if below else scalars.python(value))


def section(values: Mapping[str, Any]) -> Section:
    """The values as a `Section`, with those below it."""
    return Section({key: section(value) if isinstance(value, dict) else value for key, value in values.items()})


def default() -> ml_collections.ConfigDict:
    """A run with every key at its default, and an empty model.pretrained (see `sleepnet.released`): what a config file starts from."""
    values = dataclasses.asdict(RunConfig())
    return section({**values, "model": {**values["model"], "pretrained": ""}})


def from_dict(cls: type, values: Any, prefix: str = "") -> Any:
    """Builds the frozen dataclass `cls` from a mapping of any origin: a module that it names is not imported unless the person has named it, see `trust`.

    Raises:
      UsageError: an unknown key (names the nearest), a value of another type, or one that the class refuses.
    """
    with trust.reading():
        return _made(cls, values, prefix, _built)


def completed(cls: type, values: Any, prefix: str = "") -> dict[str, Any]:
    """What `to_dict` of `from_dict` is, keys that `values` lacks at their defaults, without building it: nothing is refused but what has no place there,
    nothing imported. For comparing what is saved.

    Raises:
      UsageError: an unknown key (names the nearest), or a value of another type.
    """
    return _made(cls, values, prefix, lambda cls, arguments: to_dict(cls()) | {key: _listed(value) for key, value in arguments.items()})


def _built(cls: type, arguments: dict[str, Any]) -> Any:
    return cls(**arguments)


def _made(cls: type, values: Any, prefix: str, make: Callable[[type, dict[str, Any]], Any]) -> Any:
    """What `make` makes of a class and its arguments, those that are sections made before."""
    if not hasattr(values, "items"):
        raise UsageError(f"{prefix[:-1] or 'config'}={values!r} must be a section of keys and values")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in dict(values).items():
        if key not in fields:
            raise UsageError(f"unknown config key {prefix}{key}{nearest(key, fields)}")
        arguments[key] = _convert(fields[key], value, f"{prefix}{key}", make)
    return make(cls, arguments)


def _convert(field: dataclasses.Field, value: Any, key: str, make: Callable[[type, dict[str, Any]], Any]) -> Any:
    value = scalars.python(value)
    if field.type not in (int, float, bool, str, tuple[int, ...]) and not hasattr(value, "items"):
        raise UsageError(f"{key}={value!r} must be a section of keys and values")
    if dataclasses.is_dataclass(field.type):
        return _made(field.type, value, f"{key}.", make)
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if field.type in (int, float, bool, str):
        if type(value) not in (field.type, field.metadata.get("also")) or (field.type is float and not math.isfinite(value)):
            raise UsageError(f"{key}={value!r} must be a {'finite ' if field.type is float else ''}{field.type.__name__}")
        return value
    if field.type == tuple[int, ...]:
        if type(value) is int:
            return (value,)
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise UsageError(f"{key}={value!r} must be a tuple of integers")
        return tuple(value)
    return {name: _plain(item) for name, item in dict(value).items()}


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def parse(config: ml_collections.ConfigDict | Mapping[str, Any], prefix: str = "") -> RunConfig:
    """A person's configuration, a config file's result or a mapping, as a `RunConfig`: the modules that it names are theirs, and of a released model in
    model.pretrained it takes what it does not say itself. See `from_dict` for what is refused."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    model = lambda known: to_dict(from_dict(ModelConfig, known, "model."))
    return _made(RunConfig, released.taken(values, to_dict(ModelConfig()), model) if hasattr(values, "items") else values, prefix, _built)
