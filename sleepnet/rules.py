"""The fast-weight rules: what a mixer calls, the gates it makes for it, what it costs. One entry adds a rule; so does `--config.model.rule=my_rules:OJA`.

A rule reads and writes the state S of every head, token after token:

    def my_rule(q, k, v, *, log_decay, beta, initial_state):   # returns (read, state)

q, k [B, T, H, K] and v [B, T, H, V] in the model's dtype, q and k of unit length; log_decay ≤ 0 and beta in (0, beta_max), [B, T, H] in float32 (both
exactly 0, like k and v, at a token that shall leave no trace); S [B, H, K, V] in float32. `read` is [B, T, H, V]. Nothing of JAX is imported here.
"""
import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

from sleepnet import trust
from sleepnet.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Rule:
    """A fast-weight rule.

    Attributes:
      window: the rule over T tokens, a function or where one is: "module:function".
      flops: FLOPs of one token at one entry of S, of which controls of equal compute are made: a decay is 1, to read q·S 2, to write k ⊗ v 2, the
        delta rule's k·S 2.
      token: the same over one token, without the axis T, for decoding; None: `window` with T = 1.
      decays: what has a decay of its own: "head", "channel" (each key channel of each head: log_decay is [B, T, H, K]), or "" for nothing, and
        then the rule takes no log_decay.
      overwrites: whether a write takes away what its key held; else beta beyond 1 would only write more.
      momentum: S has a momentum below it ([B, H, 2 K, V] together), and the rule takes `log_momentum` and `applied` besides, [B, T, H] each.
    """

    window: Callable | str
    flops: int
    token: Callable | str | None = None
    decays: str = "head"
    overwrites: bool = True
    momentum: bool = False

    def __post_init__(self):
        if self.decays not in ("head", "channel", ""):
            raise ValueError(f"decays={self.decays!r} is not one of 'head', 'channel', ''")
        if self.momentum and self.decays != "head":
            raise ValueError(f"momentum=True with decays={self.decays!r}: a momentum has one decay a head, as its S has; set decays to 'head'")


def _kernel(name: str, flops: int, **more: Any) -> Rule:
    return Rule(f"sleepnet_kernels:{name}_rule", flops, token=f"sleepnet_kernels:{name}_step", **more)


RULES = {
    "hebbian": _kernel("hebbian", 4, decays="", overwrites=False),
    "delta": _kernel("delta", 6, decays=""),
    "gated_hebbian": _kernel("gated_hebbian", 5, overwrites=False),
    "gated_delta": _kernel("gated_delta", 7),
    "kda": _kernel("kda", 7, decays="channel"),
    "momentum": _kernel("momentum", 10, momentum=True),
}


def find(where: str) -> Any:
    """What is at "module:name", as a Rule says it, whose code runs already; its errors are of the module."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _elsewhere(name: str) -> Rule:
    rule = trust.find("model.rule", name)
    if not isinstance(rule, Rule):
        raise UsageError(f"model.rule={name!r} is a {type(rule).__name__}, not a sleepnet.rules.Rule")
    return rule


def get(name: str) -> Rule:
    """The rule of that name, or at "module:NAME".

    Raises:
      UsageError: there is none; its line names `model.rule`.
    """
    if ":" in name:
        return _elsewhere(name)
    if name not in RULES:
        raise UsageError(f"model.rule={name!r} is unknown{nearest(name, RULES)}; a rule of your own is 'module:NAME', a sleepnet.rules.Rule")
    return RULES[name]
