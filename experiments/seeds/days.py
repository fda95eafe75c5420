"""A life of days, each night of which moves what the fast weights hold into a new expert (after arXiv 2606.03979): see days.md beside this file.

A base learns from fresh days how a day is told and asked for. Then it lives through a stream of its own: a day is read, the night carries it over, and all
days so far are asked for with no text at all. At `tiny` the base is one run for all seeds, which draw experts, dreams and orders.

Twelve days:          python -m sleepnet.study --config=experiments/seeds/days.py
Forty days:           python -m sleepnet.study --config=experiments/seeds/days.py:forty, and …:forty_long, nights of twice the steps and experts of twice the rank
Six days, controls:   python -m sleepnet.train --config=experiments/seeds/days.py:base --workdir=runs/days_base, then
                      python -m sleepnet.study --config=experiments/seeds/days.py:tiny, and …:alone, asked one by one
Twelve large days:    python -m sleepnet.study --config=experiments/seeds/days.py:small (16 facts a day, four blocks of 128; its base costs 1.4e15 FLOPs: not run)
Hardware:             one CPU core
Score:                of twelve days known with no text .917, .938, .938, .927, .958 (`held`, seeds 0 … 4), of forty .806, .906, .831 (`even_fixed`); .000 with a teacher that read another day; see days.md
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.study import spec

KINDS = ("asked", "paraphrased", "reversed", "two_hop")
# which → (days, steps of a night, its batch, rank of an expert, its rate)
SIZES = {"tiny": (6, 150, 32, 32, 1e-2), "alone": (6, 150, 32, 32, 1e-2), "life": (12, 600, 32, 16, 1e-2), "forty": (40, 300, 32, 8, 1e-2), "forty_long": (40, 600, 32, 16, 1e-2), "small": (12, 100, 32, 8, 1e-3)}
# of lives with a base of their own: learns → its phase's name, and rows of a step by those of a dreaming one, so that a night costs about as much
READ = {"dreams": ("life", 1), "text": ("text", 1), "questions": ("questions", 4), "sparse": ("sparse", 4)}
START, LONGER = "runs/days_base", "runs/days_longer"
# what a day is like, and what may be asked
TINY = {"facts": 4, "names": 16, "digits": 2, "links": 0, "window": 32, "asks": ("asked", "paraphrased")}

# name → (what it is, method's arguments, whether all nights share one expert of all nights' rank)
CONTROLS = {
    "fixed": ("one expert of all nights' rank, trained every night", {"grow": False}, True),
    "real_keys": ("asked by the true keys, not by its own dreams", {"prompts": "keys"}, False),
    "wrong_reference": ("a teacher that read another day", {"teacher": "another_day"}, False),
    "no_state": ("a teacher with S = 0", {"teacher": "nothing"}, False),
}
SEEDING = {
    "gkd": ("half the answers the student's own, forward KL", {}, False),
    "kd_off": ("all answers the teacher's", {"own": 0.0}, False),
    "kd_on": ("all answers the student's own", {"own": 1.0}, False),
    "reverse": ("reverse KL", {"beta": 1.0}, False),
    "jensen_shannon": ("Jensen–Shannon, half and half", {"beta": 0.5}, False),
    **CONTROLS,
}
# of `tiny`, each in one thing another than the first
REHEARSING = {"reader": "base", "rehearse": True, "rephrase": 0.5, "own": 0.0}
TINY_SEEDING = {
    "rehearse": ("dreams of days before among today's, a reader without experts", {}, False),
    "no_rehearsal": ("today's dreams alone", {"rehearse": False}, False),
    "reader_before": ("the reader has the experts of nights before", {"reader": "before"}, False),
    "one_wording": ("asked in one wording alone", {"rephrase": 0.0}, False),
    "own": ("half of the answers the student's own", {"own": 0.5}, False),
    "imitate": ("and learns to imitate", {"imitate": 0.5}, False),
    **CONTROLS,
}
# the last twenty steps of a night; of the four questions that a copy is asked a share would be too coarse
DREAMING = {"dreaming": 640, "metric": "likelihood"}
# of `alone`, beside those
ALONE = {
    "dream": ("and tries what it dreams, by gradient", DREAMING, False),
    "dream_random": ("as many dreams, drawn at random", {**DREAMING, "choose": "random"}, False),
    "dream_unrewarded": ("all dreams that were tried", {**DREAMING, "rewarded": False}, False),
    "dream_facts": ("and learns what rewarded dreams say, with S = 0", {**DREAMING, "learns": "facts"}, False),
    "dream_facts_unrewarded": ("the same of all that were tried", {**DREAMING, "learns": "facts", "rewarded": False}, False),
    "dream_closed": ("no random expert while it dreams", {**DREAMING, "random_expert": False}, False),
    "readings": ("laws of four readings of the day, their mean", {"readings": 4}, False),
    "longer": ("a base that learnt longer", {}, False),
    "skill": ("held to what the base says of days that never were", {"skill": 1.0}, False),
    "skill_long": ("the same, nights of four times the steps", {"skill": 1.0}, False),
    "skill_longer": ("the same, and a base that learnt longer", {"skill": 1.0}, False),
    "rehearse_long": ("not held, nights of four times the steps", {}, False),
    "cms": ("the paper's sender, a level of MLP that the day's text moves", {"sender": "cms", "level_moves": 10}, False),
}
# arms → how much longer their nights are
LONG = {"skill_long": 4, "skill_longer": 4, "rehearse_long": 4}
# name → (what it is, method's arguments, the task's, whether all nights share one expert)
TUNED = {
    "ft_text": ("fine-tuning on the day's text", {}, {}, False),
    "ft_questions": ("fine-tuning on the day's true questions and answers", {"learns": "questions"}, {}, False),
    "ft_fixed": ("the same, one expert of all nights' rank", {"learns": "questions", "grow": False}, {}, True),
    "replay_1": ("the same, 1 % of it of days before", {"learns": "questions", "grow": False}, {"replay": 1}, True),
    "replay_10": ("the same, 10 %", {"learns": "questions", "grow": False}, {"replay": 10}, True),
    "ewc": ("the same, held where it mattered before", {"learns": "questions", "grow": False, "anchor": 100.0}, {}, True),
    "joint": ("the same, all days taking turns", {"learns": "questions", "grow": False}, {"order": "mixed"}, True),
}


# of these: name → (what it is, method, its arguments, the task's, whether all nights share one expert, other overrides)
KEPT = {**REHEARSING, "rehearsed": 0.75, "skill": 1.0}
NIGHTS = {
    "grow": ("knowledge seeding, a new expert each night", "seeding", KEPT, {}, False, {}),
    "fixed": ("the same, one expert of all nights' rank", "seeding", {**KEPT, "grow": False}, {}, True, {}),
    "imitate": ("and learns to imitate", "seeding", {**KEPT, "imitate": 0.5}, {}, False, {}),
    "dream": ("and tries what it dreams, by gradient", "dreaming", {**KEPT, **DREAMING}, {}, False, {}),
    "dream_random": ("as many dreams, drawn at random", "dreaming", {**KEPT, **DREAMING, "choose": "random"}, {}, False, {}),
    "even": ("all days dreamt of alike", "seeding", {**KEPT, "even": True}, {}, False, {}),
    "even_fixed": ("the same, one expert of all nights' rank", "seeding", {**KEPT, "even": True, "grow": False}, {}, True, {}),
    "held": ("held to its skill twice as much", "seeding", {**KEPT, "skill": 2.0}, {}, False, {}),
    "unheld": ("not held to its skill", "seeding", {**KEPT, "skill": 0.0}, {}, False, {}),
    "no_rehearsal": ("today's dreams alone", "seeding", {**KEPT, "rehearse": False}, {}, False, {}),
    "wrong_reference": ("a teacher that read another day", "seeding", {**KEPT, "teacher": "another_day"}, {}, False, {}),
    **{name: (label, "fine_tuning", arguments, task, True, {}) for name, (label, arguments, task, shared) in TUNED.items() if shared},
    "memft": ("replay of 10 %, words that are known do not count (MemFT)", "fine_tuning", {"learns": "questions", "grow": False, "threshold": 0.5}, {"replay": 10}, True, {}),
    "ft_text": ("fine-tuning on the day's text", "fine_tuning", {"grow": False}, {}, True, {}),
    "seta": ("true questions, SETA's sparse experts and gate, which goes by the key", "seta", {"survey": 5120}, {"told": "nothing"}, False, {"adapters.kind": "sparse"}),
}
# name → (what it is, overrides): all days stand before the question, nothing is learnt by heart; the base learns to read so many
TOLD = {
    "context": ("a full cache of all that was told, no fast weights", {"model.pattern": "AA", "model.sleep.eviction": "none"}),
    "fast_weights": ("S alone carries all that was told, no night", {}),
}


def get_config(which: str = "life") -> ml_collections.ConfigDict:
    """The study `which`: life, forty, forty_long, tiny, alone or small; or the run that is the base of `tiny` and `alone`, or of the arm `longer`."""
    if which in ("base", "longer"):
        return _base(TINY, longer=which == "longer")
    if which not in SIZES:
        raise UsageError(f"days.py:{which} is not one of base, longer, {', '.join(SIZES)}")
    config = spec.default()
    config.title = f"A life of {SIZES[which][0]} days"
    config.question = "Can a night carry what the fast weights hold of a day into slow ones, so that all days are known without text?"
    config.seeds = (0, 1, 2)
    (_controlled if which in ("tiny", "alone", "small") else _lived)(config, which)
    return config


def _lived(config: ml_collections.ConfigDict, which: str) -> None:
    """A base of its own for each seed, then a life; each question alone. Fine-tuning and SETA read so many rows that a night of theirs costs .7 to 1.2 of a night of dreams; imitation costs 3."""
    days, steps, batch, rank, rate = SIZES[which]
    day = {**TINY, "digits": 2 if days * TINY["facts"] <= 100 else 3}  # no two facts share a value
    each, one = len(day["asks"]) * day["facts"] * days, {"kind": "stream", "days": days, **day, "questions": 1}
    fresh = {"days": 1, **day, "questions": 4}
    config.base = _base(day)
    config.base.model.head_dim, config.base.train.steps = 64, 4000
    config.base.task.arguments = {}  # a phase's arguments are laid over these
    base = dict(name="base", overrides={"task.arguments": fresh})
    arms = []
    for name, (label, method, arguments, task, shared, more) in NIGHTS.items():
        phase, more_rows = READ["sparse" if method == "seta" else arguments.get("learns", "text") if method == "fine_tuning" else "dreams"]
        rows = batch * more_rows
        life = {
            "task.arguments": {**one, "told": "today", "per_day": steps * rows, **task}, "train.steps": days * steps, "train.batch_size": rows, "train.first_example": 0,
            "train.eval_every": steps, "train.eval_examples": each, "train.save_every": days * steps, "train.log_every": 10 if method == "dreaming" else steps, "eval.examples": each,
            "adapters.kind": "newest_expert", "method.name": method, "method.arguments": arguments, "optim.adam_rate": rate, "optim.warmup": 0, "optim.decay": 0.3, **more,
        }  # fmt: skip
        beside = {"model.sparse.count": days, "model.sparse.reads": 3} if method == "seta" else dict(zip(
            ("model.experts.count", "model.experts.rank", "model.experts.alpha"), (1, rank * days, float(rank * days)) if shared else (days, rank, float(rank))
        ))  # fmt: skip
        arms.append(dict(name=name, label=label, phases=[base, dict(name=phase, overrides={**life, **beside})]))
    told = {"task.arguments": {**fresh, "days": days, "told": "all"}, "train.steps": 300, "train.first_example": 1 << 32}
    arms += [dict(name=name, label=label, overrides=more, phases=[base, dict(name="told", overrides=told)]) for name, (label, more) in TOLD.items()]
    test = lambda name, count, task: dict(name=name, task={"arguments": task}, examples=count)
    config.tests = [test("recall", each, {**one, "told": "nothing"}), test("today", each, {**one, "told": "today"}), test("all_told", each, {**one, "told": "all"}), test("skill", 512, fresh)]
    config.arms, config.reference = arms, "grow"


def _controlled(config: ml_collections.ConfigDict, which: str) -> None:
    """What each part of a night does, six tiny days; or twelve large ones."""
    days, steps, batch, rank, rate = SIZES[which]
    tiny = which in ("tiny", "alone")
    day = TINY if tiny else {"facts": 16}
    kinds = TINY["asks"] if tiny else KINDS
    each = len(kinds) * day["facts"] * days
    one = {"questions": 1} if which == "alone" else {}  # `tiny` asks four in a window, as the base learnt it, which no dream is about
    stream = lambda told, **more: {"kind": "stream", "days": days, **day, **one, "told": told, "per_day": steps * batch, **more}
    fresh = {"days": 1, **day, "questions": 4} if tiny else {"days": 2, **day}
    test = lambda name, count, task: dict(name=name, task={"arguments": task}, examples=count)
    config.base = _base(day) if tiny else _life()

    def life(method: str, arguments: dict, task: dict, shared: bool, start: str = START, longer: int = 1) -> dict:
        night = steps * longer
        overrides = {
            "task.arguments": stream("today", **task) | {"per_day": night * batch}, "train.steps": days * night, "train.batch_size": batch, "train.first_example": 0,
            "train.eval_every": night, "train.eval_examples": each, "train.save_every": days * night, "train.log_every": 10 if method == "dreaming" else night, "eval.examples": each,
            "adapters.kind": "newest_expert", "method.name": method, "method.arguments": arguments,
            "model.experts.count": 1 if shared else days, "model.experts.rank": rank * (days if shared else 1), "model.experts.alpha": float(rank * (days if shared else 1)),
            "optim.adam_rate": rate, "optim.warmup": 0, "optim.decay": 0.3,
        }  # fmt: skip
        return dict(name="life" if longer == 1 else "long", overrides=overrides, **({"start": start} if tiny else {}))

    before = [] if tiny else [dict(name="base", overrides={"task.arguments": fresh})]
    seeding = {name: (label, {**REHEARSING, **more}, shared) for name, (label, more, shared) in (TINY_SEEDING | (ALONE if one else {})).items()} if tiny else SEEDING
    arms = {name: (label, "dreaming" if "dreaming" in arguments else "seeding", arguments, {}, shared) for name, (label, arguments, shared) in seeding.items()}
    arms |= {name: (label, "fine_tuning", arguments, task, shared) for name, (label, arguments, task, shared) in TUNED.items()}
    began = lambda name: LONGER if name.endswith("longer") else START
    made = [dict(name=name, label=label, phases=[*before, life(*how, start=began(name), longer=LONG.get(name, 1))]) for name, (label, *how) in arms.items()]
    full_cache = {"model.pattern": "A" * len(config.base.model.pattern), "model.sleep.eviction": "none", "model.sleep.passes": 1}
    if not tiny:
        made += [
            dict(name="frozen", label="no night at all", phases=before),
            dict(name="context", label="a full cache of all that is told, no fast weights", phases=before, overrides=full_cache),
        ]
    tests = [test("recall", each, stream("nothing")), test("skill", 512, fresh)]
    if not tiny:
        by_kind = [test(f"recall_{kind}", day["facts"] * days, stream("nothing", asks=(kind,))) for kind in kinds]
        tests += [test("today", each, stream("today")), *by_kind, test("all_told", 4 * days, stream("all"))]
    config.arms, config.tests = made, tests
    config.reference = next(iter(seeding))


def _base(day: dict, longer: bool = False) -> ml_collections.ConfigDict:
    config = presets.cpu_size("days", {"days": 1, **day, "questions": 4}, steps=1700, batch_size=32)
    config.model.sleep.passes = 1
    config.train.update(save_every=1000, log_every=250)
    config.eval.examples = 512
    config.phase = "base"
    if longer:  # from where the base ended, at rates that rise and fall once more
        config.start, config.phase = START, "more"
        config.train.update(steps=2000, first_example=1 << 32)
    return config


def _life() -> ml_collections.ConfigDict:
    config = presets.cpu_size("days", {"days": 2, "facts": 16}, steps=6000, batch_size=32)
    config.model.update(pattern="AGAG", width=128, heads=4, mlp_width=256)
    config.model.sleep.passes = 4
    config.train.update(save_every=500, eval_every=500, eval_examples=256)
    config.eval.examples = 1024
    return config
