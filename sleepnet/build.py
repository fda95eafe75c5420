"""From a configuration to the things it names: the task, the model, both agreeing with each other."""
import dataclasses

from sleepnet import seeds, tasks
from sleepnet.config import ModelConfig, RunConfig
from sleepnet.errors import UsageError
from sleepnet.models.hybrid import Hybrid
from sleepnet.tasks.source import Source


def task_of(config: RunConfig) -> Source:
    """The task that `config.task` names."""
    return tasks.get(config.task.name, **config.task.arguments)


def fit(model: ModelConfig, task: Source) -> ModelConfig:
    """`model` with the task's vocabulary and window where it leaves them open.

    Raises:
      UsageError: a vocabulary that is too small, or windows in which the task's labels and contexts would mix.
    """
    vocab_size, window = model.vocab_size or task.vocab_size, model.window or task.window
    if vocab_size < task.vocab_size:
        raise UsageError(f"model.vocab_size={vocab_size} is smaller than the {task.vocab_size} tokens of task {task.name}; use 0")
    if window != task.window:
        raise UsageError(
            f"model.window={window} cuts task {task.name} elsewhere than its own window of {task.window}; use 0 and set task.arguments.window"
        )
    if (count := model.memory_blocks.count) and (all(task.predicts) or list(task.predicts) != sorted(task.predicts)):
        raise UsageError(
            f"model.memory_blocks.count={count} stand between what sleeps and what predicts, and in task {task.title} one does not follow the other; "
            "use a task whose questions come after all else, or set it to 0"
        )
    if model.pad_id != task.pad:
        how = f"pads with {task.pad}" if task.pad >= 0 else "has no padding, and every token is one"
        raise UsageError(f"model.pad_id={model.pad_id}, but task {task.name} {how}: set it to {task.pad}")
    return dataclasses.replace(model, vocab_size=vocab_size, window=window)


def model_of(config: RunConfig, task: Source) -> Hybrid:
    """A model with fresh parameters, a function of `config.model` and `config.seed`."""
    return Hybrid(fit(config.model, task), seeds.rngs(config.seed))
