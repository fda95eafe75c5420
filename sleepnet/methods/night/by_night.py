"""What lives day after day: the steps of a day's examples are its night, before which an expert is grown, and that expert alone moves."""
import dataclasses

from sleepnet.errors import UsageError
from sleepnet.methods import base
from sleepnet.models import experts


@dataclasses.dataclass(frozen=True)
class ByNight(base.Method):
    """A method of one night after the other, over a stream of days; no method by itself."""

    grow: bool = True  # a new expert each night; False: all nights go into one

    def check(self, config, task):
        here = f"method.name={self.name!r}"
        if task.name != "days" or (task.kind, task.told) != ("stream", "today"):
            raise UsageError(f"{here} lives through days: it needs task.name='days' with task.arguments.kind='stream' and told='today'")
        if config.adapters.kind != "newest_expert":
            raise UsageError(f"adapters.kind={config.adapters.kind!r} with {here}, which moves the newest expert alone: set it to 'newest_expert'")
        size, first = config.train.batch_size, config.train.first_example
        if task.per_day % size or first % task.per_day:
            raise UsageError(f"task.arguments.per_day={task.per_day} must be a multiple of train.batch_size={size} and divide train.first_example={first}: a night is of one day")
        nights, most = self._nights(config, task), config.model.experts.count
        if nights > most:
            raise UsageError(f"train.steps={config.train.steps} are {nights} nights, and model.experts.count={most} has no expert for each: set it to {nights} or more")

    def check_start(self, config, task, params):
        nights, free = self._nights(config, task), experts.left(params)
        if self.grow and nights > free:
            raise UsageError(f"{nights} nights need as many experts, and of the {config.model.experts.count} in the model that this starts from {free} are still asleep: allocate more there, model.experts.count")

    def _nights(self, config, task):
        return -(-config.train.steps // self.every(config, task)) if self.grow else 1

    def every(self, config, task):
        return task.per_day // config.train.batch_size

    def night(self, params, memory):
        return experts.grow(params, only_first=not self.grow)

    def draw(self, task, config, batch):
        return {"day": batch["difficulty"]["day"]}

    def examined(self, task):
        return dataclasses.replace(task, told="nothing")


def part_of(part, params):
    """What of `params` is at the places of `part`, a tree of some of its leaves: what may change of whole parameters."""
    return {key: part_of(value, params[key]) for key, value in part.items()} if isinstance(part, dict) else params


def with_part(params, part):
    """`params` with the leaves of `part` in place of their own."""
    return {key: with_part(value, part[key]) if key in part else value for key, value in params.items()} if isinstance(part, dict) else part
