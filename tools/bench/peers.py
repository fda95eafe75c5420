"""Other projects' gated delta rules as peers of a benchmark; nothing of them is copied."""
import ast
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np


def maxtext_rule(checkout: str, chunk_size: int | None):
    """Returns maxtext's chunked rule from a local checkout, cut out of its file because the file imports all of maxtext."""
    path = pathlib.Path(checkout).expanduser() / "src/maxtext/models/qwen3.py"
    names = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "jax_chunk_gated_delta_rule"]
    if not names:
        raise ValueError(f"{path} has no function jax_chunk_gated_delta_rule")
    scope = {"jax": jax, "jnp": jnp, "lax": jax.lax, "Array": jax.Array}
    exec(compile(ast.Module(names, []), str(path), "exec"), scope)  # pylint: disable=exec-used
    peer, keywords = scope["jax_chunk_gated_delta_rule"], {} if chunk_size is None else {"chunk_size": chunk_size}

    def rule(q, k, v, log_decay, beta, initial_state):
        # It scales queries inside; its inputs are float32 where ours are.
        scaled = q * jnp.asarray(q.shape[-1] ** 0.5, q.dtype)
        output, state = peer(scaled, k, v, log_decay, beta, initial_state=initial_state, compute_dtype=q.dtype, **keywords)
        return output.astype(v.dtype), state

    return rule


class Fla:
    """fla's Triton kernel for the gated delta rule, forward alone: its backward raises on Hopper with the Tritons of today.

    Raises:
      ImportError: torch or fla is not installed.
      RuntimeError: torch sees no GPU.
    """

    def __init__(self):
        import torch  # pylint: disable=import-outside-toplevel
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pylint: disable=import-outside-toplevel

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU, and fla's kernels run on nothing else")
        self.torch, self.rule = torch, chunk_gated_delta_rule

    def forward(self, given):
        """Returns a function without arguments that runs the kernel, waits, and returns (output, final state, seconds)."""
        tensors = {}
        for name, x in given.items():
            dtype = {"bfloat16": self.torch.bfloat16, "float32": self.torch.float32}[x.dtype.name]
            tensors[name] = self.torch.tensor(np.asarray(x, np.float32)).to("cuda", dtype)
        gates = {"g": tensors.pop("log_decay"), "beta": tensors.pop("beta")}

        def run():
            start = time.perf_counter()
            with self.torch.no_grad():
                output, state = self.rule(**tensors, **gates, scale=1.0, output_final_state=True)
            self.torch.cuda.synchronize()
            spent = time.perf_counter() - start
            return output.float().cpu().numpy(), state.float().cpu().numpy(), spent

        return run
