"""From a study's arms to the runs they stand for: whole configurations, matched compute, the same data for all."""
import dataclasses
from collections.abc import Sequence

from sleepnet import build, costs
from sleepnet.config import RunConfig
from sleepnet.errors import UsageError
from sleepnet.study.chains import Chain, changes, drafts
from sleepnet.study.spec import StudySpec

__all__ = ["chain_flops", "chains", "changes", "drafts", "for_seed", "resolve", "step_flops", "tokens", "train_flops"]


def step_flops(config: RunConfig) -> float:
    """FLOPs of one training step, as its method counts them; with `train.random_passes`, the mean over them."""
    return costs.expected(config)


def train_flops(config: RunConfig) -> float:
    """FLOPs of a whole training run, looks at the validation split not counted."""
    return config.train.steps * step_flops(config)


def chain_flops(chain: Sequence[RunConfig]) -> float:
    """FLOPs of a run with its past, as if no other arm shared it."""
    return sum(map(train_flops, chain))


def tokens(config: RunConfig) -> int:
    """That a training run reads."""
    return config.train.steps * config.train.batch_size * build.task_of(config).seq_len


def chains(spec: StudySpec) -> dict[str, Chain]:
    """Every arm's name → the runs of its phases, in their order; one run where it has none. Their seed is still the base's.

    Raises:
      UsageError: an arm that is no valid run, that changes the data, whose `match` leads back to itself, or that has spent more than that before its last phase.
    """
    found = drafts(spec)
    done: dict[str, Chain] = {}

    def settle(name: str, path: tuple[str, ...] = ()) -> Chain:
        if name in path:
            raise UsageError(f"arms match each other in a circle: {' → '.join((*path, name))}")
        if name not in done:
            (*before, last), match = found[name], spec.arm(name).match
            if match:
                target, past = chain_flops(settle(match, (*path, name))), chain_flops(before)
                if target <= past:
                    raise UsageError(
                        f"arm {name!r} has spent {past:.3g} FLOPs before its last phase, {last.phase!r}, and match={match!r} is {target:.3g} with all its "
                        "phases: nothing is left for it; give its earlier phases fewer train.steps, or match a longer arm"
                    )
                steps = max(1, round((target - past) / step_flops(last)))
                last = dataclasses.replace(last, train=dataclasses.replace(last.train, steps=steps))
            done[name] = (*before, last)
        return done[name]

    return {name: settle(name) for name in found}


def resolve(spec: StudySpec) -> dict[str, RunConfig]:
    """Every arm's name → its run, or that of its last phase, whose seed is still the base's; raises UsageError as `chains`."""
    return {name: chain[-1] for name, chain in chains(spec).items()}


def for_seed(config: RunConfig, seed: int) -> RunConfig:
    """The run of one seed; it always goes on from its newest checkpoint."""
    return dataclasses.replace(config, seed=seed, resume="latest")
