"""The arms that ask whether a label at every pass pays: passes with it and without, one pass with the same labels and without, all with as much compute."""
from collections.abc import Mapping, Sequence
from typing import Any

TAUGHT = {"method.name": "taught"}
ONCE = {"model.sleep.passes": 1}
# of a base whose passes are drawn, and asked for by task.arguments.follow_passes: one pass can't be asked so
ALWAYS_ONCE = {**ONCE, "train.random_passes": (), "train.passes_rise": (), "eval.passes": ()}


def arms(heads: int, *, once: Mapping[str, Any] = ONCE, asked: Mapping[str, Mapping[str, Any]] | None = None, more: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """`taught`, then `more`, `untaught`, `heads` and `once_matched`.

    Args:
      heads: steps that one pass is taught as further heads, besides what it reads.
      once: what makes the base a model of one pass.
      asked: what one pass is asked for instead of the base's question: a phase's name → its dotted keys; None: the same.
      more: arms between.
    """
    phases = {} if asked is None else {"phases": [dict(name=name, overrides=dict(keys)) for name, keys in asked.items()]}
    labels = {"method.arguments": {"labels": "heads", "heads": heads}}
    return [
        dict(name="taught", label="a label at every pass", overrides=TAUGHT),
        *more,
        dict(name="untaught", label="labels at the answer alone, the same passes", overrides={}),
        dict(name="heads", label="one pass, the same labels as further heads, as much compute", overrides={**TAUGHT, **once, **labels}, match="taught", **phases),
        dict(name="once_matched", label="one pass, labels at the answer alone, as much compute", overrides=dict(once), match="taught", **phases),
    ]
