"""Two families whose code is not in transformers, once more in torch from their equations, token by token: nothing of sleepnet is used.

Ouro: attention over all blocks, `total_ut_steps` times, norms before and behind each half, the final norm after every time.
Gated DeltaNet (flash-linear-attention): three convolutions, q and k of unit length, q · K^−½, S ← a S + beta k (v − a Sᵀk)ᵀ, a gated norm.
"""
import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]


def blank(kind: str, c: dict) -> Tensors:
    """Every tensor of the family, with the norms at 1 and the rest at 0."""
    return {name: (torch.ones if "norm" in name and len(shape) == 1 else torch.zeros)(shape) for name, shape in _shapes(kind, c).items()}


def _shapes(kind: str, c: dict) -> dict[str, tuple[int, ...]]:
    D, F_, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    found = {"lm_head.weight": (V, D), "model.norm.weight": (D,)}
    found["model.embed_tokens.weight" if kind == "ouro" else "model.embeddings.weight"] = (V, D)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        mlp = {"gate_proj": (F_, D), "up_proj": (F_, D), "down_proj": (D, F_)}
        found |= {f"{at}mlp.{name}.weight": shape for name, shape in mlp.items()}
        if kind == "ouro":
            H, G, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
            found |= {f"{at}self_attn.{name}_proj.weight": shape for name, shape in {"q": (H * d, D), "k": (G * d, D), "v": (G * d, D), "o": (D, H * d)}.items()}
            found |= {f"{at}{name}.weight": (D,) for name in ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")}
            continue
        found |= {f"{at}{name}.weight": (D,) for name in ("attn_norm", "mlp_norm")}
        if i in c["attn"]["layers"]:
            H, G, d = c["attn"]["num_heads"], c["attn"]["num_kv_heads"], D // c["attn"]["num_heads"]
            found |= {f"{at}attn.{name}_proj.weight": shape for name, shape in {"q": (H * d, D), "k": (G * d, D), "v": (G * d, D), "o": (D, H * d)}.items()}
            found |= {f"{at}attn.{name}_proj.bias": (size,) for name, size in {"q": H * d, "k": G * d, "v": G * d}.items()}
            continue
        G, N, K = c["num_heads"], c["num_v_heads"], c["head_dim"]
        V_ = int(K * c["expand_v"])
        sizes = {"q": G * K, "k": G * K, "v": N * V_, "g": N * V_, "a": N, "b": N}
        found |= {f"{at}attn.{name}_proj.weight": (size, D) for name, size in sizes.items()} | {f"{at}attn.o_proj.weight": (D, N * V_)}
        found |= {f"{at}attn.{name}_conv1d.weight": (sizes[name], 1, c["conv_size"]) for name in "qkv"}
        found |= {f"{at}attn.A_log": (N,), f"{at}attn.dt_bias": (N,), f"{at}attn.o_norm.weight": (V_,)}
    return found


def run(kind: str, c: dict, w: Tensors, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits [B, T, V], and S [B, H, K, V] of each fast-weight block at the end."""
    return (_ouro if kind == "ouro" else _fla)(c, w, tokens)


def _norm(x, weight, epsilon):
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)


def _mlp(x, w, at):
    return (F.silu(x @ w[f"{at}mlp.gate_proj.weight"].T) * (x @ w[f"{at}mlp.up_proj.weight"].T)) @ w[f"{at}mlp.down_proj.weight"].T


def _turned(x, base):
    """x [B, T, H, d], positions 0 … T − 1, halves."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * base ** (-torch.arange(half, dtype=x.dtype) / half)
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    one, two = x[..., :half], x[..., half:]
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


def _attention(x, w, at, heads, groups, base):
    part = lambda name, count: (x @ w[f"{at}{name}_proj.weight"].T + w.get(f"{at}{name}_proj.bias", 0)).unflatten(-1, (count, -1))
    q, k, v = _turned(part("q", heads), base), _turned(part("k", groups), base), part("v", groups)
    out = torch.zeros_like(q)
    for h in range(heads):
        g = h // (heads // groups)
        score = q[:, :, h] @ k[:, :, g].mT / q.shape[-1] ** 0.5
        score = score.masked_fill(torch.ones(score.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
        out[:, :, h] = score.softmax(-1) @ v[:, :, g]
    return out.flatten(2) @ w[f"{at}o_proj.weight"].T


def _ouro(c, w, tokens):
    x, eps = w["model.embed_tokens.weight"][tokens], c["rms_norm_eps"]
    for _ in range(c["total_ut_steps"]):
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            norm = lambda x, name: _norm(x, w[f"{at}{name}.weight"], eps)
            mixed = _attention(norm(x, "input_layernorm"), w, f"{at}self_attn.", c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"])
            x = x + norm(mixed, "input_layernorm_2")
            x = x + norm(_mlp(norm(x, "post_attention_layernorm"), w, at), "post_attention_layernorm_2")
        x = _norm(x, w["model.norm.weight"], eps)
    return x @ w["lm_head.weight"].T, []


def _delta_net(c, x, w, at):
    G, N, K, W = c["num_heads"], c["num_v_heads"], c["head_dim"], c["conv_size"]

    def convolved(name):
        y, taps = x @ w[f"{at}{name}_proj.weight"].T, w[f"{at}{name}_conv1d.weight"][:, 0]
        past = F.pad(y, (0, 0, W - 1, 0))
        return F.silu(sum(past[:, i:i + y.shape[1]] * taps[:, i] for i in range(W)))

    unit = lambda y: y / torch.sqrt(y.square().sum(-1, keepdim=True) + 1e-6)
    q, k, v = unit(convolved("q").unflatten(-1, (G, K))) * K**-0.5, unit(convolved("k").unflatten(-1, (G, K))), convolved("v").unflatten(-1, (N, -1))
    beta = torch.sigmoid(x @ w[f"{at}b_proj.weight"].T) * (2 if c["allow_neg_eigval"] else 1)
    decay = torch.exp(-w[f"{at}A_log"].exp() * F.softplus(x @ w[f"{at}a_proj.weight"].T + w[f"{at}dt_bias"]))
    S, read = torch.zeros(x.shape[0], N, K, v.shape[-1], dtype=x.dtype), torch.zeros_like(v)
    for t in range(x.shape[1]):
        for n in range(N):
            g = n // (N // G)
            kept = decay[:, t, n, None, None] * S[:, n]
            missing = v[:, t, n] - (kept * k[:, t, g, :, None]).sum(1)
            S[:, n] = kept + beta[:, t, n, None, None] * k[:, t, g, :, None] * missing[:, None]
            read[:, t, n] = (S[:, n] * q[:, t, g, :, None]).sum(1)
    gate = F.silu((x @ w[f"{at}g_proj.weight"].T).unflatten(-1, (N, -1)))
    return (_norm(read, w[f"{at}o_norm.weight"], c["norm_eps"]) * gate).flatten(2) @ w[f"{at}o_proj.weight"].T, S


def _fla(c, w, tokens):
    x, eps, states = w["model.embeddings.weight"][tokens], c["norm_eps"], []
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        normed = _norm(x, w[f"{at}attn_norm.weight"], eps)
        if i in c["attn"]["layers"]:
            mixed = _attention(normed, w, f"{at}attn.", c["attn"]["num_heads"], c["attn"]["num_kv_heads"], c["attn"]["rope_theta"])
        else:
            mixed, S = _delta_net(c, normed, w, f"{at}attn.")
            states.append(S)
        x = x + mixed
        x = x + _mlp(_norm(x, w[f"{at}mlp_norm.weight"], eps), w, at)
    return _norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T, states
