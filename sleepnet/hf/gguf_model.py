"""A GGUF file of the llama family as the folder that the hub would have: its config.json, names and layout, and tokenizer.json made again from what the file says."""
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from sleepnet.errors import UsageError
from sleepnet.hf.folder import Folder
from sleepnet.hf.gguf import Gguf

# keys of the model, all of which must be known: an unknown one may change its logits
_CONFIG = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta", "vocab_size": "vocab_size", "attention.key_length": "head_dim", "attention.value_length": "head_dim",
}
_WHOLE_HEAD = "rope.dimension_count"
_ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_BLOCK = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
_CONTROL, _OWN = 3, 4  # types of tokens: special, and added by whoever made the model
# what cuts text before byte-level BPE, by the file's `tokenizer.ggml.pre`
_CUTS = {"smollm": [{"type": "Digits", "individual_digits": True}]}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class GgufModel(Folder):
    """What a `Folder` is, of one file.

    Raises:
      UsageError: as `Gguf`; another family, or a key that is not known here.
    """

    def __init__(self, path: Path):
        self.path = self.described = path
        self.held = Gguf(path)
        self.config = self._config()
        self.shapes, self.dtypes, self._name_of = {}, {}, {}

    def headers(self) -> "GgufModel":
        """The tensors by the names that the hub has; a foreign one keeps its own."""
        for name, place in self.held.tensors.items():
            theirs = _renamed(name)
            self._name_of[theirs], self.shapes[theirs], self.dtypes[theirs] = name, place.shape, place.dtype
        return self

    def has_weights(self) -> bool:
        """It is a file of them."""
        return True

    def read(self, name: str) -> np.ndarray:
        """One tensor in the hub's layout, float16 or float32.

        Raises:
          UsageError: it holds numbers that are not finite.
        """
        value = self.finite(name, self.held.read(self._name_of[name]), self.path)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        return value if heads is None else _rotated_in_halves(value, self.config.get(heads, self.config["num_attention_heads"]))

    def beside(self, name: str) -> bytes | None:
        """What would lie beside the weights, made again; None where there is no such thing."""
        make = {"config.json": lambda: self.config, "generation_config.json": self._generation, "tokenizer.json": self._tokenizer, "tokenizer_config.json": self._template}
        found = make[name]() if name in make else None
        return None if found is None else (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def license(self) -> str:
        """As the file says."""
        return str(self.held.keys.get("general.license", ""))

    def remote_code(self) -> list[str]:
        """There is none in such a file."""
        return []

    def _config(self) -> dict[str, Any]:
        keys = self.held.keys
        kind = keys.get("general.architecture")
        if kind != "llama":
            raise UsageError(f"{self.path}: general.architecture={kind!r} is not supported as GGUF, only 'llama': open the model's folder of safetensors")
        config: dict[str, Any] = {"model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": "output.weight" not in self.held.tensors}
        for key, value in keys.items():
            if not key.startswith("llama."):
                continue
            name = _CONFIG.get(key.removeprefix("llama."))
            if name is None and key != f"llama.{_WHOLE_HEAD}":
                raise UsageError(f"{self.path}: the key {key}={value!r} is not known here, and may change the model's answers: open the model's folder of safetensors")
            if name is not None and config.setdefault(name, value) != value:
                raise UsageError(f"{self.path}: llama.attention.key_length and value_length differ, which a llama model here can't")
        turned, heads = keys.get(f"llama.{_WHOLE_HEAD}"), config.get("num_attention_heads")
        if turned is not None and isinstance(heads, int) and heads and turned != (wide := config.get("head_dim", config.get("hidden_size", 0) // heads)):
            raise UsageError(f"{self.path}: llama.{_WHOLE_HEAD}={turned} of heads of {wide}, which a llama model here turns whole")
        tokens = keys.get("tokenizer.ggml.tokens")
        if "vocab_size" not in config and tokens:
            config["vocab_size"] = len(tokens)
        stop = keys.get("tokenizer.ggml.eos_token_id")
        return config if stop is None else {**config, "eos_token_id": stop}

    def _generation(self) -> dict[str, Any] | None:
        return {"eos_token_id": self.config["eos_token_id"]} if "eos_token_id" in self.config else None

    def _template(self) -> dict[str, Any] | None:
        keys = self.held.keys
        tokens, template = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.chat_template")
        if not tokens or template is None:
            return None
        named = {f"{name}_token": keys.get(f"tokenizer.ggml.{key}_token_id") for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}
        return {"chat_template": template, **{name: tokens[number] for name, number in named.items() if number is not None and number < len(tokens)}}

    def _tokenizer(self) -> dict[str, Any] | None:
        """Byte-level BPE as `tokenizers` reads it; None where the file has another kind, which would give other ids."""
        keys = self.held.keys
        cuts, tokens = _CUTS.get(keys.get("tokenizer.ggml.pre", "")), keys.get("tokenizer.ggml.tokens")
        if keys.get("tokenizer.ggml.model") != "gpt2" or cuts is None or not tokens or keys.get("tokenizer.ggml.add_bos_token"):
            return None
        kinds = keys.get("tokenizer.ggml.token_type", [1] * len(tokens))
        added = [
            {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": kind == _CONTROL}
            for number, (token, kind) in enumerate(zip(tokens, kinds)) if kind in (_CONTROL, _OWN)
        ]
        model = {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": keys.get("tokenizer.ggml.merges", []),
        }
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, _BYTES]}, "post_processor": None, "decoder": _BYTES, "model": model,
        }


def _renamed(name: str) -> str:
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if found and found[2] in _BLOCK:
        return f"model.layers.{found[1]}.{_BLOCK[found[2]]}.weight"
    return _ENDS.get(name, name)


def _rotated_in_halves(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k, which such a file has in pairs that RoPE turns together, 2i and 2i + 1, as i and i + d/2."""
    return value.reshape(heads, -1, 2, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
