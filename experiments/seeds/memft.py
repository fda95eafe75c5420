"""MemFT and the Parametric Memory Law (arXiv 2605.30260) at small size: see memft.md beside this file for what is asked, and what would falsify it.

A base learns from fresh phone books in its context what a question about one asks for; then each arm is to know one book, or one string of digits, by
heart, with low-rank adapters on the MLP of its third block. All arms of a study see the same entries as often (the curriculum, the first of them more often).

A book:    python -m sleepnet.study --config=experiments/seeds/memft.py
A string:  python -m sleepnet.study --config=experiments/seeds/memft.py:string
The rates: python -m sleepnet.study --config=experiments/seeds/memft.py:book_rates (and string_rates), on a seed of their own
The law:   python -m sleepnet.study --config=experiments/seeds/memft.py:law, then python -m sleepnet.eval.capacity
Hardware:  two CPU cores
Score:     not run yet; rates not tuned yet
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

ENTRIES, DIGITS = 64, 200  # of the book, and of the string
EPOCHS = {"book": 200, "string": 2000}
BATCH = {"book": 16, "string": 1}
RATE = 1e-2
RATES = (3e-3, 1e-2, 3e-2)
SCREENING = 100  # the seed that rates are chosen on

BASE = dict(name="base", overrides={
    "task.arguments": {"kind": "context", "entries": 4}, "train.steps": 2000, "train.batch_size": 32, "eval.examples": 1024,
})  # fmt: skip
ADAPTED = {"adapters.kind": "low_rank", "adapters.names": r"blocks\.2\.mlp", "adapters.rank": 4}

# name → (what it is, method's arguments or None for plain cross entropy, more)
METHODS = {
    "sft": ("every digit, plain mean", None),
    "ot": ("digits not known yet; all, where there are none", {"weights": "over_threshold"}),
    "ot_zero": ("digits not known yet; no step, where there are none", {"weights": "over_threshold", "when_empty": "skip"}),
    "random_mask": ("as many digits, drawn at random", {"weights": "random_mask"}),
    "focal": ("all digits, weighed by (1 − p)²", {"weights": "focal"}),
    "top_share": ("the half with the larger losses", {"weights": "top_share"}),
}


def get_config(which: str = "book") -> ml_collections.ConfigDict:
    """The study `which`: book, string, their rates, or law."""
    kind, _, rates = which.partition("_")
    if which == "law":
        return _study("string", [_arm("string", f"r{rank}_l{digits}", f"rank {rank}, {digits} digits", None, rank=rank, digits=digits) for rank in (1, 4, 16) for digits in (50, 200, 800)], (0,))
    if kind not in EPOCHS or rates not in ("", "rates"):
        raise UsageError(f"memft.py:{which} is not one of book, string, book_rates, string_rates, law")
    arms = [(name, label, method, {}) for name, (label, method) in METHODS.items()]
    if kind == "string":
        arms.append(("sw", "a window that slides over the string", {"weights": "sliding"}, {}))
    else:
        rise = [round(share * ENTRIES * EPOCHS[kind] / 5) for share in (1, 2, 3, 4)]
        curriculum = {"task.arguments.share_rise": rise, "task.arguments.order": "fixed"}
        arms += [(f"curriculum_{name}", f"shares of the book that grow; {METHODS[name][0]}", METHODS[name][1], curriculum) for name in ("sft", "ot", "ot_zero")]
    if not rates:
        made = [_arm(kind, name, label, method, more) for name, label, method, more in arms] + [_arm(kind, "full", "every digit, no adapters", None, full=True)]
        made.append({**_arm(kind, "sft_matched", "every digit, as much compute as ot", None), "match": "ot"})
        return _study(kind, made, (0, 1, 2))
    return _study(kind, [_arm(kind, f"{name}_{rate:g}", f"{label}; rate {rate:g}", method, more, rate=rate) for name, label, method, more in arms for rate in RATES], (SCREENING,))


def _arm(kind: str, name: str, label: str, method: dict | None, more: dict | None = None, *, rate: float = RATE, rank: int = 4, digits: int = DIGITS, full: bool = False) -> dict:
    size = {"entries": ENTRIES} if kind == "book" else {"entries": 1, "digits": digits}
    count = ENTRIES if kind == "book" else 1
    heart = {
        "task.arguments": {"kind": kind, **size}, "train.steps": EPOCHS[kind] * count // BATCH[kind], "train.batch_size": BATCH[kind], "train.first_example": 0,
        "optim.learning_rate": rate, "optim.adam_rate": rate, "optim.warmup": 0, "optim.decay": 1.0, "optim.final": 0.0, "eval.examples": count,
        **({} if full else {**ADAPTED, "adapters.rank": rank}), **({} if method is None else {"method.name": "memft", "method.arguments": method}), **(more or {}),
    }  # fmt: skip
    return dict(name=name, label=label, phases=[BASE, dict(name=f"heart_{digits}" if digits != DIGITS else "heart", overrides=heart)])


def _study(kind: str, arms: list[dict], seeds: tuple[int, ...]) -> ml_collections.ConfigDict:
    config = spec.default()
    config.title = f"MemFT: a {kind} to be known by heart"
    config.question = "Does an adapter know more by heart, at equal presentations, where training leaves out what it knows already?"
    config.base = presets.cpu_size("phonebook", {"kind": "context", "entries": 4}, steps=2000, batch_size=32)
    config.base.model.update(pattern="AGAG", width=128, heads=4, mlp_width=256)
    config.base.model.sleep.passes = 1
    config.base.optim.learning_rate, config.base.optim.adam_rate = 2e-2, 3e-3
    config.base.train.update(save_every=500, eval_every=500, eval_examples=256)
    config.arms, config.seeds, config.reference = arms, seeds, arms[0]["name"]
    return config
