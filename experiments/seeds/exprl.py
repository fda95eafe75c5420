"""ExpRL (arXiv 2606.17024) at small size: hidden references as judges, then sparse rewards; see exprl.md beside this file for what is asked and what was found.

A base learns chained arithmetic with its chain of thought, up to one operation. Then each arm draws chains of its own: first with its own kind of reward, in stage II
with that of the right answer alone. All is asked about one and two operations, of which latter it was never shown a chain. Prompts are slept over once.

The base:   python -m sleepnet.train --config=experiments/seeds/exprl.py:base --workdir=runs/exprl_base
A screen:   python -m sleepnet.study --config=experiments/seeds/exprl.py:screen --seeds=0
Decisive:   python -m sleepnet.study --config=experiments/seeds/exprl.py:decisive, of two operations alone, which the base hardly ever has right
All:        python -m sleepnet.study --config=experiments/seeds/exprl.py
Hardware:   two CPU cores, a core an arm
Score:      decisive, two operations: pass@1 .058 before; .240, .288, .249 grpo_sparse_long, .156, .145, .103 exprl_outcome, .148, .129, .161 wrong_reference (seeds 0, 1, 2)
"""
import ml_collections

from sleepnet import presets
from sleepnet.errors import UsageError
from sleepnet.methods.rl import rewards
from sleepnet.study import spec

START = "runs/exprl_base"
# which → (prompts a step, steps of stage I, of stage II, test problems, chains of each, passes N)
SIZES = {"screen": (16, 60, 0, 128, 64, 1), "decisive": (16, 100, 60, 384, 64, 1), "full": (16, 300, 500, 1024, 128, 1)}
SMALL = dict(places=8, things=8, limit=20, length=(20, 66), fillers="alike", window=66, answer_alone=True, chain_of_thought=True)
RISE = (100 * 64,)  # training examples of the fewest operations alone, before those with one more
NOISE = {level: rewards.noise_of(share) for level, share in rewards.MISPLACED.items()}

SPARSE = {"reward": "exact", "clip_high": 0.26}
# name → (what it is, the method's arguments in stage I; None: plain cross entropy on right chains)
ARMS = {
    "grpo_sparse": ("right answers alone, in stage II alone", SPARSE),
    "grpo_sparse_long": ("right answers alone, in both stages: as many chains as those that hear of milestones", SPARSE),
    "exprl_outcome": ("milestones, a chain at a time", {}),
    "exprl_process": ("milestones, a step at a time, each against the one before", {"advantage": "process", "clip_high": 0.26}),
    "both": ("both of these (ours)", {"advantage": "process+outcome"}),
    "wrong_reference": ("another problem's milestones and answer", {"control": "wrong_reference"}),
    "random_reward": ("the batch's scores, dealt anew", {"control": "random_reward"}),
    "still_wrong": ("another problem's milestones, and no step where no chain is better than another", {"control": "wrong_reference", "silence": "stand"}),
    "no_reference": ("each sentence's sums checked, no reference known", {"reward": "sound"}),
    "parsable": ("milestones, chains that read as none masked", {"unparsable": "mask"}),
    "noisy": ("milestones, .178 of the judgements misplaced", {"noise": NOISE["reference"]}),
    "very_noisy": ("milestones, .392 of the judgements misplaced", {"noise": NOISE["none"]}),
    "exprl_step": ("milestones, a step judged alone (the authors' code)", {"advantage": "process", "judged": "step", "clip_high": 0.26}),
    "end_norm": ("milestones, each step against the last", {"advantage": "end"}),
    "group_norm": ("milestones, each step against the group", {"advantage": "centred"}),
    "sft_native": ("shown the right chains, as much compute: an upper bound", None),
}
TENTH = {"optim.learning_rate": 2e-4, "optim.adam_rate": 3e-5}  # of the rate
# by other means than rewards: name → (what it is, method, its arguments, further overrides)
OTHERS = {
    "sft_foreign": ("shown right solutions in another grammar", "foreign", {}, {}),
    "self_distill": ("to be, on its own chains, as if it had read the milestones, too", "self_distill", {}, TENTH),
    "self_distill_wrong": ("the same with another problem's milestones", "self_distill", {"control": "wrong_reference"}, TENTH),
}
# arms with a base of their own, `decisive` alone → (N of base and policy, what it is, steps of base, stage I and stage II: of `once` as many FLOPs as of `sleep4` in each)
SLEEPING = {
    "sleep4": (4, "right answers alone, N = 4", (200, 100, 60)),
    "once": (1, "the same, N = 1, as much compute in each phase", (622, 161, 96)),
    "once_steps": (1, "the same, N = 1, as many steps", (200, 100, 60)),
}
# how many steps on right chains cost what one does that draws chains
SHOWN = 6.56
SCREENED = ("grpo_sparse", "exprl_outcome", "both", "wrong_reference", "random_reward")


