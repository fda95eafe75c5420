"""What a configuration may not say: values out of range, and keys that make no sense together, each refused with the key and the fix.

The dataclasses of `sleepnet.config` call these as they are built, so that nothing is trained, or written, before.
"""
import re
from typing import Any

from sleepnet import rules, seeds, trust
from sleepnet.errors import UsageError

# keys that fast-weight blocks alone read, and what they say by default
_OF_FAST_WEIGHTS = {
    "rule": "gated_delta", "beta_max": 1.0, "conv": "fixed", "conv_rank": 0, "conv_bias": False, "decay_start": "windows", "key_heads": 0, "value_heads": 0, "key_dim": 0, "value_dim": 0,
    "scale_queries": False, "gate_epsilon": 1e-6, "turn_keys": "never",
}
# … and those that attention alone reads
_OF_ATTENTION = {"kv_heads": 0, "qk_norm": "head", "qkv_bias": False, "attention_gate": False, "rope_share": 1.0, "attention_norm_place": ""}
_PLACES = ("pre", "post", "sandwich")


def choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a value that is none of `choices`."""
    if value not in choices:
        raise UsageError(f"{key}={value!r} is not one of {', '.join(choices)}")


def at_least(key: str, value: float, least: float) -> None:
    """Refuses a number below `least`, and one that is none."""
    if not value >= least:
        raise UsageError(f"{key}={value} must be at least {least}")


def sleep(config: Any) -> None:
    """Of a SleepConfig."""
    at_least("sleep.passes", config.passes, 1)
    at_least("sleep.predict_passes", config.predict_passes, 1)
    at_least("sleep.gradient_passes", config.gradient_passes, 1)
    choice("sleep.eviction", config.eviction, ("hard", "sliding", "none"))
    choice("sleep.carry", config.carry, ("hidden", "reinject", "normed"))
    choice("sleep.gradient", config.gradient, ("full", "last", "implicit"))
    if config.after_predicting and config.predict_passes != 1:
        raise UsageError(f"sleep.after_predicting=True with sleep.predict_passes={config.predict_passes}: what is predicted is of the first pass alone; set one of the two back")
    if config.after_predicting and config.gradient == "implicit":
        raise UsageError("sleep.after_predicting=True with sleep.gradient='implicit', which has no first pass of its own: set gradient to 'full' or 'last'")


def memory_blocks(config: Any) -> None:
    """Of a MemoryBlocksConfig."""
    for key, least in (("count", 0), ("length", 0), ("passes", 1)):
        at_least(f"model.memory_blocks.{key}", getattr(config, key), least)


def experts(config: Any) -> None:
    """Of an ExpertsConfig."""
    at_least("model.experts.count", config.count, 0)
    at_least("model.experts.rank", config.rank, 1)
    if not config.alpha > 0:
        raise UsageError(f"model.experts.alpha={config.alpha} must be positive")
    for key, value in (("rank", 8), ("alpha", 8.0), ("blocks", ())):
        if not config.count and getattr(config, key) != value:
            raise UsageError(f"model.experts.{key}={getattr(config, key)!r} with model.experts.count=0, which has none: leave it at {value!r}, or set count")
    if len(set(config.blocks)) < len(config.blocks):
        raise UsageError(f"model.experts.blocks={config.blocks} names a block twice")


def sparse(config: Any) -> None:
    """Of a SparseConfig."""
    at_least("model.sparse.count", config.count, 0)
    at_least("model.sparse.told_from", config.told_from, 0)
    at_least("model.sparse.reads", config.reads, 0)
    choice("model.sparse.gate", config.gate, ("top1", "soft", "uniform", "told"))
    if config.gate == "told" and not config.told_from:
        raise UsageError("model.sparse.gate='told' reads the day off the first token: set model.sparse.told_from to the token that names the first one")


def model(config: Any) -> None:
    """Of a ModelConfig."""
    if not config.pattern or set(config.pattern) - set("AG"):
        raise UsageError(f"model.pattern={config.pattern!r} must be letters A (attention) and G (fast weights), for instance 'AGAG'")
    for key in ("vocab_size", "window"):
        at_least(f"model.{key}", getattr(config, key), 0)
    if not config.rope_theta > 0:
        raise UsageError(f"model.rope_theta={config.rope_theta} must be positive")
    for key in ("width", "heads", "head_dim", "conv_width"):
        at_least(f"model.{key}", getattr(config, key), 1)
    if config.head_dim % 2:
        raise UsageError(f"model.head_dim={config.head_dim} must be even: RoPE turns pairs of channels")
    for key in ("kv_heads", "key_heads", "value_heads", "key_dim", "value_dim"):
        at_least(f"model.{key}", getattr(config, key), 0)
    for many, few in (("heads", "kv_heads"), ("value_heads", "key_heads")):
        shared = {"heads": config.heads, "kv_heads": config.entry_shape[0], "value_heads": config.value_shape[0], "key_heads": config.key_shape[0]}
        if shared[many] % shared[few]:
            raise UsageError(f"model.{few}={shared[few]} must divide model.{many}={shared[many]}: as many of these share each of those")
    if config.turn_keys != "never" and config.key_shape[1] % 2:
        raise UsageError(f"model.key_dim={config.key_shape[1]} must be even with model.turn_keys={config.turn_keys!r}, which turns pairs of channels")
    turned = config.rope_share * config.head_dim
    if not 0 <= config.rope_share <= 1 or turned % 2:
        raise UsageError(f"model.rope_share={config.rope_share} of model.head_dim={config.head_dim} channels must be an even number of them, at least 0 and not all over 1")
    choice("model.qk_norm", config.qk_norm, ("head", "all", "none"))
    choice("model.norm_place", config.norm_place, _PLACES)
    choice("model.attention_norm_place", config.attention_norm_place, ("", *_PLACES))
    for key in ("norm_epsilon", "gate_epsilon"):
        if not getattr(config, key) > 0:
            raise UsageError(f"model.{key}={getattr(config, key)} must be positive")
    if config.pad_id < -1 or config.vocab_size and config.pad_id >= config.vocab_size:
        raise UsageError(f"model.pad_id={config.pad_id} must be a token, or -1 for none")
    choice("model.weights_dtype", config.weights_dtype, ("float32", "bfloat16"))
    if config.sleep.keep_tails and "A" in config.pattern and config.sleep.eviction == "hard":
        raise UsageError("model.sleep.keep_tails=True with eviction='hard', which empties the window: set eviction to 'none' or 'sliding', or keep_tails to False")
    at_least("model.mlp_width", config.mlp_width, 0)
    trust.named(config.rule)
    rules.get(config.rule)
    choice("model.conv", config.conv, ("fixed", "dynamic"))
    at_least("model.conv_rank", config.conv_rank, 0)
    for key, value in (("conv_rank", 0), ("conv_bias", False)):
        if config.conv == "fixed" and getattr(config, key) != value:
            raise UsageError(f"model.{key}={getattr(config, key)!r} is of a dynamic convolution: leave it at {value!r}, or set model.conv to 'dynamic'")
    choice("model.turn_keys", config.turn_keys, ("never", "windows", "passes"))
    choice("model.decay_start", config.decay_start, ("windows", "mamba2"))
    choice("model.dtype", config.dtype, ("float32", "bfloat16"))
    choice("model.remat", config.remat, ("none", "pass", "chunk", "named"))
    if config.sleep.remat and config.remat not in ("none", "pass"):
        raise UsageError(f"model.remat={config.remat!r} and model.sleep.remat=True, which is model.remat='pass': set the latter to False")
    if not 0 < config.beta_max <= 2:
        raise UsageError(f"model.beta_max={config.beta_max} must lie in (0, 2]: beyond 2 the delta rule diverges")
    _blocks(config)
    if config.experts.count and not config.mlp_width:
        raise UsageError(f"model.experts.count={config.experts.count} stand beside MLPs, of which model.mlp_width=0 has none: set it, or count to 0")
    if len(set(config.no_mlp)) < len(config.no_mlp) or not all(0 <= index < len(config.pattern) for index in config.no_mlp):
        raise UsageError(f"model.no_mlp={config.no_mlp} must be different blocks of model.pattern={config.pattern!r}, 0 to {len(config.pattern) - 1}")
    if both := sorted(set(config.no_mlp) & set(config.expert_blocks)):
        raise UsageError(f"model.experts of block {both[0]} would stand beside an MLP, and model.no_mlp says that it has none: leave it out of one of the two")
    if config.experts.blocks and not 0 <= min(config.experts.blocks) <= max(config.experts.blocks) < len(config.pattern):
        raise UsageError(f"model.experts.blocks={config.experts.blocks} are not all among the {len(config.pattern)} blocks of model.pattern={config.pattern!r}, 0 to {len(config.pattern) - 1}")
    start, stop = config.loop
    if not 0 <= start < stop <= len(config.pattern):
        raise UsageError(
            f"model.sleep.loop_start={config.sleep.loop_start}, loop_stop={config.sleep.loop_stop}: not a span of the "
            f"{len(config.pattern)} blocks of model.pattern={config.pattern!r}"
        )


def _blocks(config: Any) -> None:
    blocks, sleep = config.memory_blocks, config.sleep
    for key, value in (("length", 2), ("passes", 1)):
        if not blocks.count and getattr(blocks, key) != value:
            raise UsageError(f"model.memory_blocks.{key}={getattr(blocks, key)} of no blocks: set model.memory_blocks.count, or leave it at {value}")
    if not blocks.count:
        return
    if "G" in config.pattern:
        raise UsageError(f"model.memory_blocks.count={blocks.count} with model.pattern={config.pattern!r}: read-outs side by side would all write S; use attention alone, such as 'AAAA'")
    if sleep.eviction != "none":
        raise UsageError(f"model.memory_blocks.count={blocks.count} with model.sleep.eviction={sleep.eviction!r}: blocks think about what is still in the cache; set it to 'none'")
    if sleep.after_predicting:
        raise UsageError(f"model.memory_blocks.count={blocks.count} with model.sleep.after_predicting=True: behind read-outs nothing is read; set it to False")
    if sleep.predict_passes != 1:
        raise UsageError(f"model.memory_blocks.count={blocks.count} with model.sleep.predict_passes={sleep.predict_passes}: a read-out is one pass; set it to 1, or loop over the blocks with model.memory_blocks.passes")


def method(config: Any) -> None:
    """Of a MethodConfig; the method itself knows its arguments."""
    trust.named(config.name, *config.arguments.values())


def adapters(config: Any) -> None:
    """Of an AdaptersConfig."""
    choice("adapters.kind", config.kind, ("all", "named", "entries", "low_rank", "newest_expert", "sparse", "heads"))
    at_least("adapters.rank", config.rank, 1)
    if not config.alpha > 0:
        raise UsageError(f"adapters.alpha={config.alpha} must be positive")
    if not 0 < config.share < 1:
        raise UsageError(f"adapters.share={config.share} must lie between 0 and 1; for all entries of a parameter set adapters.kind to 'named'")
    if config.kind not in ("all", "newest_expert", "sparse") and not config.names:
        raise UsageError(f"adapters.kind={config.kind!r} needs adapters.names, a regular expression for names of parameters, such as 'blocks.1.mlp'")
    for key in ("names", "also"):
        try:
            re.compile(getattr(config, key))
        except re.error as error:
            raise UsageError(f"adapters.{key}={getattr(config, key)!r} is no regular expression: {error}") from error
    for key, value, kinds in (("names", "", ("named", "entries", "low_rank", "heads")), ("rank", 8, ("low_rank",)), ("alpha", 32.0, ("low_rank",)), ("share", 0.1, ("entries", "heads")), ("also", "", ("low_rank",))):
        if getattr(config, key) != value and config.kind not in kinds:
            raise UsageError(f"adapters.{key}={getattr(config, key)!r} with adapters.kind={config.kind!r}, which does not read it: leave it at {value!r}, or set kind to {' or '.join(kinds)}")


def optim(config: Any) -> None:
    """Of an OptimConfig."""
    for key in ("learning_rate", "adam_rate"):
        if not getattr(config, key) > 0:
            raise UsageError(f"optim.{key}={getattr(config, key)} must be positive")
    for key in ("decay", "final"):
        if not 0 <= getattr(config, key) <= 1:
            raise UsageError(f"optim.{key}={getattr(config, key)} must lie between 0 and 1")
    for key in ("momentum", "adam_b1", "adam_b2"):
        if not 0 <= getattr(config, key) < 1:
            raise UsageError(f"optim.{key}={getattr(config, key)} must lie in [0, 1)")
    for key in ("weight_decay", "warmup", "clip"):
        at_least(f"optim.{key}", getattr(config, key), 0)


def train(config: Any) -> None:
    """Of a TrainConfig."""
    for key in ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep", "eval_examples"):
        at_least(f"train.{key}", getattr(config, key), 1)
    for key in ("keep_period", "eval_every", "first_example"):
        at_least(f"train.{key}", getattr(config, key), 0)
    for passes in config.random_passes:
        at_least("train.random_passes", passes, 1)
    rise, drawn = config.passes_rise, config.random_passes
    if rise and (len(rise) >= len(set(drawn)) or list(rise) != sorted(rise) or rise[0] < 1):
        raise UsageError(
            f"train.passes_rise={rise} must be rising numbers of steps, fewer than the {len(set(drawn))} values of train.random_passes={drawn}, such as (400, 800)"
        )
    if config.batch_size % config.accumulate:
        raise UsageError(f"train.batch_size={config.batch_size} must be a multiple of train.accumulate={config.accumulate}")
    choice("train.keep_best", config.keep_best, ("", "exact_accuracy", "label_accuracy"))
    if config.keep_best and (not config.eval_every or config.save_every % config.eval_every):
        raise UsageError(
            f"train.save_every={config.save_every} must be a multiple of train.eval_every={config.eval_every} for "
            f"train.keep_best={config.keep_best!r}: a checkpoint is ranked by the validation of its own step"
        )


def evaluation(config: Any) -> None:
    """Of an EvalConfig."""
    at_least("eval.examples", config.examples, 1)
    at_least("eval.batch_size", config.batch_size, 1)
    for passes in config.passes:
        at_least("eval.passes", passes, 1)


def mesh(config: Any) -> None:
    """Of a MeshConfig."""
    sizes = {"mesh.data": config.data, "mesh.fsdp": config.fsdp, "mesh.tensor": config.tensor}
    for key, size in sizes.items():
        if size < 1 and size != -1:
            raise UsageError(f"{key}={size} must be at least 1, or -1 for all devices that are left")
    if list(sizes.values()).count(-1) > 1:
        raise UsageError(f"{' and '.join(key for key, size in sizes.items() if size == -1)} are both -1: one axis can fill the mesh")


def run(config: Any) -> None:
    """Of a RunConfig, and of its model and training together."""
    seeds.check("seed", config.seed)
    choice("resume", config.resume, ("latest", "latest-good", "never"))
    span = re.fullmatch(r"(\d+):(\d+)", config.profile)
    if config.profile and not (span and int(span[1]) < int(span[2])):
        raise UsageError(f"profile={config.profile!r} must be start:stop with start < stop, such as 100:105")
    if span and int(span[1]) >= config.train.steps:
        raise UsageError(f"profile={config.profile!r} begins behind the last step: train.steps={config.train.steps}, the first is 0")
    if config.phase and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", config.phase):
        raise UsageError(f"phase={config.phase!r} must be letters, digits, '_', '-' or '.'")
    if not config.compile_cache:
        raise UsageError("compile_cache='' must be workdir, off, or a folder")
    if config.adapters.kind == "newest_expert" and not config.model.experts.count:
        raise UsageError("adapters.kind='newest_expert' needs experts: set model.experts.count to as many as will be grown")
    if config.adapters.kind == "sparse" and not config.model.sparse.count:
        raise UsageError("adapters.kind='sparse' needs increments: set model.sparse.count to as many days as will be learnt")
    if config.model.weights_dtype != "float32":
        raise UsageError(f"model.weights_dtype={config.model.weights_dtype!r} can't be trained: steps are smaller than it can hold; set it to 'float32'")
    asleep = config.all_passes
    _memory(config.model, max(asleep))
    _rule(config.model)
    _loop(config.model, max(asleep), max(*asleep, config.model.sleep.predict_passes))


def _memory(model: Any, asleep: int) -> None:
    """`asleep`: the most passes over a window that sleeps."""
    pattern, eviction = model.pattern, model.sleep.eviction
    if eviction != "hard" and "A" not in pattern:
        raise UsageError(
            f"model.sleep.eviction={eviction!r} keeps keys and values, of which model.pattern={pattern!r} has none: set it to 'hard', or add an A"
        )
    for letter, what, keys in (("G", "fast-weight", _OF_FAST_WEIGHTS), ("A", "attention", _OF_ATTENTION)):
        for key, value in keys.items():
            if letter not in pattern and getattr(model, key) != value:
                raise UsageError(
                    f"model.{key}={getattr(model, key)!r} is of {what} blocks, of which model.pattern={pattern!r} has none: leave it at {value!r}, or add a{'n' if letter == 'A' else ''} {letter}"
                )
    if "G" in pattern:
        return
    if model.sleep.keep_tails:
        raise UsageError(f"model.sleep.keep_tails=True is of fast-weight blocks, of which model.pattern={pattern!r} has none: leave it at False, or add a G")
    if eviction == "hard" and asleep > 1:
        raise UsageError(
            f"model.sleep.passes={asleep} over windows of which model.pattern={pattern!r} with eviction='hard' keeps nothing: set passes to 1, "
            f"eviction to 'none' or 'sliding', or add a G"
        )


def _rule(model: Any) -> None:
    if model.beta_max > 1 and not rules.get(model.rule).overwrites:
        raise UsageError(
            f"model.beta_max={model.beta_max} with model.rule={model.rule!r}, which never takes a value away: it would only write more; set it to 1.0, "
            f"or use a delta rule"
        )
    if model.decay_start != "windows" and not rules.get(model.rule).decays:
        raise UsageError(f"model.decay_start={model.decay_start!r} with model.rule={model.rule!r}, which does not decay: leave it at 'windows'")


def _loop(model: Any, asleep: int, most: int) -> None:
    """`asleep`: as above; `most`: passes over any window."""
    sleep, (start, stop) = model.sleep, model.loop
    if asleep > 1 and "G" in model.pattern and "G" not in model.pattern[start:stop]:
        raise UsageError(
            f"model.sleep.loop_start={start}, loop_stop={stop}: no fast-weight block of model.pattern={model.pattern!r} is in the loop, so that {asleep} "
            f"passes write S no more often than one; take a G into it"
        )
    if sleep.reset_fast_weights and (asleep == 1 or "G" not in model.pattern):
        raise UsageError(
            f"model.sleep.reset_fast_weights=True with passes={asleep} and model.pattern={model.pattern!r}: there is no S to reset between passes; "
            f"set it to False"
        )
    if sleep.rewrite and (asleep == 1 or "G" not in model.pattern):
        raise UsageError(f"model.sleep.rewrite=True with passes={asleep} and model.pattern={model.pattern!r}: no pass writes S a second time; set it to False")
    for key, wrong, right in (("sleep.reset_fast_weights", sleep.reset_fast_weights, False), ("turn_keys", model.turn_keys == "passes" and "passes", "windows"), ("sleep.predict_passes", sleep.predict_passes > 1 and sleep.predict_passes, 1)):
        if sleep.rewrite and wrong:
            raise UsageError(f"model.{key}={wrong!r} with model.sleep.rewrite=True, where a pass reads what the last one left and writes onto the window's first S: use {right!r}")
    if sleep.gradient == "last" and sleep.gradient_passes >= most:
        raise UsageError(
            f"model.sleep.gradient='last' with gradient_passes={sleep.gradient_passes} of {most} passes is gradient='full': set that, or fewer passes"
        )
    if sleep.gradient == "implicit" and most == 1:
        raise UsageError("model.sleep.gradient='implicit' with one pass has no fixed point to go to: set it to 'full', or more passes")
    if sleep.gradient != "last" and sleep.gradient_passes != 1:
        raise UsageError(
            f"model.sleep.gradient_passes={sleep.gradient_passes} with gradient={sleep.gradient!r}, which does not read it: set gradient to 'last'"
        )
