"""A model drawn in text: its blocks, the loop around them, and what is carried where."""
from sleepnet.config import ModelConfig
from sleepnet.models import flops

_EVICTIONS = {
    "hard": "emptied at the window's end",
    "sliding": "the newest {kept} entries outlive the window",
    "none": "kept whole: it grows by {window} entries a window",
}


def draw(config: ModelConfig) -> str:
    """Returns the stack from the tokens down to the logits; the bar at the left is the loop."""
    start, stop = config.loop
    lines = [f"    {config.window} tokens of a window", "      │  embedding" + (" + learned place in the window" if config.window_positions else "")]
    for index, kind in enumerate(config.pattern):
        edge = "┌▶" if index == start else "│ " if start < index < stop else "  "
        lines.append(f"  {edge}  {_block(config, index, kind)}")
        if index == stop - 1:
            lines.append(f"  └─  {_loop(config)}")
    lines.append("      │  norm, head")
    lines.append(f"    {config.vocab_size} logits, where something is predicted")
    return "\n".join(lines)


def _block(config: ModelConfig, index: int, kind: str) -> str:
    (groups, key_dim), (values, value_dim) = config.key_shape, config.value_shape
    H, D, shared = config.heads, config.head_dim, config.entry_shape[0]
    mlp = f" + MLP {config.mlp_width}" if config.has_mlp(index) else ""
    mlp += f" + {config.experts.count} experts of rank {config.experts.rank}" if index in config.expert_blocks else ""
    if kind == "A":
        kept = _EVICTIONS[config.sleep.eviction].format(kept=config.survivors, window=config.window)
        return f"{index + 1:2} A  attention, {H} × {D}{'' if shared == H else f' over {shared} of keys'}{mlp}: KV cache, {kept}"
    heads = f"{values} × {value_dim}" + ("" if (groups, key_dim) == (values, value_dim) else f" over {groups} × {key_dim} of keys")
    return f"{index + 1:2} G  {config.rule}, {heads}{mlp}: S {list(config.state_shape)} float32, from window to window"


def _loop(config: ModelConfig) -> str:
    sleep = config.sleep
    if sleep.passes == 1 and sleep.predict_passes == 1:
        return "once, asleep and awake"
    hidden = {"hidden": "h as it is", "reinject": "gain · h / rms(h) + embedding", "normed": "h behind the final norm"}[sleep.carry]
    state = "S starts over at every pass" if sleep.reset_fast_weights else "S read from pass to pass, written onto the first" if sleep.rewrite else "S from pass to pass"
    if sleep.after_predicting:
        return f"N = {sleep.passes} over every window, of which the first predicts: {hidden}, {state}"
    rounds = f"N = {sleep.passes} asleep, {'once' if sleep.predict_passes == 1 else f'{sleep.predict_passes} times'} where it predicts"
    return f"{rounds}: {hidden}, {state if sleep.passes > 1 else 'S from the window before'}"


def figures(config: ModelConfig) -> dict[str, str]:
    """Name → figure: parameters, bytes and FLOPs of one sequence."""
    sleep, loops = flops.sleep_flops(config), config.sleep.predict_passes
    awake = " in the first window" if config.full_cache else ", whatever N is" if loops == 1 else f" a pass, {loops} passes over its window"
    return {
        "parameters": f"{flops.parameters(config):,}",
        "fast weights": f"{flops.state_bytes(config):,} bytes a sequence",
        "KV cache": f"{flops.cache_bytes(config):,} bytes a sequence" + (", and as much again for every further window" if config.full_cache else ""),
        "a token awake": f"{flops.wake_token_flops(config):,} FLOPs{awake}",
        "a sleep": f"{sleep:,} FLOPs for {config.window} tokens and N = {config.sleep.passes}",
    }
