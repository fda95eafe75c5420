"""The whole model again, for a test: one sequence, one token after the other, float64 in numpy, attention by global positions instead of slots."""
import jax
import numpy as np


def rms(x, scale=1.0):
    return scale * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def unit(x):
    return x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def turned(x, position, theta):
    half = x.shape[-1] // 2
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def aged(S, K):
    """Keys one boundary later: channel i of a pair with channel i + K/2, turned by π (2 i + 1) / K."""
    S = S.copy()
    for h, row in np.ndindex(len(S), S.shape[1] // K):
        part = S[h, row * K:(row + 1) * K].copy()
        for i in range(K // 2):
            pair = (part[i] + 1j * part[i + K // 2]) * np.exp(1j * np.pi * (2 * i + 1) / K)
            S[h, row * K + i], S[h, row * K + i + K // 2] = pair.real, pair.imag
    return S


def attention_by_hand(config, p, x, tokens, first, past):
    heads = lambda name: (x @ p[name]["kernel"]).reshape(len(x), config.heads, config.head_dim)
    q, k, v = rms(heads("q"), p["q_scale"]), rms(heads("k"), p["k_scale"]), heads("v")
    seen = {**past, **{first + t: (k[t], v[t]) for t in range(len(x)) if tokens[t]}}
    out = np.zeros_like(q)
    for t, h in np.ndindex(len(x), config.heads):
        i = first + t
        near = [j for j in seen if j <= i and (i - j < config.window or config.sleep.eviction == "none")]
        if near:
            score = np.array([turned(q[t, h], i, config.rope_theta) @ turned(seen[j][0][h], j, config.rope_theta) for j in near])
            weight = np.exp((score - score.max()) / np.sqrt(config.head_dim))
            out[t, h] = sum(w * seen[j][1][h] for w, j in zip(weight / weight.sum(), near))
    return out.reshape(len(x), -1) @ p["out"]["kernel"], seen


def decay_by_hand(config, p, x):
    """What is left of each row of each head's S, [T, H, 1] or [T, H, K]."""
    if config.rule in ("hebbian", "delta"):
        return np.ones((len(x), config.heads, 1))
    inputs = x @ p["decay_in"]["kernel"] if config.rule == "kda" else x
    step = np.log1p(np.exp(inputs @ p["decay"]["kernel"] + p["decay_bias"])).reshape(len(x), config.heads, -1)
    return np.exp(-np.exp(p["decay_rate"])[:, None] * step)


def taps_by_hand(config, p, x, channels):
    """Each token's taps, [T, W, C]; q and k go through the present one alone where v's are dynamic."""
    if config.conv == "fixed":
        return np.broadcast_to(p["conv"], (len(x), *p["conv"].shape))
    taps = np.zeros((len(x), config.conv_width, channels))
    taps[:, -1, :2 * channels // 3] = 1.0
    made = silu(x @ p["dynamic_conv"]["reduce"]["kernel"]) @ p["dynamic_conv"]["taps"]["kernel"] + p["dynamic_conv"]["taps"].get("bias", 0.0)
    taps[:, :, 2 * channels // 3:] = made.reshape(len(x), channels // 3, config.conv_width).swapaxes(1, 2)
    return taps


def fast_weights_by_hand(config, p, x, tokens, S):
    S, shape = S.copy(), (len(x), config.heads, config.head_dim)
    mixed = np.concatenate([x @ p[name]["kernel"] for name in "qkv"], axis=-1) * (tokens != 0)[:, None]
    padded = np.concatenate([np.zeros((config.conv_width - 1, mixed.shape[1])), mixed])
    taps = taps_by_hand(config, p, x, mixed.shape[1])
    mixed = silu(np.stack([(padded[t:t + config.conv_width] * taps[t]).sum(axis=0) for t in range(len(x))]))
    q, k, v = (part.reshape(shape) for part in np.split(mixed, 3, axis=-1))
    q, k = unit(q), unit(k)
    decay = decay_by_hand(config, p, x)
    beta = config.beta_max * sigmoid(x @ p["beta"]["kernel"])
    out, K = np.zeros(shape), config.head_dim
    eta = sigmoid(x @ p["momentum"]["kernel"]) if config.rule == "momentum" else np.zeros((len(x), config.heads))
    for t, h in np.ndindex(len(x), config.heads):
        if tokens[t]:
            S[h, :K] *= decay[t, h, :, None]
            old = k[t, h] @ S[h, :K] if config.rule in ("delta", "gated_delta", "kda", "momentum") else 0.0
            write = beta[t, h] * np.outer(k[t, h], v[t, h] - old)
            if config.rule == "momentum":
                write += eta[t, h] * S[h, K:]
                S[h, K:] = write
            S[h, :K] += write
        out[t, h] = q[t, h] @ S[h, :K]
    gate = silu(x @ p["gate"]["kernel"]).reshape(shape)
    return (rms(out, p["out_scale"]) * gate).reshape(len(x), -1) @ p["out"]["kernel"], S


def by_hand(config, params, tokens, predicts, passes):
    """Algorithm 1 for one sequence: logits [T, V], and each window's S at its end, per fast-weight block."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    start, stop = config.loop
    shape = (config.heads, config.head_dim * (2 if config.rule == "momentum" else 1), config.head_dim)
    memory = {i: np.zeros(shape) if kind == "G" else {} for i, kind in enumerate(config.pattern)}
    logits, ends = [], []

    def blocks(x, first, last, before, place, onto=None):
        after = dict(before)
        for i in range(first, last):
            q, mixer = p["blocks"][i], attention_by_hand if config.pattern[i] == "A" else fast_weights_by_hand
            arguments = (place, before[i]) if config.pattern[i] == "A" else (before[i],)
            normed = rms(x, q["mixer_norm"]["scale"])
            mixed, after[i] = mixer(config, q["mixer"], normed, window, *arguments)
            if onto and config.pattern[i] == "G":
                after[i] = mixer(config, q["mixer"], normed, window, onto[i])[1]
            x = x + mixed
            if config.mlp_width:
                y = rms(x, q["mlp_norm"]["scale"])
                x = x + (silu(y @ q["mlp"]["gate"]["kernel"]) * (y @ q["mlp"]["up"]["kernel"])) @ q["mlp"]["down"]["kernel"]
        return x, after

    for n, labelled in enumerate(predicts):
        place = n * config.window
        window = np.asarray(tokens[place:place + config.window])
        x = p["embedding"][window]
        if config.window_positions:
            x = x + p["positions"][:len(window)]
        embedding, current = blocks(x, 0, start, memory, place)
        x, begin, past = embedding, current, dict(memory)
        for j in range(config.sleep.predict_passes if labelled else passes):
            if j and config.sleep.carry == "reinject":
                x = rms(x) * p["loop_gain"] + embedding
            # S goes from pass to pass; attention sees this pass's keys and what was there before the window
            # a window that predicts must not know its end: there each pass begins with the first S
            source = {i: begin[i] if config.sleep.reset_fast_weights or labelled else current[i] for i in current}
            source = {i: past[i] if kind == "A" and i >= start else source[i] for i, kind in enumerate(config.pattern)}
            kept = current
            x, current = blocks(x, start, stop, source, place, begin if config.sleep.rewrite else None)
            current = {i: current[i] if start <= i < stop else kept[i] for i in current}
            if config.turn_keys == "passes":
                current = {i: aged(current[i], config.head_dim) if start <= i < stop and config.pattern[i] == "G" else current[i] for i in current}
        x, current = blocks(x, stop, len(config.pattern), current, place)
        memory = current
        if config.sleep.eviction == "hard":
            memory = {i: {} if kind == "A" else memory[i] for i, kind in enumerate(config.pattern)}
        late = [i for i, kind in enumerate(config.pattern) if kind == "G" and not (config.turn_keys == "passes" and start <= i < stop)]
        memory = {i: aged(memory[i], config.head_dim) if i in late and config.turn_keys != "never" else memory[i] for i in memory}
        ends.append([memory[i] for i, kind in enumerate(config.pattern) if kind == "G"])
        logits.append(rms(x, p["final_norm"]["scale"]) @ p["head"]["kernel"] if labelled else np.zeros((len(window), config.vocab_size)))
    return np.concatenate(logits), ends
