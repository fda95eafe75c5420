"""From a study's arms to the runs they stand for: whole configurations, matched compute, the same data for all."""
import dataclasses
from typing import Any

from sleepnet import build
from sleepnet.config import RunConfig, to_dict
from sleepnet.errors import UsageError
from sleepnet.models import flops
from sleepnet.study.spec import Arm, StudySpec, apply, flatten

# with the seed, what batch i of a run is made from
_DATA = ("task.", "train.batch_size")


def step_flops(config: RunConfig) -> float:
    """FLOPs of one training step, forward and backward; with `train.random_passes`, the mean over them."""
    task = build.task_of(config)
    model = build.fit(config.model, task)
    counts = config.train.random_passes or (model.sleep.passes,)
    sequence = sum(flops.train_flops(model, task.predicts, task.seq_len, passes) for passes in counts) / len(counts)
    return config.train.batch_size * sequence


def train_flops(config: RunConfig) -> float:
    """FLOPs of a whole training run, looks at the validation split not counted."""
    return config.train.steps * step_flops(config)


def resolve(spec: StudySpec) -> dict[str, RunConfig]:
    """Every arm's name → its run, whose seed is still the base's.

    Raises:
      UsageError: an arm that is no valid run, that changes the data, or whose `match` leads back to itself.
    """
    drafts = {arm.name: draft(spec.base, arm) for arm in spec.arms}
    done: dict[str, RunConfig] = {}

    def settle(name: str, path: tuple[str, ...] = ()) -> RunConfig:
        if name in path:
            raise UsageError(f"arms match each other in a circle: {' → '.join((*path, name))}")
        if name not in done:
            config, match = drafts[name], spec.arm(name).match
            if match:
                target = train_flops(settle(match, (*path, name)))
                steps = max(1, round(target / step_flops(config)))
                config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
            done[name] = config
        return done[name]

    return {name: settle(name) for name in drafts}


def for_seed(config: RunConfig, seed: int) -> RunConfig:
    """The run of one seed; it always goes on from its newest checkpoint."""
    return dataclasses.replace(config, seed=seed, resume="latest")


def changes(base: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys whose values differ from the base's, both as `to_dict` gives them; the seed left out."""
    old, new = flatten(base), flatten(config)
    return {key: value for key, value in new.items() if value != old.get(key) and key not in ("seed", "resume")}


def draft(base: RunConfig, arm: Arm) -> RunConfig:
    """The arm's run before its steps are matched.

    Raises:
      UsageError: it is no valid run, or sees other data than the base.
    """
    try:
        config = apply(base, arm.overrides)
        passes = arm.eval_passes or config.eval.passes
        if passes:
            own = config.model.sleep.passes
            config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, passes=tuple(sorted({*passes, own}))))
        build.fit(config.model, build.task_of(config))
    except UsageError as error:
        raise UsageError(f"arm {arm.name!r}: {error}") from error
    for key, value in changes(to_dict(base), to_dict(config)).items():
        if key.startswith(_DATA):
            raise UsageError(
                f"arm {arm.name!r} sets {key}={value!r}: all arms must see the same data in the same order, or they can't be "
                f"compared; set it in the study's base"
            )
    if config.seed != base.seed:
        raise UsageError(f"arm {arm.name!r} sets seed: all arms run with the study's seeds on the same data; use config.seeds")
    return config
