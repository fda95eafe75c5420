"""MemFT and the Parametric Memory Law (arXiv 2605.30260) at small size: see memft.md beside this file for what is asked, and what would falsify it.

A base learns from fresh phone books in its context what a question about one asks for. Then each arm is to know one book, or one string of digits, by heart,
with low-rank adapters on the MLP of the base's third block. All arms of a study see the same entries as often (the curriculum, the first of them more
often). The base is one for all seeds, which draw the adapters, the order and the masks.

The base:  python -m sleepnet.train --config=experiments/seeds/memft.py:base --workdir=runs/memft_base
A book:    python -m sleepnet.study --config=experiments/seeds/memft.py
A string:  python -m sleepnet.study --config=experiments/seeds/memft.py:string
The rates: python -m sleepnet.study --config=experiments/seeds/memft.py:book_rates (and string_rates), on a seed of their own
The law:   python -m sleepnet.study --config=experiments/seeds/memft.py:law --results=LAW, then python -m sleepnet.eval.capacity --outcomes=LAW --before=chance --fit_r=4 --fit_l=640 --out=OUT
Hardware:  one CPU core
Score:     see memft.md
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

ENTRIES, DIGITS = 64, 200  # of the book, and of the string
EPOCHS = {"book": 200, "string": 2000}
BATCH = {"book": 16, "string": 1}
RATES = (3e-3, 1e-2, 3e-2)
# arm → rate, where it is another than 1e-2; of a book that which knew most on the screening seed, see memft.md
TUNED = {"book": {"curriculum_sft": 3e-2, "curriculum_ot": 3e-2, "curriculum_ot_zero": 3e-2, "full": 3e-3}, "string": {}}
SCREENING = 100  # the seed of the base, and that rates and sizes are chosen on
LAW = {"ranks": (1, 2, 4, 16), "entries": (32, 64, 128)}

START = "runs/memft_base"
ADAPTED = {"adapters.kind": "low_rank", "adapters.names": r"blocks\.2\.mlp"}

# name → (what it is, method's arguments or None for plain cross entropy)
METHODS = {
    "sft": ("every digit, plain mean", None),
    "ot": ("digits not known yet; all, where there are none", {"weights": "over_threshold"}),
    "ot_zero": ("digits not known yet; no step, where there are none", {"weights": "over_threshold", "when_empty": "skip"}),
    "random_mask": ("as many digits, drawn at random", {"weights": "random_mask"}),
    "focal": ("all digits, weighed by (1 − p)²", {"weights": "focal"}),
    "top_share": ("the half with the larger losses", {"weights": "top_share"}),
}


def get_config(which: str = "book") -> ml_collections.ConfigDict:
    """The study `which`: book, string, their rates, or law; or the run that is their base."""
    if which == "base":
        return _base()
    kind, _, rates = which.partition("_")
    if which == "law":
        arms = [_arm("book", f"r{rank}_l{10 * entries}", f"rank {rank}, {entries} entries", None, rank=rank, entries=entries) for rank in LAW["ranks"] for entries in LAW["entries"]]
        return _study("book", arms, (0,))
    if kind not in EPOCHS or rates not in ("", "rates"):
        raise UsageError(f"memft.py:{which} is not one of base, book, string, book_rates, string_rates, law")
    arms = [(name, label, method, {}) for name, (label, method) in METHODS.items()]
    if kind == "string":
        arms.append(("sw", "a window that slides over the string", {"weights": "sliding"}, {}))
    else:
        rise = [round(share * ENTRIES * EPOCHS[kind] / 5) for share in (1, 2, 3, 4)]
        curriculum = {"task.arguments.share_rise": rise, "task.arguments.order": "fixed"}
        arms.append(("fixed_sft", "every digit, the same order in every epoch", None, {"task.arguments.order": "fixed"}))
        arms += [(f"curriculum_{name}", f"shares of the book that grow; {METHODS[name][0]}", METHODS[name][1], curriculum) for name in ("sft", "ot", "ot_zero")]
    arms = [(name, label, {"method": method, "more": more}) for name, label, method, more in arms]
    arms.append(("full", "every digit, no adapters", {"full": True}))
    if rates:
        return _study(kind, [_arm(kind, f"{name}_{rate:g}", f"{label}; rate {rate:g}", rate=rate, **how) for name, label, how in arms for rate in RATES], (SCREENING,))
    made = [_arm(kind, name, label, rate=TUNED[kind].get(name, 1e-2), **how) for name, label, how in arms]
    made.append({**_arm(kind, "sft_matched", "every digit, as much compute as ot", rate=TUNED[kind].get("sft", 1e-2)), "match": "ot"})
    return _study(kind, made, (0, 1, 2))


def _arm(
    kind: str, name: str, label: str, method: dict | None = None, more: dict | None = None, *, rate: float = 1e-2, rank: int = 4, entries: int = ENTRIES, full: bool = False,
) -> dict:  # fmt: skip
    size, count = ({"entries": entries}, entries) if kind == "book" else ({"entries": 1, "digits": DIGITS}, 1)
    steps = EPOCHS[kind] * count // BATCH[kind]
    heart = {
        "task.arguments": {"kind": kind, **size}, "train.steps": steps, "train.batch_size": BATCH[kind], "train.first_example": 0,
        "train.save_every": steps, "train.eval_every": max(1, steps // 20), "train.eval_examples": count, "eval.examples": count,
        "optim.learning_rate": rate, "optim.adam_rate": rate, "optim.warmup": 0, "optim.decay": 1.0, "optim.final": 0.0,
        **({} if full else {**ADAPTED, "adapters.rank": rank}), **({} if method is None else {"method.name": "memft", "method.arguments": method}), **(more or {}),
    }  # fmt: skip
    return dict(name=name, label=label, phases=[dict(name="heart" if entries == ENTRIES else f"heart_{entries}", overrides=heart, start=START)])


def _base() -> ml_collections.ConfigDict:
    config = presets.cpu_size("phonebook", {"kind": "context", "entries": 4}, steps=600, batch_size=32)
    config.model.update(pattern="AGAG", width=128, heads=4, mlp_width=256)
    config.model.sleep.passes = 1
    config.optim.learning_rate, config.optim.adam_rate = 2e-2, 3e-3
    config.train.update(save_every=500, eval_every=500, eval_examples=256)
    config.eval.examples = 256
    config.seed, config.phase = SCREENING, "base"
    return config


def _study(kind: str, arms: list[dict], seeds: tuple[int, ...]) -> ml_collections.ConfigDict:
    config = spec.default()
    config.title = f"MemFT: a {kind} to be known by heart"
    config.question = "Does an adapter know more by heart, at equal presentations, where training leaves out what it knows already?"
    config.base = _base()
    config.base.seed, config.base.phase = 0, ""
    config.arms, config.seeds, config.reference = arms, seeds, arms[0]["name"]
    return config