def get_config(which: str = "full") -> ml_collections.ConfigDict:
    """The study `which`, screen, decisive or full; or the run that is the base of all."""
    if which == "base":
        return _base()
    if which not in SIZES:
        raise UsageError(f"exprl.py:{which} is not one of base, {', '.join(SIZES)}")
    size, first, second, examples, chains, passes = SIZES[which]
    # a screen's 960 problems have one operation: two are asked in its test alone
    task = {**SMALL, "ops": (2, 2) if which == "decisive" else (1, 2), "ops_rise": () if second else RISE}
    told = {
        "task.arguments": task, "train.batch_size": size, "train.log_every": 10, "train.save_every": 1000, "train.eval_every": 0, "eval.examples": examples,
        "eval.batch_size": 64, "model.sleep.passes": passes, "optim.learning_rate": 2e-3, "optim.adam_rate": 3e-4, "optim.warmup": 10, "optim.decay": 0.0,
    }  # fmt: skip
    rewarded = lambda steps, arguments: {**told, "train.steps": steps, "method.name": "exprl", "method.arguments": {"graded": chains, **({} if second else {"tried": 0}), **arguments}}

    def arm(name: str) -> dict:
        if name in OTHERS:
            label, method, arguments, more = OTHERS[name]
            begun = {**told, "train.steps": round(first * SHOWN) if method == "foreign" else first, **more, "method.name": method, "method.arguments": {"graded": chains, **arguments}}
        else:
            label, arguments = ARMS[name]
            begun = {**told, "train.steps": round(first * SHOWN)} if arguments is None else rewarded(first, arguments)
        phases = [dict(name="stage1", overrides=begun, start=START)]
        if second:
            phases.append(dict(name="stage2", overrides=rewarded(second, SPARSE)))
        if second and name == "grpo_sparse":
            phases = [dict(name="stage2", overrides=rewarded(second, SPARSE), start=START)]
        return dict(name=name, label=label if second else label.partition(", in ")[0], phases=phases)

    def asleep(name: str) -> dict:
        count, label, steps = SLEEPING[name]
        base = {"task.arguments": {**SMALL, "ops": (0, 1), "ops_rise": RISE}, "train.steps": steps[0], "train.save_every": steps[0], "train.first_example": 0}
        learns = [{**rewarded(many, SPARSE), "train.steps": many} for many in steps[1:]]
        phases = zip(("base", "stage1", "stage2"), (base, *learns))
        return dict(name=name, label=label, phases=[dict(name=phase, overrides={**overrides, "model.sleep.passes": count}) for phase, overrides in phases])

    config = spec.default()
    config.title = "ExpRL: hidden references as rewards"
    config.question = "Do milestones that only a judge knows teach more than the right answer alone, at equal chains?"
    config.base = _base()
    config.base.seed, config.base.phase = 0, ""
    if which == "decisive":
        config.base.task.arguments = {}  # a phase's arguments are laid over these
    config.arms = [arm(name) for name in (SCREENED if which == "screen" else ARMS | OTHERS)]
    if which == "decisive":
        config.arms += tuple(map(asleep, SLEEPING))
        config.tests = [dict(name="one", task={"arguments": {**task, "ops": (1, 1)}}, examples=128)]
    config.reference, config.seeds = "grpo_sparse_long" if which == "decisive" else "grpo_sparse", (0, 1, 2)
    return config


def _base() -> ml_collections.ConfigDict:
    config = presets.cpu_size("gsm", {**SMALL, "ops": (0, 1), "ops_rise": RISE}, steps=200, batch_size=64)
    config.model.sleep.passes = 1
    config.model.window_positions = False  # chains are shown so that they end with their window, and written from its beginning
    config.optim.decay = 0.0
    config.train.update(save_every=200, eval_every=0)
    config.eval.examples = 1024
    config.seed, config.phase = 100, "base"
    return config
